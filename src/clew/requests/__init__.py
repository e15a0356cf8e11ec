"""Turns what users type or click into inputs, targets and results, for the command line and the page."""
