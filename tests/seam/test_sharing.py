"""A guest that leaves no trace: what others do with a model while it is explained, and what an interrupt leaves."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import multiprocessing
import random
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import accelerate
import pytest
import torch
from support import tiny, tiny_text
from torch import nn

import clew
from clew.errors import InputError
from clew.explaining.explain import subject_of
from clew.explaining.prepare import prepare
from clew.lrp.relevance import propagate
from clew.seam.torch_modes import in_callers_modes, isolated_modes
from clew.subject.reached_rows import cached_rows

HOME = str(Path(clew.__file__).parent)
TEXT = "a quiet film that is brilliant indeed"


@contextmanager
def explained_meanwhile(*some):
    """Another thread explains without a pause."""
    stop, done, wrong = threading.Event(), [], []

    def work():
        while not stop.is_set():
            try:
                clew.explain(*some, method="attn_lrp")
                done.append(1)
            except Exception as error:
                wrong.append(error)
                return

    thread = threading.Thread(target=work)
    thread.start()
    while not done and not wrong:
        stop.wait(0.01)
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not wrong and done


def test_a_model_trains_while_it_is_explained():
    loaded = clew.load("mini:reviews-llama")
    model = loaded.model
    for p in model.parameters():
        p.requires_grad_(True)
    x = loaded.tokenizer([TEXT, TEXT], return_tensors="pt")["input_ids"]

    def step():
        model.zero_grad()
        model(x).logits.sum().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    expected = step()
    with explained_meanwhile(loaded, TEXT):
        for _ in range(10):
            found = step()
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[k], expected[k]) for k in expected)


def test_a_model_decodes_with_its_cache_while_it_is_explained():
    model = tiny_text.build_text("llama").eval()
    ids = torch.randint(5, 60, (1, 6))
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"

    @torch.no_grad()
    def decode():
        cache, x, found = None, ids, []
        for _ in range(8):
            output = model(input_ids=x) if cache is None else model(input_ids=x, **{name: cache})
            cache, x = output.past_key_values, output.logits[:, -1:].argmax(-1)
            assert cache is not None
            found.append(int(x))
        return found

    expected = decode()
    with explained_meanwhile(model, ids):
        assert all(decode() == expected for _ in range(5))


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_plain_calls_of_a_quantised_model_stay_what_they_are_while_it_is_explained(bits):
    loaded = clew.load("mini:reviews-llama", quantize=bits)
    x = loaded.tokenizer(TEXT, return_tensors="pt")["input_ids"]

    @torch.no_grad()
    def plain():
        return loaded.model(x).logits

    plain()
    expected = plain()
    with explained_meanwhile(loaded, TEXT):
        assert all(torch.equal(plain(), expected) for _ in range(10))


def test_many_threads_explain_one_model_by_many_methods():
    loaded, image = clew.load("mini:digits"), clew.scenes("digits").images[0]
    methods = ["attn_lrp", "saliency", "beyond_intuition_token", "raw_attention", "generic_attribution"]
    expected = {m: clew.explain(loaded, image, method=m).scores for m in methods}
    wrong = []

    def work(seed):
        for m in random.Random(seed).sample(methods, len(methods)):
            try:
                if not torch.equal(clew.explain(loaded, image, method=m).scores, expected[m]):
                    wrong.append(m)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _explains(queue, loaded, image):
    torch.set_num_threads(1)
    queue.put(clew.explain(loaded, image, method="attn_lrp").scores.numpy().tobytes())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_a_process_forked_while_another_thread_explains_can_explain():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        loaded, image = clew.load("mini:digits"), clew.scenes("digits").images[0]
        expected = clew.explain(loaded, image, method="attn_lrp").scores.numpy().tobytes()
        context = multiprocessing.get_context("fork")
        with explained_meanwhile(loaded, image):
            for _ in range(2):
                queue = context.SimpleQueue()
                child = context.Process(target=_explains, args=(queue, loaded, image))
                child.start()
                child.join(60)
                alive = child.is_alive()
                if alive:
                    child.kill()
                assert not alive and child.exitcode == 0 and queue.get() == expected
    finally:
        torch.set_num_threads(threads)


# Ctrl-C


def interrupted(call, at):
    """Interrupt a call before the `at`-th line of clew's; how many lines there were, and whether it came to that."""
    count = 0

    def line(frame, event, argument):
        nonlocal count
        if event == "line":
            count += 1
            if count == at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return line

    found = sys.gettrace()
    sys.settrace(lambda frame, event, argument: line if frame.f_code.co_filename.startswith(HOME) else None)
    try:
        call()
    except KeyboardInterrupt:
        return count, True
    finally:
        sys.settrace(found)
    return count, False


