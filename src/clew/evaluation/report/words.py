"""What a report says in sentences: what to beware of, and which method the letters put first."""

from __future__ import annotations

from collections.abc import Sequence

from .groups import Column, Group

CONTROL = "random"
_MOST = 8  # names in a sentence


def warnings(group: Group) -> list[str]:
    """What keeps a table's numbers from being of all examples."""
    said: list[str] = []
    for run in group.runs:
        if not run.manifest.get("complete", True):
            said.append(f"{run.path} is not complete: these numbers are of the examples done so far.")
    least, _ = group.kept
    if least < group.examples:
        said.append(
            f"{group.examples - least} of {group.examples} examples are left out, as not every method has a value for "
            "them. (A method without any value keeps none out.)"
        )
    if empty := [row.label for row in group.rows if not any(c.numbers[row.label].n for c in group.columns)]:
        said.append(f"Without any value: {', '.join(empty)}.")
    return said


def verdicts(group: Group) -> list[str]:
    """For each headline metric which method is best, and from which it and `random` are not told apart."""
    return [_verdict(group, column) for column in group.columns if column.letters and column.comparisons]


def _verdict(group: Group, column: Column) -> str:
    best, *others = column.ranked
    alike = [label for label in others if not _apart(column, best, label)]
    said = f"By {column.metric.name} {best} is best"
    if len(alike) == len(others):
        said += ", but not told apart from any other"
    else:
        said += f", and not told apart from {_names(alike)}" if alike else ", and told apart from all others"
    return f"{said}{_against_control(group, column)}."


def _against_control(group: Group, column: Column) -> str:
    """What the letters say of methods beside random scores, each beside those of its own run if it has them."""
    controls = {id(row.run): row.label for row in group.rows if row.method == CONTROL and row.label in column.letters}
    only = next(iter(controls.values())) if len(controls) == 1 else None
    pairs = {
        row.label: control
        for row in group.rows
        if row.label in column.letters and (control := controls.get(id(row.run), only)) not in (None, row.label)
    }
    if not pairs:
        return ""
    place = {label: i for i, label in enumerate(column.ranked)}
    apart = [label for label in column.ranked if label in pairs and _apart(column, label, pairs[label])]
    better = [label for label in apart if place[label] < place[pairs[label]]]
    worse = [label for label in apart if label not in better]
    if not apart:
        examples = f"{column.n} example{'s' * (column.n != 1)}"
        return f"; no method is told apart from {CONTROL} on {examples}: take more"
    parts = (
        [f"{_names(better)} {_verb(better)} better than {CONTROL}"] if better else [f"none is better than {CONTROL}"]
    )
    return "; " + ", ".join([*parts, *([f"{_names(worse)} {_verb(worse)} worse"] if worse else [])])


def _apart(column: Column, one: str, other: str) -> bool:
    return not set(column.letters[one]) & set(column.letters[other])


def _verb(labels: Sequence[str]) -> str:
    return "is" if len(labels) == 1 else "are"


def _names(labels: Sequence[str]) -> str:
    if len(labels) > _MOST:
        return f"{', '.join(labels[:_MOST])} and {len(labels) - _MOST} more"
    return " and ".join(filter(None, [", ".join(labels[:-1]), labels[-1]]))
