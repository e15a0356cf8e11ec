"""The scores of the ERASER benchmark (DeYoung et al. 2020): explanations against rationales that humans marked."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, cast, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError, OptionError, optional_import
from .eraser_files import Corpus, Documents, Key, Row, Rows, Span, everywhere, numbers, ranking, read_corpus

AOPC_THRESHOLDS = (0.01, 0.05, 0.1, 0.2, 0.5)

_CLASS, _FULL, _CURVE = "classification", "classification_scores", "thresholded_scores"
_WITHOUT, _ALONE = "comprehensiveness_classification_scores", "sufficiency_classification_scores"


class PRF(NamedTuple):
    """Precision, recall and their harmonic mean, each from 0 to 1 (0 where there is nothing to divide by)."""

    p: float
    r: float
    f1: float


class SoftScores(NamedTuple):
    """How well scores of words rank a rationale: areas under curves, each from 0 to 1, or NaN (see `soft_scores`)."""

    auprc: float
    average_precision: float
    roc_auc: float


def eraser_scores(
    predictions: Rows,
    annotations: Rows,
    documents: Documents,
    *,
    iou_thresholds: Sequence[float] = (0.5,),
    aopc_thresholds: Sequence[float] = AOPC_THRESHOLDS,
    variant: str = "paper",
) -> dict[str, Any]:
    """All scores that a predictions file of ERASER allows (DeYoung et al. 2020, sec. 4).

    Of hard predictions `iou_scores` (a list, by threshold), `rationale_prf` (equal spans) and `token_prf`; of soft ones
    `token_soft_metrics`; of classes and their probabilities `classification_scores`. What the file lacks is left out.
    An annotated document without a prediction counts as one with no span. Evidence of no token, of which ERASER's film
    reviews have some, is a span that nothing matches. F1 is that of the mean precision and recall for "macro" IoU, and
    the mean of documents' F1 for `instance_macro`.

    Args:
        predictions: a file with one JSON object per line, or the objects: `annotation_id`, `rationales` and so on.
        annotations: the same for what humans marked, with `evidences`.
        documents: where their files lie (a folder or a zip file), or from docid to raw text or list of tokens.
        iou_thresholds: a span is found if its intersection over union with some true span reaches this, 0 to 1.
        aopc_thresholds: fractions whose `thresholded_scores` are averaged; none: leave the average out.
        variant: "paper", positions count tokens; "beyond_intuition", they count characters, as its released code does.

    Raises:
        InputError: naming what is missing, unknown, twice there, or does not fit its document.
        OptionError: an unknown variant, or thresholds out of range.
    """
    if not all(0 < t <= 1 for t in iou_thresholds):
        raise OptionError("thresholds of intersection over union", expected="above 0, at most 1", got=[*iou_thresholds])
    corpus = read_corpus(predictions, annotations, documents, variant)
    found: dict[str, Any] = {}
    if corpus.predicted is not None:
        spans, truth = corpus.predicted, corpus.truth
        found["iou_scores"] = _ious(truth, spans, iou_thresholds)
        found["rationale_prf"] = _agreement(truth, spans)
        found["token_prf"] = _agreement(_tokens(truth), _tokens(spans))
    if corpus.soft is not None:
        found["token_soft_metrics"] = _soft(corpus.truth, corpus.soft)
    classes = _classification(corpus, aopc_thresholds)
    if classes is not None:
        found["classification_scores"] = classes
    if not found:
        expected = "hard_rationale_predictions, soft_rationale_predictions or classification"
        raise InputError("the predictions have nothing to score", expected=expected)
    return found


# Of one document


def token_prf(rationale: ArrayLike, predicted: ArrayLike) -> PRF:
    """Precision, recall and F1 of the words that a prediction marks; both (word,) true or false, or 1 and 0.

    Raises `InputError` for other values, and for two of different lengths.
    """
    true, found = _mask(rationale), _mask(predicted)
    if true.shape != found.shape:
        raise InputError("the two mark words of different documents", expected=true.shape, got=found.shape)
    return _prf(int((true & found).sum()), int(true.sum()), int(found.sum()))


@overload
def f1_at_k(rationale: ArrayLike, word_scores: ArrayLike, k: int) -> float: ...
@overload
def f1_at_k(rationale: ArrayLike, word_scores: ArrayLike, k: Sequence[int]) -> NDArray[np.float64]: ...
def f1_at_k(rationale: ArrayLike, word_scores: ArrayLike, k: int | Sequence[int]) -> float | NDArray[np.float64]:
    """F1 of the `k` words with the largest scores, for one k or for several.

    `rationale` (word,) is true where humans marked a word; `word_scores` may be those of its first words only, where
    the model did not see more: the others cannot be found, but are counted. Of equal scores the earlier word comes
    first; if there are fewer than k scores, all their words are taken. 0 to 1; 0 without a rationale. One k, an integer
    of at least 1, gives a float, several give (k,).

    Raises `InputError` for scores that are none, NaN, or more than there are words, `OptionError` for another k.
    """
    true, order = _mask(rationale), ranking(word_scores)
    several = np.atleast_1d(np.asarray(k))
    if len(order) > len(true) or not len(order):
        raise InputError("the scores are not of this document", expected=f"1 to {len(true)} words", got=len(order))
    if several.dtype.kind not in "iu" or (several < 1).any():
        raise OptionError("no number of words", expected="integers of at least 1", got=k)
    taken = np.minimum(several, len(order))
    found = np.cumsum(true[order])[taken - 1]
    values = 2 * found / (taken + true.sum())
    return float(values[0]) if np.ndim(k) == 0 else values


def soft_scores(rationale: ArrayLike, scores: ArrayLike) -> SoftScores:
    """How well scores (word,) rank a rationale (word,): AUPRC by trapezoids, average precision, area under the ROC.

    The last two are NaN where all words, or none, are marked; there AUPRC is what scikit-learn makes of it, 1 or ½.
    Raises `InputError` for scores of another length, none at all, or not finite.
    """
    metrics = optional_import("sklearn.metrics", extra="bench", purpose="compute areas under curves")
    true, values = _mask(rationale), numbers(scores)
    if true.shape != values.shape or not len(true) or not np.isfinite(values).all():
        got = f"shape {values.shape}, {int((~np.isfinite(values)).sum())} not finite"
        raise InputError("scores and rationale do not fit", expected=f"{len(true)} finite scores, at least 1", got=got)
    if not true.any():
        return SoftScores(0.5, math.nan, math.nan)  # recall is 1 throughout, then 0, where precision is set to 1
    precision, recall, _ = metrics.precision_recall_curve(true, values)
    auprc = float(metrics.auc(recall, precision))
    if true.all():
        return SoftScores(auprc, math.nan, math.nan)
    average, roc = metrics.average_precision_score(true, values), metrics.roc_auc_score(true, values)
    return SoftScores(auprc, float(average), float(roc))


def spans_of(mask: ArrayLike) -> list[Span]:
    """The runs of marked words [start, end) of a mask (word,), in order."""
    edges = np.flatnonzero(np.diff(_mask(mask).astype(np.int8), prepend=0, append=0))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def mask_of(spans: Sequence[Span], length: int) -> NDArray[np.bool_]:
    """The mask (length,) of the words in spans [start, end), which may overlap."""
    mask = np.zeros(length, dtype=bool)
    for start, end in spans:
        if not 0 <= start <= end <= length:
            raise InputError("a span reaches out of its document", expected=f"0 to {length}", got=(start, end))
        mask[start:end] = True
    return mask


# Of probabilities


def comprehensiveness(full: ArrayLike, without: ArrayLike, classes: ArrayLike | None = None) -> NDArray[np.float64]:
    """`p_c - p_c(without the rationale)` (…), from probabilities (…, class) of the text and of what is left of it.

    -1 to 1; large where the rationale is needed. `classes` (…) are by default those that the whole text is taken for.
    The two may have different leading axes that broadcast: `without` (threshold, example, class), averaged over the
    first axis, gives the AOPC.

    Raises `InputError` for values outside 0 to 1, other classes, and axes that do not broadcast.
    """
    return _drop(full, without, classes)


def sufficiency(full: ArrayLike, alone: ArrayLike, classes: ArrayLike | None = None) -> NDArray[np.float64]:
    """`p_c - p_c(the rationale alone)` (…), -1 to 1: small where the rationale is enough.

    Otherwise, and in what it raises, as `comprehensiveness`.
    """
    return _drop(full, alone, classes)


def _drop(full: ArrayLike, reduced: ArrayLike, classes: ArrayLike | None) -> NDArray[np.float64]:
    p, q = _probabilities(full), _probabilities(reduced)
    if p.shape[-1] != q.shape[-1]:
        raise InputError("these are probabilities of different classes", expected=p.shape[-1], got=q.shape[-1])
    chosen = p.argmax(-1) if classes is None else np.asarray(classes)
    if chosen.dtype.kind not in "iu" or (chosen < 0).any() or (chosen >= p.shape[-1]).any():
        raise InputError("no classes", expected=f"integers from 0 to {p.shape[-1] - 1}", got=chosen)
    try:
        difference = p - q
        index = np.broadcast_to(chosen, difference.shape[:-1])[..., None]
    except ValueError as error:
        got = f"{p.shape} and {q.shape}, classes {chosen.shape}"
        raise InputError("these do not belong together", expected="leading axes that broadcast", got=got) from error
    return np.take_along_axis(difference, index, -1)[..., 0]


def _probabilities(values: ArrayLike) -> NDArray[np.float64]:
    found = numbers(values)
    # Files hold rounded numbers.
    if not found.ndim or not found.shape[-1] or not ((found >= -1e-6) & (found <= 1 + 1e-6)).all():
        span = f"{np.min(found)} to {np.max(found)}" if found.size else f"shape {found.shape}"
        raise InputError("these are no probabilities", expected="(…, class) from 0 to 1", got=span)
    return found


# Of many documents


def _prf(both: int, true: int, found: int) -> PRF:
    precision, recall = both / found if found else 0.0, both / true if true else 0.0
    return PRF(precision, recall, _harmonic(precision, recall))


def _harmonic(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision and recall else 0.0


def _mean(values: Collection[float]) -> float:
    return float(np.mean(list(values))) if values else math.nan


def _mask(values: ArrayLike) -> NDArray[np.bool_]:
    found = np.asarray(values)
    if found.ndim != 1 or found.dtype.kind not in "biuf" or not np.isin(found, (0, 1)).all():
        raise InputError("this marks no words", expected="(word,) true or false", got=f"{found.dtype} {found.shape}")
    return found.astype(bool)


def _tokens(spans: Mapping[Key, Sequence[Span]]) -> dict[Key, list[int]]:
    return {key: [token for start, end in some for token in range(start, end)] for key, some in spans.items()}


def _agreement(
    truth: Mapping[Key, Collection[Hashable]], found: Mapping[Key, Collection[Hashable]]
) -> dict[str, dict[str, float]]:
    """Agreement of sets: over all documents together, and as the mean over those where either has something."""
    pairs = [(set(truth.get(key, ())), set(found.get(key, ()))) for key in sorted({*truth, *found})]
    counts = [(len(t & f), len(t), len(f)) for t, f in pairs if t or f]
    each = np.array([_prf(*one) for one in counts])
    macro = PRF(*map(float, each.mean(0))) if counts else PRF(0.0, 0.0, 0.0)
    micro = _prf(*(sum(one[i] for one in counts) for i in range(3)))
    return {"instance_macro": macro._asdict(), "instance_micro": micro._asdict()}


def _ious(
    truth: Mapping[Key, Collection[Span]], found: Mapping[Key, Collection[Span]], thresholds: Sequence[float]
) -> list[dict[str, Any]]:
    """Spans that overlap enough with some true one, among all that are predicted and among all true ones, as sets."""
    best = {
        key: [max((span_iou(s, t) for t in truth.get(key, ())), default=0.0) for s in set(found[key])] for key in found
    }
    sides = [{key: len(set(spans)) for key, spans in side.items() if spans} for side in (found, truth)]
    scores: list[dict[str, Any]] = []
    for threshold in thresholds:
        hits = {key: sum(value >= threshold for value in values) for key, values in best.items()}
        micro = [sum(hits.values()) / sum(side.values()) if side else 0.0 for side in sides]
        macro = [_mean([hits.get(key, 0) / n for key, n in side.items()]) if side else 0.0 for side in sides]
        named = {name: PRF(p, r, _harmonic(p, r))._asdict() for name, (p, r) in (("micro", micro), ("macro", macro))}
        scores.append({"threshold": float(threshold), **named})
    return scores


def span_iou(a: Span, b: Span) -> float:
    """Intersection over union of two spans [start, end), one of which is not empty."""
    both = max(0, min(a[1], b[1]) - max(a[0], b[0]))
    return both / (a[1] - a[0] + b[1] - b[0] - both)


def _soft(truth: Mapping[Key, Sequence[Span]], soft: Mapping[Key, NDArray[np.float64]]) -> dict[str, float]:
    missing = [key for key in truth if key not in soft]
    if missing:
        raise InputError(
            f"{len(missing)} annotated documents have no soft scores",
            expected="scores for each, as none can be made up for a missing one",
            got=", ".join(map(str, missing[:3])),
            todo="score those documents too, or leave their annotations out",
        )
    each = [soft_scores(mask_of(truth.get(key, ()), len(scores)), scores) for key, scores in soft.items()]
    both = [one for one in each if not math.isnan(one.roc_auc)]
    return {
        "auprc": _mean([one.auprc for one in each]),
        "average_precision": _mean([one.average_precision for one in both]),
        "roc_auc_score": _mean([one.roc_auc for one in both]),
    }


def _classification(corpus: Corpus, thresholds: Sequence[float]) -> dict[str, Any] | None:
    rows = list(corpus.rows.values())
    has = {name: everywhere(rows, name) for name in (_CLASS, _FULL, _WITHOUT, _ALONE, _CURVE)}
    if not any(has.values()):
        return None
    needed = [_CLASS, _FULL] if any(has[name] for name in (_WITHOUT, _ALONE, _CURVE)) else [_CLASS]
    lacking = [name for name in needed if not has[name]]
    missing = [name for name in corpus.annotations if name not in corpus.rows]
    if lacking or missing:
        raise InputError(
            "classes are predicted, but not for all that is annotated" if missing else f"{lacking[0]!r} is missing",
            expected=f"{_CLASS}, and with reduced texts {_FULL}, in each prediction, one for each annotation",
            got=f"none for {missing[:3]}" if missing else f"{[name for name in has if has[name]]}",
        )
    labels = sorted(rows[0][_FULL]) if isinstance(rows[0].get(_FULL), Mapping) else []
    true = [_label(corpus.annotations[name], f"the annotation {name!r}", labels) for name in corpus.rows]
    guess = [_label(row, f"the prediction {name!r}", labels) for name, row in corpus.rows.items()]
    metrics = optional_import("sklearn.metrics", extra="bench", purpose="report precision and recall of classes")
    report = metrics.classification_report(true, guess, output_dict=True, zero_division=0)
    found: dict[str, Any] = {"accuracy": float(metrics.accuracy_score(true, guess)), "prf": _plain(report)}
    if not has[_FULL]:
        return found
    full, classes = _table(rows, _FULL, labels), np.array([labels.index(label) for label in guess])
    for name, field in (("comprehensiveness", _WITHOUT), ("sufficiency", _ALONE)):
        if has[field]:
            reduced = _table(rows, field, labels)
            found[name] = float(_drop(full, reduced, classes).mean())
            found[f"{name}_entropy"] = float((_entropy(full) - _entropy(reduced)).mean())
            found[f"{name}_kl"] = float(_entropy(reduced, full).mean())
    if has[_CURVE] and len(thresholds):
        found["aopc_thresholds"] = [float(t) for t in thresholds]
        steps = [_at_thresholds(row, thresholds) for row in rows]
        for name, field in (("comprehensiveness", _WITHOUT), ("sufficiency", _ALONE)):
            if everywhere([step for one in steps for step in one], field):
                reduced = np.stack([_table([one[i] for one in steps], field, labels) for i in range(len(thresholds))])
                points = _drop(full, reduced, classes).mean(1)
                found[f"{name}_aopc"], found[f"{name}_aopc_points"] = float(points.mean()), points.tolist()
    return found


def _label(row: Row, where: str, labels: Sequence[str]) -> str:
    label = row.get(_CLASS)
    if not isinstance(label, str) or (labels and label not in labels):
        raise InputError(f"{where} has no known class", expected=labels or "a string", got=repr(label))
    return label


def _table(rows: Sequence[Row], name: str, labels: Sequence[str]) -> NDArray[np.float64]:
    """(example, class) from one dictionary of probabilities for each example."""
    for given in (row[name] for row in rows):
        if not isinstance(given, Mapping) or sorted(given) != list(labels):
            raise InputError(f"{name!r} has no number for each class", expected=labels or "an object", got=given)
    return _probabilities([[row[name][label] for label in labels] for row in rows])


def _at_thresholds(row: Row, thresholds: Sequence[float]) -> list[Row]:
    steps = cast("Sequence[Row]", row[_CURVE])
    found = [[step for step in steps if abs(float(step.get("threshold", math.nan)) - t) < 1e-9] for t in thresholds]
    if not all(len(some) == 1 for some in found):
        raise InputError(
            f"{_CURVE} of the prediction {row['annotation_id']!r} are not those asked for",
            expected=f"each of {list(thresholds)} once",
            got=[step.get("threshold") for step in steps],
            todo="pass aopc_thresholds=(…) with the thresholds that the predictions have, or none",
        )
    return [some[0] for some in found]


def _entropy(p: NDArray[np.float64], q: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Entropy (…) of distributions (…, class) in nats, or their divergence from `q`; each is made to sum to 1."""
    stats = optional_import("scipy.stats", extra="bench", purpose="compute entropies")
    return np.asarray(stats.entropy(p, q, axis=-1))


def _plain(report: Any) -> Any:
    return {k: _plain(v) for k, v in report.items()} if isinstance(report, dict) else float(report)
