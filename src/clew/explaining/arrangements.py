"""How the entries of an argument are arranged, by its shape and by the arguments that come with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..places import (
    Colours,
    Filled,
    Packed,
    Part,
    Places,
    Spectrogram,
    Tiles,
    Video,
    Waveform,
    by_ratio,
    by_size,
    by_words,
    single,
)
from ..streams import ModelCall


@dataclass(frozen=True)
class Observed:
    """One argument of a call with its scores, and what is known of the model.

    `patch` is what a convolution at the entrance showed (down, across); `config`, `processor` and `tokenizer` are the
    model's own, where it has them.
    """

    call: ModelCall
    name: str
    scores: Tensor
    patch: tuple[int, int] | None = None
    config: Any = None
    processor: Any = None
    tokenizer: Any = None

    @property
    def x(self) -> Tensor:
        """The argument."""
        return self.call.tensors()[self.name]

    @property
    def image_processor(self) -> Any:
        """What makes pictures ready, where it is known."""
        return getattr(self.processor, "image_processor", None) or self.processor

    def other(self, *names: str) -> Tensor | None:
        """Another argument, by the first of some names that there is."""
        tensors = self.call.tensors()
        return next((tensors[name].detach().cpu() for name in names if name in tensors), None)

    def fact(self, *names: str) -> Any:
        """A number or a list that the processor or the model's configuration has under one of some names."""
        for owner in self._owners():
            for name in names:
                if (found := getattr(owner, name, None)) is not None:
                    return found
        return None

    def _owners(self) -> Iterator[Any]:
        for part in ("image_processor", "video_processor", "feature_extractor"):
            yield getattr(self.processor, part, None)
        for part in ("vision_config", "audio_config", "encoder"):
            yield getattr(self.config, part, None)
        yield from (self.processor, self.config)


def arranged(seen: Observed) -> Places | None:
    """Places of sound, or of several pictures in one argument; None for what is no such thing."""
    return _sound(seen) or _packed(seen) or _filled(seen) or _tiles(seen)


# Sound


