"""ContextCite the slow way: a pass for each ablation alone, the product of probabilities, Lasso by small steps."""

from __future__ import annotations

import numpy as np
import torch


def text_of(before, sources, separators, after, kept):
    """The words before, the sources that stay, the words behind; what stands before the first of them is dropped."""
    joined = ""
    for source, separator, keep in zip(sources, separators, kept, strict=True):
        if keep:
            joined += (separator if joined else "") + source
    return before + joined + after


@torch.no_grad()
def probabilities(model, ids, answer):
    """`p_t` of each token of an answer after others."""
    every = model(torch.tensor([[*ids, *answer]])).logits[0].double().softmax(-1)
    return torch.stack([every[len(ids) + t - 1, word] for t, word in enumerate(answer)])


def log_odds(p):
    """Of all tokens together."""
    together = p.prod()
    return float((together / (1 - together)).log())


def masks(sources, count, keep):
    """As the released code draws them."""
    return np.stack([np.random.RandomState(k).choice([False, True], sources, p=[1 - keep, keep]) for k in range(count)])


def weights(m, y, tokens, alpha):
    """The minimum of `|y/T − X w − b|²/2n + α|w|₁`, `X` standardised, by proximal gradient; of `m` as they are."""
    x, y = m.astype(np.float64), np.asarray(y) / tokens
    mean, deviation = x.mean(0), x.std(0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    x, n = (x - mean) / deviation, len(y)
    w, step = np.zeros(x.shape[1]), n / np.linalg.norm(x, 2) ** 2
    for _ in range(20_000):
        w = w - step * x.T @ (x @ w - (y - y.mean())) / n
        w = np.sign(w) * np.maximum(np.abs(w) - step * alpha, 0.0)
    return w / deviation * tokens, (y.mean() - mean @ (w / deviation)) * tokens


def context_cite(model, encode, before, sources, separators, after, answer, count=64, keep=0.5, alpha=0.01):
    """Scores of the sources, the intercept, and the log odds of each ablation."""
    m = masks(len(sources), count, keep)
    y = [log_odds(probabilities(model, encode(text_of(before, sources, separators, after, row)), answer)) for row in m]
    return *weights(m, y, len(answer), alpha), y
