"""A model with its batch and its target, as a method sees it, and the trace of one pass."""