@pytest.mark.sampled(0.34)
@pytest.mark.parametrize("method", ["attn_lrp", "beyond_intuition_token", "attention_rollout"])
def test_an_interrupt_at_any_line_leaves_nothing_behind(method):
    model, x = tiny.build("hf_vit"), tiny.images((32, 32))
    loaded = clew.LoadedModel(model)
    expected, logits = clew.explain(loaded, x, method=method).scores, model(x).logits
    lines, _ = interrupted(lambda: clew.explain(loaded, x, method=method), -1)
    for at in [*range(1, 12), *random.Random(0).sample(range(12, lines), 25), *range(lines - 12, lines + 1)]:
        mine = dataclasses.replace(loaded, model=copy.deepcopy(model))
        with torch.no_grad():
            if not interrupted(lambda mine=mine: clew.explain(mine, x, method=method), at)[1]:
                continue
            assert not torch.is_grad_enabled(), at
        assert torch.is_grad_enabled() and not torch._C._len_torch_function_stack(), at
        assert all(p.requires_grad for p in mine.model.parameters())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in mine.model.modules())
        assert torch.equal(mine.model(x).logits, logits)
        for some in (mine, loaded):
            assert torch.equal(clew.explain(some, x, method=method).scores, expected), at


def test_a_mode_that_was_left_on_the_stack_is_taken_away():
    from torch.overrides import TorchFunctionMode

    class Left(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    @isolated_modes()
    def leaves():
        Left().__enter__()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leaves()
    assert not torch._C._len_torch_function_stack()


# Modes of torch


METHODS_OF_TEXTS = sorted(
    {name for name, method in clew.methods().items() if not method.images}
    - {"partial_lrp", "transformer_attribution", "random"}
)


@pytest.mark.parametrize("name", ["bert", "llama"])
@pytest.mark.parametrize("method", METHODS_OF_TEXTS)
def test_autocast_around_the_call_explains_the_call_in_its_precision(name, method):
    model = tiny_text.build_text(name).float().eval()
    ids = torch.randint(5, 60, (1, 9))
    target = None if name == "bert" else 3
    expected = clew.explain(model, ids, method=method, target=target).scores
    with torch.autocast("cpu", torch.bfloat16):
        found = clew.explain(model, ids, method=method, target=target)
        assert torch.is_autocast_enabled("cpu")
        plain = model(ids).logits
    assert plain.dtype == torch.bfloat16 and found.checks["forward_difference"] <= 0.05
    assert float((found.scores - expected).abs().max()) <= 0.1 * float(expected.abs().max())


@pytest.mark.parametrize("method", ["attn_lrp", "beyond_intuition_token", "saliency", "raw_attention"])
def test_autocast_inside_of_the_model(method):
    class Cast(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, pixel_values):
            with torch.autocast("cpu", torch.bfloat16):
                return self.inner(pixel_values)

    inner, x = tiny.build("timm_token").float(), tiny.images((32, 32)).float()
    inside = clew.architectures()["timm_vit"].within("inner")
    expected = clew.explain(inner, x, method=method, target=1).scores
    found = clew.explain(Cast(inner).eval(), x, method=method, target=1, architecture=inside)
    assert float((found.scores - expected).abs().max()) <= 0.1 * float(expected.abs().max())


class Probe(nn.Module):
    """A model that holds its backbone without gradients, in one of the ways that people do."""

    def __init__(self, how):
        super().__init__()
        self.how, self.backbone, self.head = how, tiny.build("timm_token"), nn.Linear(7, 3).double()

    def forward(self, x):
        if self.how == "detach":
            return self.head(self.backbone(x).detach())
        if self.how == "enable_grad":
            return self.head(self.backbone(x))
        with torch.no_grad() if self.how == "no_grad" else torch.inference_mode():
            features = self.backbone(x)
        return self.head(features.clone())


@pytest.mark.parametrize("method", ["attn_lrp", "saliency", "beyond_intuition_token", "generic_attribution"])
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no_grad", "'backbone' is called under"),
        ("inference_mode", "'backbone' is called under"),
        ("detach", "stops inside 'Probe'"),
    ],
)
def test_a_model_without_a_gradient_says_where_it_stops(how, words, method):
    x = tiny.images((32, 32))
    classes = tiny.build("timm_token")(x).shape[1]
    probe = Probe(how).eval()
    probe.head = nn.Linear(classes, 3).double().eval()
    inside = clew.architectures()["timm_vit"].within("backbone")
    with pytest.raises(clew.ClewError, match=words):
        clew.explain(probe, x, method=method, target=1, architecture=inside)
    rollout = clew.explain(probe, x, method="attention_rollout", target=1, architecture=inside)
    probe.how = "enable_grad"
    expected = clew.explain(probe, x, method="attention_rollout", target=1, architecture=inside)
    assert torch.equal(rollout.scores, expected.scores)


