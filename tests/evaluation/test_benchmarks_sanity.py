"""Sanity checks against slow twins: models that are drawn anew by hand, one example at a time."""

from __future__ import annotations

import copy
import math
import zlib
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
import transformers
from support.bench_twins import evaluated, flat

import clew
from clew.evaluation.benchmarks.sanity import cascade

METHODS = ("attention_rollout", "saliency")


@pytest.fixture(scope="module")
def model():
    return clew.load("mini:digits")


@pytest.fixture(scope="module")
def scenes():
    data = clew.open_dataset("mini:digits")
    return [data.read(i) for i in range(2)]


def literally_redrawn(model, stage):
    """The head, then blocks from the last one on; all parameters at 1."""
    redrawn = copy.deepcopy(model.model)
    blocks = len(redrawn.vit.layers)
    drawn = {blocks - 1 - k for k in range(math.ceil(stage * blocks - 1e-9))}
    for name, p in redrawn.named_parameters():
        block = int(name.split(".")[2]) if name.startswith("vit.layers.") else None
        if stage == 1 or block in drawn or name.startswith(("vit.layernorm", "classifier")):
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + 5)
            noise = torch.randn(p.shape, generator=generator)
            p.data = p.data.mean() + p.data.std() * noise
    return replace(model, model=redrawn)


@pytest.mark.parametrize("explain", ["predicted", "given"])
def test_similarity_to_the_map_of_a_model_that_forgot(model, scenes, explain):
    before = {k: v.clone() for k, v in model.model.state_dict().items()}
    examples = [replace(e, label=(e.label + 1) % 10) for e in scenes[:2]]
    methods, stages = [*METHODS, "beyond_intuition_token", flat], (0.0, 0.4, 1.0)
    rows, numbers = evaluated("sanity", model, examples, methods, stages=stages, explain=explain, draw=5)
    after = model.model.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[k], after[k]) for k in before)
    redrawn = [literally_redrawn(model, stage) for stage in stages]
    for method in methods:
        name, last, pointing, precision = getattr(method, "__name__", method), [], [], []
        for e in examples:
            x = model.preprocess(e.image)[0][None]
            with torch.no_grad():
                target = e.label if explain == "given" else int(model.model(x).logits.argmax())
            whole = clew.explain(model, x, method=method, target=target)
            expected = []
            for other in redrawn:
                scores = clew.explain(other, x, method=method, target=target).scores[0].double()
                ranks = [scipy.stats.rankdata(s) for s in (whole.scores[0].double().numpy(), scores.numpy())]
                a, b = (r - r.mean() for r in ranks)
                expected.append(float(a @ b / math.sqrt(a @ a * (b @ b))) if a.any() and b.any() else 0.0)
            row, heat = rows[e.id, name], whole.heatmap()[0].numpy()
            assert row["similarity"] == pytest.approx(expected, abs=2e-3)  # neighbours that are nearly equal may swap
            assert row["pointing"] == float(e.mask.flat[heat.argmax()] == 1)
            assert row["average_precision"] == pytest.approx(literal_ap(e.mask.ravel() == 1, heat.ravel()), abs=1e-4)
            last, pointing = [*last, row["similarity"][-1]], [*pointing, row["pointing"]]
            precision.append(row["average_precision"])
        assert numbers["similarity when redrawn", name] == pytest.approx(np.mean(last))
        assert numbers["pointing_game", name] == pytest.approx(np.mean(pointing))
        assert numbers["average_precision", name] == pytest.approx(np.mean(precision))


def literal_ap(true, values):
    """The sum over distinct values, from the top, of precision times what recall gains."""
    found, before = 0.0, 0
    for value in sorted(set(values.tolist()), reverse=True):
        said = values >= value
        hits = int((said & true).sum())
        found, before = found + hits / said.sum() * (hits - before) / true.sum(), hits
    return found


def test_stages_redraw_the_head_first_and_everything_at_last(model):
    before = dict(model.model.named_parameters())
    changed = []
    for one in cascade(model, (0.0, 0.5, 1.0), 0):
        changed.append({k for k, p in one.model.named_parameters() if not torch.equal(p, before[k])})
    assert changed[0] == {"vit.layernorm.weight", "vit.layernorm.bias", "classifier.weight", "classifier.bias"}
    assert {k.split(".")[2] for k in changed[1] - changed[0]} == {"3", "4", "5"}
    assert changed[2] == set(before)
    half = next(cascade(model, (0.5,), 0)).model  # a stage does not depend on those before it
    assert all(torch.equal(p, dict(half.named_parameters())[k]) for k, p in before.items() if k not in changed[1])


