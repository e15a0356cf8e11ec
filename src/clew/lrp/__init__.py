"""Relevance: rules, the operations that they are for, the tape that applies them, and its account."""
