"""One page of a run: its numbers with intervals, curves, and examples."""