def _sound(seen: Observed) -> Places | None:
    """What transformers names as features or samples of sound: a waveform (batch, sample), or a spectrogram, of which
    the bands are as many as are known of the model; if that is not known, the shorter axis."""
    x, features = seen.x, seen.name.endswith("input_features")
    if not (features or seen.name.endswith("input_values")) or seen.scores.shape != x.shape:
        return None
    rate = seen.fact("sampling_rate")
    if x.ndim == 2 and not features:
        step = _number(seen.fact("inputs_to_logits_ratio"), max(1, x.shape[1] // 100))
        return Waveform(x=x, step=step, seconds=step / rate if rate else None)
    if x.ndim not in (3, 4):
        return None
    sizes, hop = tuple(x.shape[-2:]), seen.fact("hop_length")
    bands = next((n for n in (seen.fact("num_mel_bins"), seen.fact("feature_size")) if n in sizes), None)
    if rate and hop and bands:
        return Spectrogram(x=x, bands_first=sizes[0] == bands, seconds=hop / rate)
    if rate and (heard := _heard(seen, int(rate))) is not None:
        return Spectrogram(x=x, bands_first=heard[0], seconds=heard[1])
    return Spectrogram(x=x, bands_first=sizes[0] == (bands or min(sizes)))


def _heard(seen: Observed, rate: int) -> tuple[bool, float] | None:
    """Whether bands come before frames, and the seconds from one frame to the next: what the processor makes of a click
    after a quarter of a second, and of one half a second later."""
    extractor = getattr(seen.processor, "feature_extractor", None) or seen.processor
    spectra = list[Tensor]()
    for at in (rate // 4, 3 * rate // 4):
        wave = np.zeros(rate, np.float32)
        wave[at] = 1.0
        try:
            made = extractor(wave, sampling_rate=rate, return_tensors="pt")[seen.name]
        except (ValueError, TypeError, KeyError, RuntimeError, ImportError):  # it hears no such sound
            return None
        spectra.append(made.flatten(0, -3).float().mean(0))
    moved = spectra[0] - spectra[1]
    over = [moved.mean(1), moved.mean(0)]
    frames = max(over, key=lambda sums: float(sums.abs().max()))
    later = int(frames.argmin()) - int(frames.argmax())
    return (frames is over[1], 0.5 / later) if later > 0 else None


# Packed patches


def _packed(seen: Observed) -> Places | None:
    grids = next((t for n, t in seen.call.tensors().items() if _is_grid(n, t, seen)), None)
    if grids is None:
        return None
    counts = [(int(t), int(down), int(across)) for t, down, across in grids.tolist()]
    grouped = seen.x.ndim == 2  # patches that are still pictures come row by row
    merge = _groups(seen) if grouped else 1
    if any(down % merge or across % merge for _, down, across in counts):
        merge = 1
    patch, step = _number(seen.fact("patch_size"), 1), _number(seen.fact("temporal_patch_size"), 1)
    if not grouped:
        patch, step = seen.x.shape[-1], 1
    ends = torch.tensor([t * down * across for t, down, across in counts]).cumsum(0).tolist()
    spans = [slice(start, stop) for start, stop in zip([0, *ends], ends, strict=False)]
    return Packed(
        x=seen.x,
        examples=_owners(seen, spans),
        colours=_colours(seen),
        grids=counts,
        merge=merge,
        patch=patch,
        step=step,
    )


def _filled(seen: Observed) -> Places | None:
    """Patches of pictures of any size, each in a row of its own, with how many there are down and across."""
    shapes, x = seen.other("spatial_shapes"), seen.x
    if shapes is None or x.ndim != 3 or tuple(shapes.shape) != (len(x), 2) or int(shapes.prod(1).max()) > x.shape[1]:
        return None
    grids = [(int(down), int(across)) for down, across in shapes.tolist()]
    return Filled(x=x, examples=_rows(seen), colours=_colours(seen), grids=grids)


def _is_grid(name: str, value: Tensor, seen: Observed) -> bool:
    """Whether an argument counts the patches (time, down, across) of all pictures in this one."""
    same = name.endswith("grid_thw") and ("video" in name) == ("video" in seen.name)
    fits = same and value.ndim == 2 and value.shape[1] == 3 and seen.x.ndim in (2, 4)
    return fits and int(value.prod(1).sum()) == len(seen.x)


def _groups(seen: Observed) -> int:
    """How many patches on a side come as a group: what the processor does with a picture whose patches grow brighter
    row by row; without one what the configuration says."""
    merge, encode = _number(seen.fact("merge_size", "spatial_merge_size"), 1), seen.image_processor
    side, patch = 2 * merge, getattr(encode, "patch_size", None)
    if merge == 1 or not isinstance(patch, int) or side > 15:
        return merge
    grey = np.arange(side * side, dtype=np.uint8).reshape(side, side) * np.uint8(255 // (side * side))
    picture = np.kron(grey, np.ones((patch, patch), np.uint8))[..., None].repeat(3, 2)
    try:
        made = encode(images=[Image.fromarray(picture)], return_tensors="pt", do_resize=False)
        rows = made["pixel_values"].float().flatten(1).mean(1).argsort().tolist()
    except (ValueError, TypeError, KeyError, RuntimeError, AttributeError):  # it takes no such picture
        return merge
    return 1 if rows == list(range(side * side)) else merge


# Tiles


def _tiles(seen: Observed) -> Places | None:
    x, scores = seen.x, seen.scores
    shared = scores.ndim == x.ndim + 1
    colour = x.ndim >= 4 and (x.shape[-3] == 3 or seen.patch is not None)
    patch = seen.patch or _patch(seen)
    if x.ndim == 5 and (not colour or _is_video(seen)):
        first = not colour and x.shape[1] == 3  # else any volume
        if not colour and not first:
            return None
        return Video(x=x, examples=_rows(seen), colours=_colours(seen), patch=patch, channels_first=first)
    if not colour or (x.ndim == 4 and not shared) or x.ndim > 6:
        return None
    parts = list(_parts(seen))
    if not parts:
        return None
    per_row = x.shape[:-3].numel() // len(x)
    rows, owner = _rows(seen), dict[int, int]()
    for part in parts:
        owner[part.picture] = rows[part.first // per_row]
    examples = [owner.get(k, 0) for k in range(max(owner) + 1)]
    return Tiles(x=x, examples=examples, colours=_colours(seen), parts=parts, patch=patch)


def _parts(seen: Observed) -> Iterable[Part]:
    x = seen.x
    if x.ndim == 4:
        return single(x[:, None])
    if x.ndim == 6:
        ids, ratios = seen.other("aspect_ratio_ids"), seen.fact("supported_aspect_ratios")
        mask = seen.other("aspect_ratio_mask")
        if ids is not None and ratios and tuple(ids.shape) == tuple(x.shape[:2]):
            known = [[tuple(ratios[i - 1]) if i else None for i in row] for row in ids.tolist()]
            return by_ratio(known, x.shape[2])
        flat = x.flatten(0, 1)
        real = None if mask is None else mask.flatten(0, 1)[..., None, None].expand(*flat.shape[:2], *x.shape[-2:])
        return single(flat, None if real is None else real.ne(0))
    sizes = seen.other("image_sizes")
    if sizes is not None and (grids := _grids_of_sizes(seen, sizes)) is not None:
        return by_size(grids, x.shape[1])
    mask = seen.other("pixel_attention_mask")
    real = None if mask is None or mask.shape != (*x.shape[:2], *x.shape[-2:]) else mask.ne(0)
    ids = seen.other("input_ids")
    if seen.tokenizer is not None and ids is not None and len(ids) == len(x):
        words = [seen.tokenizer.convert_ids_to_tokens(row) for row in ids.tolist()]
        if (told := by_words(words, real, x)) is not None:
            return told
    return single(x, real)


def _grids_of_sizes(seen: Observed, sizes: Tensor) -> list[tuple[int, int]] | None:
    """Rows and columns of the tiles of pictures of some sizes, as processors choose them among resolutions."""
    pinpoints, (height, width) = seen.fact("image_grid_pinpoints"), seen.x.shape[-2:]
    if not isinstance(pinpoints, (list, tuple)) or len(sizes) != len(seen.x):
        return None
    chosen = [_best((down, across), pinpoints) for down, across in sizes.tolist()]
    grids = [(down // height, across // width) for down, across in chosen]
    return grids if all(0 < rows * columns < seen.x.shape[1] for rows, columns in grids) else None


def _best(size: tuple[int, int], choices: Sequence[Sequence[int]]) -> tuple[int, int]:
    """The resolution that keeps most of a picture's pixels, and of these the one that wastes least; the first such."""

    def kept(choice: Sequence[int]) -> tuple[int, int]:
        scale = min(choice[0] / size[0], choice[1] / size[1])
        pixels = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        return pixels, pixels - choice[0] * choice[1]

    found = max(choices, key=kept)
    return int(found[0]), int(found[1])


def _is_video(seen: Observed) -> bool:
    frames = seen.fact("num_frames")
    return "video" in seen.name or (isinstance(frames, int) and frames == seen.x.shape[1])


# What is known


def _rows(seen: Observed) -> list[int]:
    """The example of each row of the first axis."""
    if seen.scores.ndim == seen.x.ndim:
        return list(range(len(seen.x)))
    return _owners(seen, [slice(k, k + 1) for k in range(len(seen.x))])


def _owners(seen: Observed, spans: Sequence[slice]) -> list[int]:
    """The example of each picture, which are some rows of the argument: the one that gives it scores. A picture that
    none gives any is of the same example as the one before."""
    if seen.scores.ndim == seen.x.ndim:
        return list(range(len(spans)))
    found = list[int]()
    for span in spans:
        sizes = seen.scores[:, span].abs().flatten(1).sum(1)
        found.append(int(sizes.argmax()) if bool(sizes.any()) else (found or [0])[-1])
    return found


def _colours(seen: Observed) -> Colours | None:
    """By what pictures were normalized, where a processor says so."""
    owner = seen.image_processor
    mean, std = getattr(owner, "image_mean", None), getattr(owner, "image_std", None)
    return (mean, std) if isinstance(mean, (list, tuple)) and isinstance(std, (list, tuple)) else None


def _patch(seen: Observed) -> tuple[int, int]:
    """The size of patches that the configuration says: a number, or down and across, the last two sides of a tube."""
    found = next((v for v in map(seen.fact, ("patch_size", "tubelet_size")) if isinstance(v, (int, list, tuple))), 1)
    sides: list[Any] = [found, found] if isinstance(found, int) else list(cast("Sequence[Any]", found))[-2:]
    return (_number(sides[0], 1), _number(sides[-1], 1)) if sides else (1, 1)


def _number(value: Any, default: int) -> int:
    return value if isinstance(value, int) and value > 0 else default