def test_a_picture_without_an_object_has_no_evidence(model, scenes):
    examples = [replace(scenes[0], mask=np.zeros_like(scenes[0].mask)), replace(scenes[1], mask=None)]
    rows, numbers = evaluated("sanity", model, examples, ["saliency"], stages=())
    assert all(row["error"] is row["pointing"] is row["average_precision"] is None for row in rows.values())
    assert set(numbers.values()) == {None}


# Texts


@pytest.fixture(scope="module")
def reviews():
    data = clew.open_dataset("mini:reviews")
    found = [data.read(i) for i in (0, 4)]
    words = [(*found[0].words[:30], "\x16", *found[0].words[30:]), found[1].words]  # BERT's tokenizer drops that word
    marked = [tuple((a + (a >= 30), b + (a >= 30)) for a, b in found[0].rationale), found[1].rationale]
    return [replace(e, text=" ".join(w), words=w, rationale=r) for e, w, r in zip(found, words, marked, strict=True)]


@pytest.mark.parametrize(("name", "limit"), [("bert", None), ("bert", 20), ("llama", None)])
def test_texts_point_at_their_rationales(reviews, name, limit):
    loaded, methods = clew.load(f"mini:reviews-{name}"), ["raw_attention", "input_x_gradient"]
    before = {k: v.clone() for k, v in loaded.model.state_dict().items()}
    rows, numbers = evaluated("sanity", loaded, reviews, methods, stages=(0.0, 1.0), max_length=limit)
    assert all(torch.equal(v, before[k]) for k, v in loaded.model.state_dict().items())
    redrawn = [copy.deepcopy(one.model) for one in cascade(loaded, (0.0, 1.0), 0)]
    for method in methods:
        precision = []
        for e in reviews:
            given = loaded.tokenizer(e.text, return_offsets_mapping=True, return_special_tokens_mask=True)
            spans, special = given["offset_mapping"], given["special_tokens_mask"]
            if limit is not None:
                spans, special = [*spans[: limit - 1], spans[-1]], [*special[: limit - 1], special[-1]]
            text = e.text[: max(b for _, b in spans)] if limit is not None else e.text
            whole, row = clew.explain(loaded, text, method=method), rows[e.id, method]
            target = int(whole.logits[0].argmax())
            kept, at, values = [k for k, s in enumerate(special) if not s], 0, []
            for word in e.words:
                touching = [k for k in kept if spans[k][0] < at + len(word) and spans[k][1] > at]
                values.append(max((whole.scores[0, k].item() for k in touching), default=None))
                at += len(word) + 1
            while values[-1] is None:
                values.pop()
            least = min(v for v in values if v is not None)
            values = np.array([least if v is None else v for v in values])
            true = np.array([any(a <= w < b for a, b in e.rationale) for w in range(len(values))])
            if true.any():
                assert row["pointing"] == float(true[values.argmax()])
                assert row["average_precision"] == pytest.approx(literal_ap(true, values), abs=1e-6)
                precision.append(row["average_precision"])
            else:
                assert row["pointing"] is row["average_precision"] is None
            for model, found in zip(redrawn, row["similarity"], strict=True):
                other = clew.explain(replace(loaded, model=model), text, method=method, target=target)
                a, b = (r.scores[0, kept].double().numpy() for r in (whole, other))
                assert found == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-2)
        assert numbers["average_precision", method] == pytest.approx(np.mean(precision))


HEADS = {
    "llama": (transformers.LlamaForSequenceClassification, {"num_key_value_heads": 2}, {"model.norm", "score"}),
    "gpt2": (transformers.GPT2LMHeadModel, {}, {"transformer.ln_f"}),  # the head is the embeddings
    "bert": (transformers.BertForSequenceClassification, {}, {"bert.pooler.dense", "classifier"}),
    "electra": (
        transformers.ElectraForSequenceClassification, {"embedding_size": 8},
        {"classifier.dense", "classifier.out_proj"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_neither_embeddings_nor_positions_are_part_of_the_head(name):
    cls, more, heads = HEADS[name]
    config = cls.config_class(
        vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, **more,
    )  # fmt: skip
    model = cls(config).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, 0.1, 0.3)
    before, changed = dict(model.named_parameters()), []
    for one in cascade(clew.LoadedModel(model), (0.0, 1.0), 0):
        changed.append({k for k, p in one.model.named_parameters() if not torch.equal(p, before[k])})
    assert {k.rpartition(".")[0] for k in changed[0]} == heads
    assert changed[1] == set(before)