def test_a_function_of_attention_that_its_user_registered_is_kept():
    from transformers import AttentionInterface

    def halved(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **more):
        """Attention at half the temperature: not what SDPA would say."""
        groups = query.shape[1] // key.shape[1]
        key, value = (t.repeat_interleave(groups, 1) for t in (key, value))
        logits = query @ key.transpose(2, 3) * (scaling * 2)
        causal = torch.ones(logits.shape[-2:], dtype=torch.bool).tril()
        weights = logits.masked_fill(~causal, -torch.inf).softmax(-1)
        return (weights @ value).transpose(1, 2).contiguous(), weights

    AttentionInterface.register("halved", halved)
    plain, model = tiny_text.build_text("llama").eval(), tiny_text.build_text("llama").eval()
    model.config._attn_implementation = "halved"
    ids = torch.randint(5, 60, (1, 9))
    for method in ("attn_lrp", "raw_attention", "beyond_intuition_token"):
        found = clew.explain(model, ids, method=method, target=3)
        assert found.checks["forward_difference"] < 1e-9
        assert not torch.allclose(found.scores, clew.explain(plain, ids, method=method, target=3).scores)
    assert model.config._attn_implementation == "halved"


def test_a_function_of_attention_that_shows_nothing_is_refused():
    from transformers import AttentionInterface

    def hidden(module, query, key, value, attention_mask, **more):
        found = (query[..., None, :] * key[..., None, :, :]).sum(-1).softmax(-1)
        return (found[..., None] * value[..., None, :, :]).sum(-2).transpose(1, 2).contiguous(), found

    AttentionInterface.register("hidden", hidden)
    model = tiny_text.build_text("bert").eval()
    model.config._attn_implementation = "hidden"
    with pytest.raises(clew.ClewError, match="no attention was seen"):
        clew.explain(model, torch.randint(5, 60, (1, 9)), method="raw_attention")


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_weights_that_are_kept_elsewhere(where, tmp_path):
    model, ids = tiny_text.build_text("llama").eval(), torch.randint(5, 60, (1, 9))
    methods = ("attn_lrp", "saliency", "beyond_intuition_token", "raw_attention")
    expected = {m: clew.explain(model, ids, method=m, target=3).scores for m in methods}
    if where == "cpu":
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        accelerate.disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"))
    assert all(p.device.type == "meta" for p in model.parameters())
    for m, scores in expected.items():
        for _ in range(2):
            assert torch.equal(clew.explain(model, ids, method=m, target=3).scores, scores), m
    assert all(p.device.type == "meta" for p in model.parameters())


@pytest.mark.parametrize("name", ["mini:digits", "mini:reviews-llama", "mini:digits-clip"])
def test_a_model_that_is_loaded_in_inference_mode_is_an_ordinary_one(name):
    with torch.inference_mode():
        model = clew.load(name).model
    assert not any(t.is_inference() for t in (*model.parameters(), *model.buffers()))


def test_a_model_without_weights_is_refused():
    with torch.device("meta"):
        model = tiny_text.build_text("llama").eval()
    with pytest.raises(InputError, match="meta device"):
        clew.explain(model, torch.randint(5, 60, (1, 9)), target=3)


def test_what_is_remembered_of_a_model_is_remembered_of_the_model_itself():
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    clew.explain(model, x, method="generic_attribution", target=1)
    subject = subject_of(prepare(model, x), 1)
    assert cached_rows(model, subject.reach_key) is not None


def test_a_pass_inside_of_a_pass_is_not_seen():
    """A model that explains another one in its forward."""
    inner, x = tiny.build("timm_token"), tiny.images((32, 32))

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = tiny.build("timm_token")

        def forward(self, pixel_values):
            clew.explain(inner, x, method="attn_lrp", target=1)
            return self.model(pixel_values)

    inside = clew.architectures()["timm_vit"].within("model")
    for method in ("attn_lrp", "raw_attention"):
        found = clew.explain(Outer().eval(), x, method=method, target=1, architecture=inside).scores
        assert torch.equal(found, clew.explain(tiny.build("timm_token"), x, method=method, target=1).scores)


def test_the_callers_autocast_is_only_around_the_model():
    @isolated_modes()
    def inside():
        outer = torch.is_autocast_enabled("cpu")
        with in_callers_modes():
            return outer, torch.is_autocast_enabled("cpu")

    assert inside() == (False, False)
    with torch.autocast("cpu", torch.bfloat16):
        assert inside() == (False, True)


def test_relevance_can_be_propagated_outside_of_explain():
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    subject = subject_of(prepare(model, x), 1)
    found = propagate(subject, "attn_lrp")
    expected = clew.explain(model, x, method="attn_lrp", target=1).scores
    assert torch.allclose(found.semantic.sum(-1)[:, subject.bound.prefix :], expected)
