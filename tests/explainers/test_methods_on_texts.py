"""Methods on texts against literal twins: attention methods on BERT, relevance with rotary tables on a small Llama."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support import lrp_twins as twin
from support import tiny_text, twins
from transformers import LlamaConfig, LlamaForCausalLM

import clew
from clew.lrp.special_modules import PositionalRelevance
from clew.subject.quadrature import quadrature_rule

FROM_LAYER = ["attention_rollout", "generic_attribution", "gradient_attention_rollout"]
BEYOND = ["beyond_intuition_head", "beyond_intuition_token"]
TARGETS = [1, 3, 0]


def entering(model, row):
    """What enters the first block of a BERT, (token, width)."""
    return model.bert.embeddings(row[None])[0].detach()


def check(found, model, literal):
    inputs = tiny_text.padded(tiny_text.texts())
    first = inputs["attention_mask"].argmax(1).tolist()
    for i, (row, target) in enumerate(zip(tiny_text.texts(), TARGETS, strict=True)):
        expected = literal(entering(model, row), target).detach()
        real = found.scores[i, first[i] : first[i] + len(row)]
        torch.testing.assert_close(real, expected, rtol=1e-10, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize("method", ["raw_attention", *FROM_LAYER])
def test_attention_on_bert_padded_anyhow(method):
    model = tiny_text.build_text("bert")
    options = {} if method == "raw_attention" else {"start_layer": 1}
    found = clew.explain(model, tiny_text.padded(tiny_text.texts()), method=method, target=TARGETS, **options)
    check(found, model, lambda x, t: getattr(twins, method)(model, x, t, *options.values()))


@pytest.mark.parametrize(("rule", "steps"), [("gauss_legendre", 3), ("uniform", 4)])
@pytest.mark.parametrize("method", BEYOND)
def test_beyond_intuition_on_bert_padded_anyhow(method, rule, steps):
    model, q = tiny_text.build_text("bert"), quadrature_rule(rule, steps)
    inputs = tiny_text.padded(tiny_text.texts())
    found = clew.explain(model, inputs, method=method, target=TARGETS, start_layer=1, n_steps=steps, quadrature=rule)
    check(found, model, lambda x, t: getattr(twins, method)(model, x, t, q.points, q.weights, 1))


# Relevance of rotary positions


def turned(x):
    """The other half of each pair: `(-x₂, x₁)`."""
    half = x.shape[-1] // 2
    return torch.cat([-x[..., half:], x[..., :half]], -1)


def unturned(R):
    """Relevance of `turned(x)`, at the places of `x`."""
    half = R.shape[-1] // 2
    return torch.cat([R[..., half:], R[..., :half]], -1)


def rows(x, W, R):
    """The epsilon rule of a linear layer without bias, token by token."""
    return torch.stack([twin.epsilon(t, W, torch.zeros(len(W), dtype=x.dtype), r) for t, r in zip(x, R, strict=True)])


def literal_llama(model, ids, token):
    """AttnLRP of a Llama with one block for one next token: relevance of embeddings and tables, all (token, dim)."""
    layer, norm = model.model.layers[0], model.model.norm
    a, mlp, d = layer.self_attn, layer.mlp, model.config.head_dim
    E = model.model.embed_tokens(ids)
    cos, sin = (t[0] for t in model.model.rotary_emb(E[None], torch.arange(len(ids))[None]))
    n = layer.input_layernorm(E)
    heads = model.config.num_attention_heads
    group = heads // model.config.num_key_value_heads
    q = [n @ a.q_proj.weight[h * d : (h + 1) * d].T for h in range(heads)]
    k, v = ([n @ W[h * d : (h + 1) * d].T for h in range(heads // group)] for W in (a.k_proj.weight, a.v_proj.weight))
    q2, k2 = ([x * cos + turned(x) * sin for x in xs] for xs in (q, k))
    causal = torch.full((len(ids), len(ids)), -torch.inf).triu(1).to(E)
    o = [(q2[h] @ k2[h // group].T / d**0.5 + causal).softmax(-1) @ v[h // group] for h in range(heads)]
    z = torch.cat(o, 1) @ a.o_proj.weight.T
    x1 = E + z
    n2 = layer.post_attention_layernorm(x1)
    g, u = n2 @ mlp.gate_proj.weight.T, n2 @ mlp.up_proj.weight.T
    hidden = F.silu(g) * u
    m = hidden @ mlp.down_proj.weight.T
    x2 = x1 + m
    last = norm(x2)[-1]
    score = model.lm_head.weight[token] @ last

    R2 = torch.zeros_like(x2)  # a norm whose deviation is held fixed hands each entry what it got
    R2[-1] = last * model.lm_head.weight[token]
    R_hidden = rows(hidden, mlp.down_proj.weight, m * R2 / x2)
    R_n2 = rows(n2, mlp.gate_proj.weight, R_hidden / 2) + rows(n2, mlp.up_proj.weight, R_hidden / 2)
    R1 = x1 * R2 / x2 + R_n2
    R_o = rows(torch.cat(o, 1), a.o_proj.weight, z * R1 / x1)
    R_n = torch.zeros_like(n)
    R_k2, R_v = ([torch.zeros_like(x) for x in xs] for xs in (k2, v))
    tables = {"cos": torch.zeros_like(cos), "sin": torch.zeros_like(sin)}

    def through_tables(x, x2, R):
        share = torch.where(R == 0, 0.0, R / x2)
        by_cos, by_sin = x * cos * share, turned(x) * sin * share
        tables["cos"] += by_cos / 2
        tables["sin"] += by_sin / 2
        return by_cos / 2 + unturned(by_sin / 2)

    for h in range(heads):
        kv, R_q2 = h // group, torch.zeros_like(q2[h])
        for i in range(len(ids)):  # row by row, over the keys that it sees
            seen = slice(0, i + 1)
            part = R_o[i : i + 1, h * d : (h + 1) * d]
            got = twin.attention(q2[h][i : i + 1], k2[kv][seen], v[kv][seen], d**-0.5, part)
            R_q2[i] = got[0][0]
            R_k2[kv][seen] += got[1]
            R_v[kv][seen] += got[2]
        R_n += rows(n, a.q_proj.weight[h * d : (h + 1) * d], through_tables(q[h], q2[h], R_q2))
    for h in range(heads // group):
        part = slice(h * d, (h + 1) * d)
        R_n += rows(n, a.k_proj.weight[part], through_tables(k[h], k2[h], R_k2[h])) + rows(
            n, a.v_proj.weight[part], R_v[h]
        )
    return score, E * R1 / x1 + R_n, tables


@pytest.fixture(scope="module")
def small_llama():
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=6, head_dim=4, max_position_embeddings=32, initializer_range=0.7,
    )  # fmt: skip
    return LlamaForCausalLM(config).double().eval()


def test_pa_lrp_on_a_llama_is_the_papers_written_out(small_llama):
    texts = [torch.tensor([4, 9, 2, 17, 5]), torch.tensor([8, 3, 11])]
    ids = torch.tensor([[4, 9, 2, 17, 5], [0, 0, 8, 3, 11]])
    given = {"input_ids": ids, "attention_mask": torch.tensor([[1] * 5, [0, 0, 1, 1, 1]])}
    options = {"target": [7, 21], "compute_dtype": torch.float64, "details": True}
    default = clew.explain(small_llama, given, method="pa_lrp", **options)
    signed = clew.explain(small_llama, given, method="pa_lrp", aggregate="sum", **options)
    with torch.no_grad():
        for i, (row, target) in enumerate(zip(texts, [7, 21], strict=True)):
            score, E, tables = literal_llama(small_llama, row, target)
            real = slice(5 - len(row), 5)
            # The model's own norms cast to float32 in the reference here, and not in clew.
            close = {"rtol": 0, "atol": 5e-6 * max(1.0, float(E.abs().max()))}
            torch.testing.assert_close(default.score[i], score, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(default.details["semantic"][i, real], E.sum(1), **close)
            by_token = tables["cos"].sum(1) + tables["sin"].sum(1)
            torch.testing.assert_close(default.details["position_by_layer"][i, 0, real], by_token, **close)
            torch.testing.assert_close(signed.scores[i, real], E.sum(1) + by_token, **close)
            positive = sum(t.clamp(min=0).sum(1) for t in tables.values())
            torch.testing.assert_close(default.scores[i, real], E.sum(1) + positive, **close)


@pytest.mark.parametrize("heads", [1, 3])
def test_the_relevance_of_a_bias_of_attention_goes_to_keys(heads):
    """`R_j = Σ_i (b_ij - b_ii) g_ij`: scores are free up to a number per query."""
    generator = torch.Generator().manual_seed(0)
    bias = torch.randn(1, heads, 4, 4, generator=generator).double()
    g = torch.randn(2, heads, 4, 4, generator=generator).double()
    positions = PositionalRelevance()
    left = positions.add_bias(1, bias, g, 2)
    sums, positive = positions.biases[1]
    for example in range(2):
        for j in range(4):
            entries = [
                float((bias[0, h, i, j] - bias[0, h, i, i]) * g[example, h, i, j])
                for h in range(heads)
                for i in range(4)
            ]
            assert float(sums[example, j]) == pytest.approx(sum(entries), abs=1e-12)
            assert float(positive[example, j]) == pytest.approx(sum(max(e, 0) for e in entries), abs=1e-12)
    torch.testing.assert_close(left.sum((1, 2, 3)) + sums.sum(1), (bias * g).sum((1, 2, 3)), rtol=0, atol=1e-12)
