"""What tokens look like one after the other: together they are the text, and no character is shown twice."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

BROKEN = "\ufffd"  # what a decoder writes for bytes that are no character yet
_LONGEST, _CONTEXT = 64, 16  # tokens decoded at a time, and of those before


def decode_incrementally(
    ids: Sequence[int], decode: Callable[[Sequence[int]], str], special: Collection[int] = ()
) -> list[str]:
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
    begin = 0  # what is decoded begins a few tokens before, so that spaces come out right
    waits: int | None = None  # the token that began a character which is not complete
    for end in range(1, len(ids) + 1):
        whole = decode(ids[begin:end])
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
        elif not new and end > 1 and waits is None:  # decoders that leave out what is no character yet
            waits = end - 1
        strings[end - 1] += new
        if len(clear) < len(whole) and waits is None:
            waits = end - 1
        if waits is None and end - begin > _LONGEST:
            for start in range(end - _CONTEXT, end - _CONTEXT + 4):  # where no character is cut
                if BROKEN not in (near := decode(ids[start:end])):
                    begin, shown = start, near
                    break
    return strings


def spans_of(text: str, strings: Sequence[str]) -> list[tuple[int, int]] | None:
    """Characters of tokens that spell a text, or its beginning or end; None where they do not."""
    whole = "".join(strings)
    if not whole or not (text.startswith(whole) or text.endswith(whole)):
        return None
    at = 0 if text.startswith(whole) else len(text) - len(whole)
    found: list[tuple[int, int]] = []
    for string in strings:
        found.append((at, at + len(string)) if string else (max(at - 1, 0), max(at, 1)))  # a part of the one before
        at += len(string)
    return found


def split_by_spans(
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
