"""What it costs to explain every token of an answer: stories260K, 40 tokens, in times of a floor written by hand (one
forward pass and one backward pass for each token, by plain autograd).

    python measurements/speed_generation.py --model DIR [--rounds 9]

Ways alternate in one process; captum, inseq and flashtrace come last, where they are installed: other ways are slower
for some time after them. Writes docs/cost-of-answers.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from report import when_and_where, write_page

import clew

TOKENS = 40
PROMPTS = (9, 70)
STORY = (
    "Once upon a time, there was a little girl who liked to play in the park with her big red ball. One day, she saw a "
    "small dog that was sad, and she wanted to help it. The dog had lost its mom and did not know where to go. The "
    "girl said, Do not be sad, I will help you find your mom. They looked"
)
METHODS = ("attn_lrp", "input_x_gradient", "attention_rollout", "generic_attribution", "beyond_intuition_token")


def by_hand(model: Any, ids: torch.Tensor, first: int) -> None:
    """The floor: logits of one pass, and the gradient of each token's."""
    x = model.get_input_embeddings()(ids).detach().requires_grad_()
    logits = model(inputs_embeds=x, use_cache=False).logits
    for p in range(first, ids.shape[1]):
        (g,) = torch.autograd.grad(logits[0, p - 1, ids[0, p]], x, retain_graph=True)
        (x * g).sum(-1)


def captum_way(model: Any, ids: torch.Tensor, first: int) -> None:
    """captum: input × gradient of each token's logit, a call each."""
    from captum.attr import InputXGradient

    x = model.get_input_embeddings()(ids).detach()

    def score(embeds: torch.Tensor, place: int) -> torch.Tensor:
        return model(inputs_embeds=embeds, use_cache=False).logits[:, -1, ids[0, place]]

    for p in range(first, ids.shape[1]):
        prefix = x[:, :p].clone().requires_grad_()
        InputXGradient(score).attribute(prefix, additional_forward_args=(p,))


def inseq_way(loaded: Any) -> Callable[[str, str], Any]:
    """inseq: input × gradient of each token's probability."""
    import inseq

    given = inseq.load_model(loaded.model, "input_x_gradient", tokenizer=loaded.tokenizer)
    return lambda prompt, answer: given.attribute(prompt, prompt + answer, show_progress=False)


def flashtrace_way(loaded: Any) -> Callable[[str, str], Any]:
    """flashtrace: information flow routes of each token."""
    from flashtrace import FlashTrace

    given = FlashTrace(loaded.model, loaded.tokenizer)
    return lambda prompt, answer: given.trace(prompt=prompt, target=answer, method="ifr-matrix")


PEERS = {"inseq": ("inseq, input × gradient", inseq_way), "flashtrace": ("flashtrace, ifr-matrix", flashtrace_way)}


def times(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each way, by turns."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            found[name].append(time.perf_counter() - start)
    return {name: np.array(values[1:]) for name, values in found.items()}


def measured(loaded: Any, first: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Milliseconds, and times of the floor (the least of both, as other programs disturb some rounds)."""
    ids = loaded.tokenizer(STORY, return_tensors="pt").input_ids[:, :first]
    ids = loaded.model.generate(ids, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False, pad_token_id=0)
    answer = ids[0, first:].tolist()
    ways: dict[str, Callable[[], Any]] = {"floor, by hand": lambda: by_hand(loaded.model, ids, first)}
    for name in METHODS:
        for size in (TOKENS, 8):
            ways[f"{name}, {size} at a time"] = lambda name=name, size=size: clew.explain_generation(
                loaded, ids[:, :first], answer=answer, method=name, batch_size=size
            )
    found = times(ways, rounds)
    if find_spec("captum") is not None:
        found |= {"captum, input × gradient": times({"": lambda: captum_way(loaded.model, ids, first)}, rounds)[""]}
    prompt = loaded.tokenizer.decode(ids[0, :first], skip_special_tokens=True)
    written = loaded.tokenizer.decode(ids[0], skip_special_tokens=True)[len(prompt) :]
    for package, (name, peer) in PEERS.items():
        if find_spec(package) is not None:
            way = peer(loaded)
            found[name] = times({"": lambda way=way: way(prompt, written)}, 1)[""]
    floor = found["floor, by hand"].min()
    return {name: (1000 * float(t.min()), float(t.min() / floor)) for name, t in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder with stories260K")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    loaded = clew.load(f"hf:{given.model}")
    columns = [measured(loaded, first, given.rounds) for first in PROMPTS]
    rows = [
        f"| {name} | " + " | ".join(f"{one[name][0]:.0f} ms | {one[name][1]:.2f}" for one in columns) + " |"
        for name in columns[0]
    ]
    for row in rows:
        print(row)
    head = " | ".join(f"after {n} tokens | × floor" for n in PROMPTS)
    write_page("cost-of-answers.md", [
        "# What explaining an answer costs", "",
        f"{TOKENS} tokens of an answer by stories260K, a small Llama, in times of a floor written by hand: one forward "
        "pass over prompt and answer, and one backward pass for each token, by plain autograd (input × gradient, "
        "nothing verified). The least of several rounds, in which ways alternate in one process. "
        f"Made by `python measurements/speed_generation.py` ({when_and_where()}).",
        "", f"| way | {head} |", "|---|" + "---|" * 2 * len(PROMPTS), *rows,
    ])  # fmt: skip


if __name__ == "__main__":
    main()
