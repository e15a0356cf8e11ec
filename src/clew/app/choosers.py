"""Boxes to choose from: methods that work on a model, each in a sentence, and classes by a part of their name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from typing import Any

from ..models import LoadedModel
from ..requests import labels_of
from .components import AT_ONCE, QUEUED, guarded, status
from .offered_methods import OfferedMethods, described


class MethodChooser:
    """Methods of which those are offered that work on the chosen model; what the chosen ones do stands below."""

    def __init__(
        self,
        gr: Any,
        offered: OfferedMethods,
        model: Any,
        usual: Sequence[str],
        label: str,
        elem_id: str,
        several: bool,
    ) -> None:
        """`model`: the box in which the model is chosen. `usual`: what is chosen at first."""
        self._gr, self._offered, self._usual, self._several, self._model = gr, offered, usual, several, model
        offer = offered.offer(model.value)
        kept = offer.kept(usual, usual)
        self.names = gr.Dropdown(
            list(offer.names), value=kept if several else kept[0], multiselect=several, label=label, elem_id=elem_id,
            filterable=True,
        )  # fmt: skip
        self.said = gr.HTML(described(offer, kept), elem_id=f"{elem_id}-said")
        self.names.change(self._described, [model, self.names], self.said, **AT_ONCE)
        self.places = [self.names, self.said]

    def shown_for(self, name: str, chosen: Any) -> list[Any]:
        """The box and the sentences for a model; what was chosen stays where it works."""
        offer = self._offered.offer(name)
        kept = offer.kept(_listed(chosen), self._usual)
        value = kept if self._several else kept[0]
        return [self._gr.update(choices=list(offer.names), value=value), described(offer, kept)]

    def tried_after(self, event: Any) -> None:
        """After an event that chose a model try the methods on it; what was chosen meanwhile stays where it works."""
        event.then(self._trial, [self._model, self.names], self.said, **QUEUED).then(
            self.shown_for, [self._model, self.names], self.places, **AT_ONCE
        )

    def _trial(self, name: str, chosen: Any) -> Generator[str]:
        def steps() -> Generator[str]:
            for done, whole in self._offered.trial(name):
                yield status(f"trying the methods on {name} …", done, whole)
            yield self._described(name, chosen)

        work = steps()
        while (said := guarded(lambda: next(work, None))) is not None:
            yield said

    def _described(self, name: str, chosen: Any) -> str:
        return described(self._offered.offer(name), _listed(chosen))


def _listed(chosen: Any) -> list[str]:
    return [chosen] if isinstance(chosen, str) else list(chosen or [])


def target_box(gr: Any, loaded: LoadedModel, label: str, elem_id: str, **more: Any) -> Any:
    """What to explain: typed freely, with the classes of the model that hold what was typed to choose from."""
    return gr.Dropdown(
        classes_of(loaded), value=None, label=label, elem_id=elem_id, allow_custom_value=True, filterable=True, **more
    )


def read_targets(**places: int) -> str:
    """JavaScript for an event that reads boxes of targets, whose ids are given with their places among its inputs.

    Gradio keeps the last value where all of it was deleted, so that an empty box would ask for what it held before.
    """
    emptied = "".join(
        f"const {name} = document.querySelector('#{name.replace('_', '-')} input'); "
        f"if ({name} && !{name}.value) given[{at}] = null; "
        for name, at in places.items()
    )
    return f"(...given) => {{ {emptied}return given; }}"


def classes_of(loaded: LoadedModel) -> list[tuple[str, str]]:
    """The classes of a model as they are shown and as they are asked for; of several with one name by number."""
    labels = [str(label) for label in labels_of(loaded) or ()]
    often = Counter(labels)
    return [(label, label) if often[label] == 1 else (f"{label} ({i})", str(i)) for i, label in enumerate(labels)]
