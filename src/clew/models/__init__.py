"""Declarations of model families, checks of their heads and files, and the errors for unknown models."""
