"""Numbers that say how good a map is: arrays in, numbers out, each as its paper defines it.

`segmentation` compares heatmaps with masks, `perturbation` and `flipping` remove pixels or tokens in the order of their
scores and watch the model, `eraser_scores` compares with rationales that humans marked; `top_k_drop` and
`linear_datamodeling_score` are of scores of sources.
"""

from .curves import RANGES, Curves, area_between, auc, srg
from .eraser import PRF, SoftScores, comprehensiveness, eraser_scores, f1_at_k, soft_scores, sufficiency, token_prf
from .eraser_files import top_k_predictions, write_top_k
from .flipping import flipped_tokens, flipping
from .perturbation import ERASERS, blurred, perturbation, removed
from .segmentation import (
    SegmentationScores,
    f1_per_row,
    precision_recall,
    relevance_inside,
    segmentation,
    threshold_of,
)
from .sources import linear_datamodeling_score, top_k_drop

__all__ = [
    "ERASERS",
    "PRF",
    "RANGES",
    "Curves",
    "SegmentationScores",
    "SoftScores",
    "area_between",
    "auc",
    "blurred",
    "comprehensiveness",
    "eraser_scores",
    "f1_at_k",
    "f1_per_row",
    "flipped_tokens",
    "flipping",
    "linear_datamodeling_score",
    "perturbation",
    "precision_recall",
    "relevance_inside",
    "removed",
    "segmentation",
    "soft_scores",
    "srg",
    "sufficiency",
    "threshold_of",
    "token_prf",
    "top_k_drop",
    "top_k_predictions",
    "write_top_k",
]
