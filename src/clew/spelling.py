"""What tokens look like one after the other: together they are the text, and no character is shown twice."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

BROKEN = "\ufffd"  # what a decoder writes for bytes that are no character yet


def spelled(ids: Sequence[int], decode: Callable[[Sequence[int]], str], special: Collection[int] = ()) -> list[str]:
    """What each token adds to the text before it; the tokenizer knows where spaces go.

    A character of several tokens stands at the first of them. Special tokens stand for themselves.
    """
    strings: list[str] = []
    start = 0
    while start < len(ids):
        stop = start
        if ids[start] in special:
            strings.append(decode([ids[start]]))
            start += 1
            continue
        while stop < len(ids) and ids[stop] not in special:
            stop += 1
        strings += _run(ids[start:stop], decode)
        start = stop
    return strings


def _run(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[str]:
    strings, shown = [""] * len(ids), ""
    waits: int | None = None  # the token that began a character which is not complete
    for end in range(1, len(ids) + 1):
        whole = decode(ids[:end])
        last = end == len(ids)
        clear = whole if last else whole.rstrip(BROKEN)
        if not clear.startswith(shown):
            if whole.endswith(BROKEN) and not last:  # some decoders break all characters of a run until it is complete
                waits = end - 1 if waits is None else waits
            else:  # decoders that tidy up may take back what they wrote
                strings[end - 1], shown, waits = decode([ids[end - 1]]), whole, None
            continue
        new, shown = clear[len(shown) :], clear
        if waits is not None and new:
            strings[waits] += new[0]
            new = new[1:]
            waits = None
        strings[end - 1] += new
        if len(clear) < len(whole) and waits is None:
            waits = end - 1
    return strings


def in_text(
    text: str, spans: Sequence[tuple[int, int]], names: Sequence[str], special: Sequence[bool], stop: int
) -> list[str]:
    """The characters that each token stands for, `text[:stop]` in all: with what no token covers before it.

    A character of several tokens stands at the first of them. Special tokens that have no characters go by their
    `names`.
    """
    strings, at = list[str](), 0
    for (start, end), name, added in zip(spans, names, special, strict=True):
        if added and start == end:
            strings.append(name)
            continue
        end = max(at, min(end, stop))
        strings.append(text[at:end])
        at = end
    if at < stop and strings:
        strings[-1] += text[at:stop]
    return strings
