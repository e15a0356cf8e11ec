"""The golden arrays of Grad-ECLIP: which call of the public API gives each of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from parity import Case, Outcome
from support import parity_newer
from support.parity_newer import Options, classifier, clip, inputs, named
from timm.models.vision_transformer import Block
from torch import Tensor, nn

import clew

SKIPPED = {"*_embedding": "an input of the maps"}


class NotebooksBlock(Block):
    """A block to whose attention not its input is added but the norm of that."""

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        x = self.norm1(x)
        x = x + self.attn(x)
        return x + self.mlp(self.norm2(x))


@cache
def notebooks_classifier(folder: Path) -> nn.Module:
    """What the notebook for classifiers explains in place of the classifier: with another last block, which has one
    head of full width whose scores are divided by the root of the true heads' size."""
    model = classifier(folder)
    block = model.blocks[-1]
    block.__class__, attention = NotebooksBlock, block.attn
    attention.fused_attn, attention.head_dim, attention.num_heads = False, attention.attn_dim, 1
    return model


class Family(parity_newer.Family):
    """Towers of CLIP, compared with what the other tower makes of its inputs, and a classifier."""

    def run(self, case: Case) -> Outcome:
        head = case.name.partition("|")[0]
        asked: Options = case.entry["options"]
        options: Options = {"cosines": asked.get("withksim", True)}
        if head == "grad_eclip_vit":
            model, images = notebooks_classifier(self.models / "vit"), inputs(self.models / "vit")["images"]
            found = self.explain(model, images, case.entry["target"], "grad_eclip", **options)
            return self.outcome(case, found.scores, named("grad_eclip", options, "scores"))
        model, images, texts = clip(self.models / "clip")
        options |= {"variant": "grad_eclip" if head == "grad_eclip_notebook" else "grad_eclip_script"}
        if head == "grad_eclip_text":
            ids = texts[case.entry["text"]]
            options |= {"start_layer": 2 - asked["layers"]}
            found = self.explain(model, ids, clew.Similarity(list(images)), "grad_eclip", **options)
            inner = found.scores[:, 1 : int(ids.argmax())]  # the released code makes their sum 1
            return self.outcome(case, inner / inner.sum(1, keepdim=True), named("grad_eclip", options, "scores"))
        options |= {"start_layer": 4 - asked.get("layers", 1)}
        found = self.explain(model, images, clew.Similarity(list(texts)), "grad_eclip", **options)
        return self.outcome(case, found.scores, named("grad_eclip", options, "scores"))
