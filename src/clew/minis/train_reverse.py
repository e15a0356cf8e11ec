"""Train `mini:reverse`: `python -m clew.minis.train_reverse` (about four minutes on 2 cores; the run is seeded).

An encoder with a decoder, that writes ten letters backwards, each three letters on. Writes the model's folder with its
tokenizer, and records what was measured: the share of letters that it writes right, of 1,000 strings of the test split.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.utils.data import Dataset
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast, Trainer

from .film_reviews import Split
from .reversal import LENGTH, LETTERS, compose_reversal
from .training import training_arguments, write_model

FOLDER = Path(__file__).parent / "reverse"
TRAIN_STRINGS, TEST_STRINGS, BATCH = 320_000, 1_000, 128


class Strings(Dataset[dict[str, Any]]):
    """Strings `0 .. length - 1` of a split as the model's inputs."""

    def __init__(self, split: Split, length: int, tokenizer: PreTrainedTokenizerFast) -> None:
        self.split: Split = split
        self.length = length
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        one = compose_reversal(self.split, index)
        source, answer = self.tokenizer([one.source, one.answer])["input_ids"]
        return {"input_ids": torch.tensor(source), "labels": torch.tensor(answer)}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each letter, and the end behind them."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*special, *LETTERS])}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    roles = ("pad_token", "bos_token", "eos_token", "unk_token")
    more: dict[str, Any] = dict(zip(roles, special, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=32, model_input_names=["input_ids", "attention_mask"], **more
    )


def build(tokenizer: Any) -> BartForConditionalGeneration:
    """The untrained model."""
    sizes: dict[str, Any] = {
        "encoder_layers": 3,
        "decoder_layers": 3,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
    }
    none: dict[str, Any] = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=len(tokenizer),
            d_model=64,
            encoder_ffn_dim=128,
            decoder_ffn_dim=128,
            max_position_embeddings=32,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.bos_token_id,
            forced_eos_token_id=None,
            **sizes,
            **none,
        )
    )


@torch.no_grad()
def accuracy(model: Any, tokenizer: Any, split: Split, length: int) -> float:
    """Share of letters that the model writes right by itself, greedily."""
    hits = 0
    for start in range(0, length, 100):
        strings = [compose_reversal(split, i) for i in range(start, min(start + 100, length))]
        inputs = tokenizer([one.source for one in strings], return_tensors="pt")
        written: Tensor = model.generate(
            inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=LENGTH + 1,
            do_sample=False,
            num_beams=1,
        )
        said = tokenizer.batch_decode(written, skip_special_tokens=True)
        for one, words in zip(strings, said, strict=True):
            hits += sum(a == b for a, b in zip(one.answer.split(), words.split(), strict=False))
    return hits / (length * LENGTH)


def main(output: Path | None = None, train_strings: int = TRAIN_STRINGS, test_strings: int = TEST_STRINGS) -> None:
    """Train, measure and write everything that ships."""
    output = output or FOLDER
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = build(tokenizer)
    arguments = training_arguments(output, batch=BATCH, warmup=250, learning_rate=2e-3, logging_steps=250)
    Trainer(model, arguments, train_dataset=Strings("train", train_strings, tokenizer)).train()
    model.half().float().eval()  # measured with the weights that ship
    measured = {"test_accuracy": accuracy(model, tokenizer, "test", test_strings), "test_strings": test_strings}
    print(measured)
    write_model(model, output, measured, tokenizer)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    main(parser.parse_args().output)
