"""Train `mini:digits-chat`: `python -m clew.minis.train_chat` (about fifteen minutes on 2 cores; the run is seeded).

A language model with a vision tower that is asked which digit is in a quarter of a picture. In training each picture is
asked for all four, one after the other, and a layer that is dropped afterwards reads the digits from the tower, too:
answers alone teach the tower nothing for 100,000 pictures. Writes the model's folder with its processor, and the test
pictures that ship; records what was measured: the share of right answers to 1,000 single questions of the test split,
about digits that no training picture has.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from safetensors.torch import save as serialized
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
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
TRAIN_PICTURES, TEST_PICTURES, SHIPPED_PICTURES, BATCH = 176_000, 1_000, 48, 32
PATCH = 8
PLACES = (SIZE // PATCH) ** 2  # of a picture in the prompt
PLACEHOLDERS = "<image>" * PLACES
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
TEMPLATE = (
    "{% for message in messages %}{{ 'USER: ' if message['role'] == 'user' else 'ASSISTANT: ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image> ' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{{ '' if message['role'] == 'user' else '</s>' }}"
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
        ids = self._numbers(f"{self.tokenizer.bos_token} USER: {PLACEHOLDERS}")
        labels = [-100] * len(ids)
        for turn, quarter in enumerate(np.random.default_rng(one.seed).permutation(4).tolist()):
            asked = replace(one, quarter=quarter)
            question = self._numbers(("USER: " if turn else "") + f"{asked.question} ASSISTANT:")
            answer = [*self._numbers(asked.answer), self.tokenizer.eos_token_id]
            ids += [*question, *answer]
            labels += [*[-100] * len(question), *answer]
        found = {"input_ids": ids, "labels": labels, "classes": one.labels}
        return {"pixel_values": pixels_of(one), **{name: torch.tensor(value) for name, value in found.items()}}

    def _numbers(self, words: str) -> list[int]:
        return self.tokenizer(words, add_special_tokens=False)["input_ids"]


class ChatTrainer(Trainer):
    """Adds how well `model.reader` tells the four digits from what the tower hands to the language model."""

    def compute_loss(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, model: Any, inputs: Any, return_outputs: bool = False, **more: Any
    ) -> Any:
        """The loss of the answers plus that of the reader."""
        classes, seen = inputs.pop("classes"), list[Tensor]()
        hook = model.model.multi_modal_projector.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        try:
            output = model(**inputs)
        finally:
            hook.remove()
        half = SIZE // PATCH // 2
        quarters = seen[0].unflatten(1, (2, half, 2, half)).mean((2, 4)).flatten(1, 2)
        loss = output.loss + F.cross_entropy(model.reader(quarters).flatten(0, 1), classes.flatten())
        return (loss, output) if return_outputs else loss


def pixels_of(one: AskedDigits) -> Tensor:
    """A picture (channel, row, column), pixels scaled to [-1, 1]."""
    return torch.from_numpy(one.image).permute(2, 0, 1).float() / 127.5 - 1


def prompt_of(one: AskedDigits) -> str:
    """The question as the template writes it, with a placeholder for each patch."""
    return f"USER: {PLACEHOLDERS} {one.question} ASSISTANT:"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each word, and one beginning."""
    words = [*SPECIAL, "USER:", "ASSISTANT:", "which", "upper", "lower", "left", "right", "digit", "?", *WORDS]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    parts = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("?", "isolated")]  # "digit?" is two words
    made.pre_tokenizer = pre_tokenizers.Sequence(parts)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    roles = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=False))
    more: dict[str, Any] = {**roles, "extra_special_tokens": {"image_token": "<image>"}}
    return PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=128, model_input_names=["input_ids", "attention_mask"], **more
    )


def build(tokenizer: Any) -> Any:
    """The untrained model."""
    sizes: dict[str, Any] = {
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "initializer_range": 0.08,  # at this width the usual 0.02 learns nothing for 100,000 pictures
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
    words = json.loads((output / "tokenizer_config.json").read_text())
    words["extra_special_tokens"] = {"image_token": "<image>"}  # transformers 4 takes no list, as 5 writes it
    # transformers 5 leaves out a level of the tower's names; both read them with it.
    level = "vision_tower."
    weights = {
        name.replace(level, f"{level}vision_model.") if f"{level}vision_model." not in name else name: weight
        for name, weight in load_file(output / "model.safetensors").items()
    }
    write_all({
        output / "processor_config.json": json.dumps(told, indent=2) + "\n",
        output / "chat_template.jinja": TEMPLATE,
        output / "config.json": json.dumps(config, indent=2) + "\n",
        output / "tokenizer_config.json": json.dumps(words, indent=2) + "\n",
        output / "model.safetensors": serialized(weights, metadata={"format": "pt"}),
    })  # fmt: skip


def main(output: Path | None = None, train_pictures: int = TRAIN_PICTURES, test_pictures: int = TEST_PICTURES) -> None:
    """Train, measure and write everything that ships."""
    output = output or FOLDER
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = build(tokenizer)
    arguments = training_arguments(
        output,
        batch=BATCH,
        warmup=150,
        learning_rate=2e-3,
        logging_steps=250,
        dataloader_num_workers=1,
        remove_unused_columns=False,
    )
    model.reader = nn.Linear(model.config.vision_config.hidden_size, len(WORDS))
    ChatTrainer(model, arguments, train_dataset=Questions("train", train_pictures, tokenizer)).train()
    del model.reader
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
