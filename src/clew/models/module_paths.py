"""Where the blocks of a model are, and what lies above them: pooler, last norm, head."""

from __future__ import annotations

from torch import nn

from .architectures import find_architecture


def block_and_head_names(model: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the blocks, in order, and of the smallest modules above them, which read what the last block gave.

    Raises `UnknownArchitecture` for a model that no declaration fits.
    """
    bound = find_architecture(model).bind(model)
    names = {id(module): name for name, module in model.named_modules()}
    blocks = [names[id(block)] for block in bound.blocks]
    taken = {id(module) for block in bound.blocks for module in block.modules()}
    taken |= {id(m) for m in bound.patches.modules()}
    taken |= {id(m) for m in bound.embeddings.modules()} if bound.embeddings is not None else set()
    parent = model.get_submodule(blocks[0].rsplit(".", 2)[0]) if blocks[0].count(".") > 1 else model
    if hasattr(parent, "rel_embeddings"):  # DeBERTa's relative positions and their norm, which every block reads
        taken |= {id(module) for module in parent.modules()}
    modules = list(model.named_modules())
    modules = modules[[name for name, _ in modules].index(blocks[0]) :]  # what comes before the blocks is no head
    return blocks, [name for name, m in modules if id(m) not in taken and not list(m.children())]
