"""Which γ the picture's tower of a chat model should have: share of the relevance in the quarter that decides, on
`mini:digits-chat`. Half of the pictures choose, the other half reports.

    python measurements/chat_rules.py [--pictures 60]
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from report import interval, when_and_where, write_page

import clew
from clew.minis.asked_digits import SIZE, AskedDigits, compose_asked, quarter_mask
from clew.rules import Gamma

GAMMAS = (0.05, 0.25, 1.0, 2.0, 5.0)


def composites() -> dict[str, dict[str, Any]]:
    """Rule sets by name."""
    plain = dict(clew.RULE_SETS["attn_lrp"])
    found = {"attn_lrp": plain, "cp_lrp": dict(clew.RULE_SETS["cp_lrp"])}
    for g in GAMMAS:
        found[f"attn_lrp, linear@image γ={g}"] = {**plain, "linear@image": Gamma(g)}
    return found


def shares(model: Any, one: AskedDigits, rules: dict[str, Any]) -> tuple[float, float]:
    """Of the positive relevance of the picture that in the asked quarter; of the question's words that of the two."""
    inputs = {"images": [one.image], "text": one.question}
    found = clew.explain(model, inputs, method="lrp", rules=rules, target=one.answer, checks="off")
    patches = found["image"].scores[0].clamp(min=0)
    side = round(len(patches) ** 0.5)
    inside = torch.tensor([
        bool(quarter_mask(one.quarter)[SIZE * (2 * r + 1) // (2 * side), SIZE * (2 * c + 1) // (2 * side)])
        for r in range(side) for c in range(side)
    ])  # fmt: skip
    tokens = list(found["prompt"].tokens[0])
    first = tokens.index("which")
    words = found["prompt"].scores[0, first : first + 5].clamp(min=0)
    return float(patches[inside].sum() / patches.sum()), float(words[1:3].sum() / words.sum().clamp(min=1e-12))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=60)
    given = parser.parse_args()
    model = clew.load("mini:digits-chat")
    asked = [compose_asked("test", 4_000 + i) for i in range(given.pictures)]
    half, rows, chosen, lowest = given.pictures // 2, list[str](), dict[str, float](), dict[str, float]()
    for name, rules in composites().items():
        values = np.array([shares(model, one, rules) for one in asked])
        chosen[name], lowest[name] = float(values[:half, 0].mean()), interval(values[:half, 0])[0]
        cells = [f"{v.mean():.3f} [{low:.3f}, {high:.3f}]" for v in values[half:].T for low, high in [interval(v)]]
        rows.append(f"| {name} | {chosen[name]:.3f} | {' | '.join(cells)} |")
        print(rows[-1], flush=True)
    best, rest = max(chosen, key=lambda name: chosen[name]), given.pictures - half
    least = next(name for name in chosen if chosen[name] >= lowest[best])  # the smallest γ that is not told apart
    write_page("rules-for-chats.md", [
        "# Rules for chat models with pictures", "",
        'In `lrp(rules="chat")` the linear layers of the tower that reads the picture have a γ rule (`linear@image`),',
        "all else is AttnLRP. Its γ was chosen on `mini:digits-chat`, a small model of which it is known what decides",
        "([planted evidence](planted-evidence.md)): on other models it is a default, no finding. (A rule for the patch",
        "convolution moves relevance inside of patches alone.)", "",
        f"*Chooses*: share of the picture's positive relevance in the quarter that is asked for, of {half} pictures.",
        f"*Quarter*, *words*: that share of {rest} other pictures, and the share of the two words that say which",
        "quarter among the five of the question; means with 95 % bootstrap intervals.", "",
        f"The first half chooses **{least}**: the first that the interval of the best ({best}) holds.",
        f"Made by `python measurements/chat_rules.py` ({when_and_where()}).", "",
        "| rules | chooses | quarter | words |", "|---|---|---|---|", *rows,
    ])  # fmt: skip


if __name__ == "__main__":
    main()
