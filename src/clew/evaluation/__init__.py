"""Protocols, runs, numbers and reports: which answer to trust."""
