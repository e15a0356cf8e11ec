"""Train `mini:digits-chat`: `python -m clew.minis.train_chat` (about twenty minutes on 2 cores; the run is seeded).

A language model with a vision tower that is asked which digit is in a quarter of a picture. Writes the model's folder
with its processor, and the test pictures that ship; records what was measured: the share of right answers to 1,000
questions of the test split, about digits that no training picture has.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Trainer,
)

from ..files import write_all
from .asked_digits import SIZE, AskedDigits, compose_asked
from .captions import WORDS
from .digit_scenes import Split
from .training import training_arguments, write_model, write_processor, write_scenes

FOLDER = Path(__file__).parent / "digits-chat"
TRAIN_PICTURES, TEST_PICTURES, SHIPPED_PICTURES, BATCH = 320_000, 1_000, 48, 64
PATCH = 8
PLACES = (SIZE // PATCH) ** 2  # of a picture in the prompt
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
TEMPLATE = (
    "{% for message in messages %}{{ 'USER: ' if message['role'] == 'user' else 'ASSISTANT: ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{{ '<image> ' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %}"
    "{{ ' ' if not loop.last or add_generation_prompt else '' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


class Questions(Dataset[dict[str, Any]]):
    """Pictures `0 .. length - 1` of a split with their questions and answers as the model's inputs."""

    def __init__(self, split: Split, length: int, tokenizer: PreTrainedTokenizerFast) -> None:
        self.split: Split = split
        self.length = length
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        one = compose_asked(self.split, index)
        prompt = self.tokenizer(prompt_of(one))["input_ids"]
        answer = self.tokenizer(one.answer, add_special_tokens=False)["input_ids"] + [self.tokenizer.eos_token_id]
        ids = torch.tensor([*prompt, *answer])
        labels = torch.tensor([*[-100] * len(prompt), *answer])
        return {"pixel_values": pixels_of(one), "input_ids": ids, "labels": labels}


def pixels_of(one: AskedDigits) -> Tensor:
    """A picture (channel, row, column), pixels scaled to [-1, 1]."""
    return torch.from_numpy(one.image).permute(2, 0, 1).float() / 127.5 - 1


def prompt_of(one: AskedDigits) -> str:
    """The question as the template writes it, with a placeholder for each patch."""
    return f"USER: {'<image>' * PLACES} {one.question} ASSISTANT:"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each word, and one beginning."""
    words = [*SPECIAL, "USER:", "ASSISTANT:", "which", "upper", "lower", "left", "right", "digit", "?", *WORDS]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    roles = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=False))
    more: dict[str, Any] = {**roles, "extra_special_tokens": {"image_token": "<image>"}}
    return PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=128, model_input_names=["input_ids", "attention_mask"], **more
    )


def build(tokenizer: Any) -> LlavaForConditionalGeneration:
    """The untrained model."""
    sizes: dict[str, Any] = {
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }
    ends: dict[str, Any] = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    vision = CLIPVisionConfig(image_size=SIZE, patch_size=PATCH, attention_dropout=0.0, **sizes)
    text = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=128, tie_word_embeddings=False, **sizes, **ends
    )
    place = SPECIAL.index("<image>")
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=place,
        image_seq_length=PLACES,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    model = LlavaForConditionalGeneration(config)
    for name, value in ends.items():
        setattr(model.generation_config, name, value)
    return model


@torch.no_grad()
def accuracy(model: Any, tokenizer: Any, split: Split, length: int) -> float:
    """Share of questions that the model answers right."""
    hits = 0
    for start in range(0, length, 100):
        asked = [compose_asked(split, i) for i in range(start, min(start + 100, length))]
        ids = tokenizer([prompt_of(one) for one in asked], return_tensors="pt")["input_ids"]
        logits = model(input_ids=ids, pixel_values=torch.stack(list(map(pixels_of, asked)))).logits[:, -1]
        answers = [tokenizer(one.answer, add_special_tokens=False)["input_ids"][0] for one in asked]
        hits += int((logits.argmax(-1) == torch.tensor(answers)).sum())
    return hits / length


def write_chat_processor(output: Path) -> None:
    """Write how pictures and words become inputs, for transformers 4 and 5."""
    write_processor(output, "CLIPImageProcessor", SIZE)
    told = {
        "processor_class": "LlavaProcessor",
        "patch_size": PATCH,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "image_token": "<image>",
    }
    config = json.loads((output / "config.json").read_text())
    config["image_token_index"] = config["image_token_id"] = SPECIAL.index("<image>")  # its old and its new name
    write_all({
        output / "processor_config.json": json.dumps(told, indent=2) + "\n",
        output / "chat_template.jinja": TEMPLATE,
        output / "config.json": json.dumps(config, indent=2) + "\n",
    })  # fmt: skip


def main(output: Path | None = None, train_pictures: int = TRAIN_PICTURES, test_pictures: int = TEST_PICTURES) -> None:
    """Train, measure and write everything that ships."""
    output = output or FOLDER
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = build(tokenizer)
    arguments = training_arguments(
        output, batch=BATCH, warmup=600, learning_rate=2e-3, logging_steps=250, dataloader_num_workers=1
    )
    Trainer(model, arguments, train_dataset=Questions("train", train_pictures, tokenizer)).train()
    model.half().float().eval()  # measured with the weights that ship
    measured = {"test_accuracy": accuracy(model, tokenizer, "test", test_pictures), "test_pictures": test_pictures}
    print(measured)
    write_model(model, output, measured, tokenizer)
    write_chat_processor(output)
    shipped = [compose_asked("test", TEST_PICTURES + i) for i in range(SHIPPED_PICTURES)]
    write_scenes(
        output,
        images=np.stack([one.image for one in shipped]),
        labels=np.array([one.labels for one in shipped]),
        quarters=np.array([one.quarter for one in shipped]),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    main(parser.parse_args().output)
