"""What is explained: one number per example, made from a model's output."""

from .kinds import Classes, Contrast, Each, One, Similarity, Span, Target, Token
from .resolved import Resolved, resolve

__all__ = ["Classes", "Contrast", "Each", "One", "Resolved", "Similarity", "Span", "Target", "Token", "resolve"]
