"""The one place that intercepts torch, and the twin of a model that is explained in its place."""
