"""The golden arrays of ContextCite: which call of the public API gives each of them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from parity import Case, Outcome
from support import parity_newer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import clew


class Family(parity_newer.Family):
    """One prompt in double precision; the released code casts logits and fits in single precision."""

    def tolerance(self, case: Case) -> float:
        return 1e-6

    def run(self, case: Case) -> Outcome:
        given, entry = self.manifest["inputs"], self.manifest["cases"][case.name]
        sources = prompt_of(self.folder)
        assert sources.texts == given["sources"]
        head, options = case.name.split("|")[0], {}
        if head == "contextcite":
            options = entry["options"]
            found = sources.explain("context_cite", part=tuple(entry["response_tokens"]), **options).scores[0]
            return Outcome(found.numpy(), parity_newer.named("context_cite", options, "scores[0]"))
        count, keep = case.name.split("|")[1:]
        masks = sources.random_masks(int(count[1:]), float(keep.removeprefix("keep")))
        if head == "masks":
            return Outcome(masks.numpy(), f"Sources(…).random_masks({count[1:]}, …)")
        return Outcome(sources.token_log_odds(masks).numpy(), "Sources(…).token_log_odds(masks)")


@cache
def prompt_of(folder: Path) -> clew.Sources:
    """The language model with its tokenizer, and the prompt, in which the context is split at its full stops."""
    given: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["inputs"]
    config = parity_newer.config(folder.parent / "llama")
    sizes = {name: value for name, value in config.items() if name not in ("model", "dtype")}
    sizes |= {"max_position_embeddings": 256}
    model = LlamaForCausalLM(LlamaConfig(**sizes)).double().eval()
    model.load_state_dict(parity_newer.weights(folder.parent / "llama"))
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(given["vocabulary"])}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %} :"
    content = given["prompt_template"].format(context=given["context"], query=given["query"])
    prompt = [{"role": "user", "content": content}]
    loaded = clew.LoadedModel(model, name="llama", tokenizer=tokenizer)
    sources = clew.Sources(loaded, prompt, context=given["context"], answer=torch.tensor(given["response_ids"]))
    ids = tokenizer(sources.prompt, add_special_tokens=False)["input_ids"]
    assert ids == given["prompt_ids_full"]
    return sources
