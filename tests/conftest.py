import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import jaxtyping
import pytest
import torch
from support.sampling import group_of, left_out

# Shapes and types are checked in all of clew, but for what runs at every torch call: closures that are made anew there
# mean compiling a checker for each of them, and small functions cost less than checking what they are given.
UNCHECKED = (
    "lrp.tape", "lrp.operations", "lrp.ledger", "lrp.special_modules", "rules",
    "seam.custom_backward", "seam.interception", "seam.row_sparse", "seam.twin", "seam.torch_modes", "seam.precision",
    "seam.quantized", "errors", "shapes", "models.architectures",
)  # fmt: skip
SOURCE = Path(__file__).parent.parent / "src" / "clew"
NAMES = (".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in SOURCE.rglob("*.py"))
CHECKED = sorted(f"clew.{n}" for n in NAMES if not n.startswith(UNCHECKED) and not n.endswith("__init__"))
jaxtyping.install_import_hook(CHECKED, "beartype.beartype")


def pytest_addoption(parser):
    parser.addoption("--all-cases", action="store_true", help="all cases of tests that are sampled, as `make test-all`")
    parser.addoption("--cases", type=float, default=0.0, help="at least this share of them, as `make test CASES=0.5`")


def pytest_collection_modifyitems(config, items):
    """Of tests marked `sampled(share, by=…)` a fixed part of the cases, unless more or all are asked for."""
    least = 1.0 if config.getoption("--all-cases") else config.getoption("--cases")
    marked = [(item, mark) for item in items if (mark := item.get_closest_marker("sampled"))]
    gone = left_out(
        (
            (item.location[0], item.originalname, group_of(mark.kwargs.get("by"), item.callspec.params)),
            item.nodeid,
            max(least, *mark.args),
        )
        for item, mark in marked
    )
    if gone:
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in gone])
        items[:] = [item for item in items if item.nodeid not in gone]


def pytest_configure(config):
    """`CLEW_WITHOUT_AVX512BF16=1`: as on a processor without it, where bitsandbytes packs no weight anew."""
    config.addinivalue_line("markers", "sampled(share, by=None): `make test` runs a part of the cases, CI more of them")
    if os.environ.get("CLEW_WITHOUT_AVX512BF16"):
        import bitsandbytes.functional

        bitsandbytes.functional.has_avx512bf16 = lambda: False
        import bitsandbytes.nn.modules

        bitsandbytes.nn.modules.has_avx512bf16 = lambda: False


@pytest.fixture(autouse=True, scope="session")
def _unchecked_at_every_torch_call():
    from clew.seam.capture import Capture

    Capture.call.__no_type_check__ = True


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def untyped():
    """Without the tests' type checker, which would catch wrong types before our own errors do."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def digits():
    """The bundled ViT that reads digits."""
    import clew

    return clew.load("mini:digits")


@pytest.fixture(scope="module")
def writer():
    """A loaded language model with a byte-level tokenizer, tiny and random."""
    from support.tiny_tokenizers import tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    import clew

    tokens = tokenizer("byte-level")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    return clew.LoadedModel(LlamaForCausalLM(config).eval(), labels=None, name="writer", tokenizer=tokens)
