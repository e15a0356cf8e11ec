"""Train `mini:digits-clip`: `python -m clew.minis.train_pairs` (about 25 minutes on 2 cores; the run is seeded).

A CLIP of 0.3 M parameters learns which captions are true of which scenes, and where: two digits are in each scene, a
caption names one or both, and the masks say which patches hold which. So the evidence is known: what a caption matches
stays where it is, until the last attention gathers it. Writes the model's folder with its
tokenizer and the test scenes that ship, and records how often its two best captions are those of the two digits.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from torch.utils.data import Dataset
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast, Trainer

from .captioned import OF_BOTH, OF_ONE, SIZE, compose_captioned
from .captions import WORDS, with_article
from .digit_scenes import Split
from .training import training_arguments, write_model, write_processor, write_scenes

FOLDER = Path(__file__).parent / "digits-clip"
TRAIN_SCENES = (200_000, 26_000)  # against each other, and pair by pair
TEST_SCENES, SHIPPED_SCENES, BATCH = 1_000, 48, 64
LONGEST = 16  # tokens of a caption, its two ends included
BLOCKS = (0, 1, 2, 5)  # of mini:digits, that the image tower begins with
PER_PAIR = 8.0  # weight of the loss of pairs beside that of patches
PATCH, LEAST = 8, 4  # pixels of a patch's side; how many of its pixels a digit has to cover to be there
SPECIAL = ["<pad>", "<unk>", "<start>", "<end>"]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each word of the captions."""
    words = sorted({word for form in (*OF_ONE, *OF_BOTH) for word in form.split() if word != "{}"} | {"a", "an"})
    names = [*SPECIAL, *words, *WORDS]
    trained = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    trained.normalizer = normalizers.Lowercase()
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    trained.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 2), ("<end>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=trained,
        model_max_length=LONGEST,
        model_input_names=["input_ids", "attention_mask"],
        **dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), SPECIAL, strict=True)),
    )


class Captioned(Dataset[dict[str, Any]]):
    """Scenes `0 .. length - 1` of a split with their captions, pixels scaled to [-1, 1]."""

    def __init__(self, split: Split, length: int, tokenizer: PreTrainedTokenizerFast) -> None:
        self.split: Split = split
        self.length, self.tokenizer = length, tokenizer

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        scene = compose_captioned(self.split, index)
        ids: Any = self.tokenizer(scene.caption, padding="max_length", max_length=LONGEST)["input_ids"]
        there, named = torch.zeros(len(WORDS)), torch.zeros(len(WORDS))
        there[list(scene.labels)], named[list(scene.named)] = 1.0, 1.0
        side = SIZE // PATCH
        covered = torch.from_numpy(scene.masks).view(2, side, PATCH, side, PATCH).sum((2, 4)).flatten(1)
        most, which = covered.max(0)
        patches = torch.where(most >= LEAST, torch.tensor(scene.labels)[which], -1)
        words = {"input_ids": torch.tensor(ids), "there": there, "named": named}
        return {"pixel_values": pixels(scene.image), "patches": patches, **words}


def pixels(image: np.ndarray) -> Tensor:
    """A scene (H, W, 3) uint8 as the model takes it, (3, H, W)."""
    return torch.from_numpy(image).permute(2, 0, 1).float() / 127.5 - 1


class MatchTrainer(Trainer):
    """Learns which captions are true of a scene, and which patches speak for which digit."""

    words: Tensor  # a caption for each digit, (10, token)
    pair_by_pair = False

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        there, named = inputs["there"], inputs["named"]
        seen = model(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"], output_hidden_states=True)
        true = (there @ named.T == named.sum(1)).float()  # (image, text): all that the text names is there
        logits: Tensor = seen.logits_per_image
        if self.pair_by_pair:
            loss = PER_PAIR * F.binary_cross_entropy_with_logits(logits, true)
        else:  # every caption that is true of a scene is its own, and every scene the caption's
            both = (logits, true), (logits.T, true.T)
            loss = sum(F.cross_entropy(a, b / b.sum(1, keepdim=True)) for a, b in both) / 2
        entering: Tensor = seen.vision_model_output.hidden_states[-2]
        loss = loss + local_loss(model, entering, inputs["patches"], self.words)
        return (loss, None) if return_outputs else loss


def local_loss(model: Any, entering: Tensor, patches: Tensor, words: Tensor) -> Tensor:
    """What enters the last block says which digit is there, of every patch that a digit touches, and nothing of the
    others and of CLS. So what a caption matches is where it says, and is gathered by the last attention.

    `entering` (batch, token, width), `patches` (batch, patch) the digit or -1, `words` (10, token) a caption for each.
    """
    said = model.visual_projection(model.vision_model.post_layernorm(entering))
    texts = model.get_text_features(words)
    texts = texts if isinstance(texts, Tensor) else texts.pooler_output
    logits = F.normalize(said, dim=-1) @ F.normalize(texts, dim=-1).T * model.logit_scale.exp()
    patches = F.pad(patches, (1, 0), value=-1)  # CLS
    digit, logp = patches >= 0, logits.log_softmax(-1)
    return F.nll_loss(logp[digit], patches[digit]) - logp[~digit].mean()


def build(tokenizer: PreTrainedTokenizerFast, blocks: Sequence[int]) -> CLIPModel:
    """The untrained model, whose image tower begins with some `blocks` of `mini:digits`."""
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": LONGEST, "projection_dim": 32,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {
        "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": len(blocks), "num_attention_heads": 4,
        "image_size": SIZE, "patch_size": PATCH, "projection_dim": 32,
        "hidden_act": "gelu",
    }  # fmt: skip
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32))
    _begin_with_digits(model.vision_model, blocks)
    return model


@torch.no_grad()
def _begin_with_digits(vision: Any, blocks: Sequence[int]) -> None:
    """`mini:digits` has seen what digits look like; from nothing it takes far longer."""
    weights = {k.removeprefix("vit."): w for k, w in load_file(FOLDER.parent / "digits" / "model.safetensors").items()}
    weights["bias"] = weights.pop("embeddings.patch_embeddings.projection.bias")
    cls, patches = weights["embeddings.position_embeddings"][0].float().split([1, 64])
    patches = patches.T.view(1, -1, 8, 8)
    patches = (
        F.interpolate(patches, size=(SIZE // PATCH, SIZE // PATCH), mode="bicubic", align_corners=False).flatten(2)[0].T
    )
    weights["embeddings.position_embeddings"] = torch.cat([cls, patches + weights.pop("bias").float()])
    places = {
        "embeddings.cls_token": "embeddings.class_embedding",
        "embeddings.patch_embeddings.projection": "embeddings.patch_embedding",
        "embeddings.position_embeddings": "embeddings.position_embedding.weight",
        "encoder.layer": "encoder.layers", "layernorm_before": "layer_norm1", "layernorm_after": "layer_norm2",
        "attention.attention.query": "self_attn.q_proj", "attention.attention.key": "self_attn.k_proj",
        "attention.attention.value": "self_attn.v_proj", "attention.output.dense": "self_attn.out_proj",
        "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2",
    }  # fmt: skip
    own = vision.state_dict()
    for name, weight in weights.items():
        for theirs, ours in places.items():
            name = name.replace(theirs, ours)
        _, _, rest = name.partition("encoder.layers.")
        if rest:
            number, _, rest = rest.partition(".")
            name = f"encoder.layers.{blocks.index(int(number))}.{rest}" if int(number) in blocks else ""
        if name in own:
            own[name].copy_(weight.float().view_as(own[name]))


@torch.no_grad()
def accuracy(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, split: Split, length: int) -> float:
    """Share of scenes whose two best captions "a zero" to "a nine" are those of its two digits."""
    ids = tokenizer([with_article(word) for word in WORDS], padding=True, return_tensors="pt")
    hits = 0
    for start in range(0, length, 200):
        scenes = [compose_captioned(split, i) for i in range(start, min(start + 200, length))]
        inputs = torch.stack([pixels(scene.image) for scene in scenes])
        best = model(**ids, pixel_values=inputs).logits_per_image.topk(2).indices.tolist()
        hits += sum(set(found) == set(scene.labels) for found, scene in zip(best, scenes, strict=True))
    return hits / length


def main(output: Path = FOLDER, scenes: Sequence[int] = TRAIN_SCENES, blocks: Sequence[int] = BLOCKS) -> None:
    """Train, measure and write everything that ships.

    First captions are compared with each other, which soon tells digits apart. They may then share a direction, along
    which any digit speaks for every caption; so they are learned pair by pair afterwards, until 0 divides what is true
    from what is not.
    """
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = build(tokenizer, blocks)
    for count, pair_by_pair in zip(scenes, (False, True), strict=True):
        torch.manual_seed(0)
        warmup, every = (30, 50) if pair_by_pair else (200, 100)
        loading: dict[str, Any] = {"dataloader_num_workers": 1, "remove_unused_columns": False}
        arguments = training_arguments(output, batch=BATCH, warmup=warmup, logging_steps=every, **loading)
        arguments.learning_rate = 7e-4 if pair_by_pair else 1e-3
        trainer = MatchTrainer(model=model, args=arguments, train_dataset=Captioned("train", count, tokenizer))
        trainer.words = tokenizer([with_article(word) for word in WORDS], return_tensors="pt")["input_ids"]
        trainer.pair_by_pair = pair_by_pair
        trainer.train()
        model = model.half().float()
    save(model.eval(), tokenizer, output)


def save(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, output: Path) -> None:
    """Write the model in float16, its processor and tokenizer, what was measured and the shipped scenes."""
    measured = {"test_accuracy": accuracy(model, tokenizer, "test", TEST_SCENES), "test_scenes": TEST_SCENES}
    print(measured)
    write_model(model, output, measured, tokenizer)
    write_processor(output, "CLIPImageProcessor", SIZE)
    scenes = [compose_captioned("test", TEST_SCENES + i) for i in range(SHIPPED_SCENES)]
    write_scenes(
        output,
        images=np.stack([s.image for s in scenes]),
        masks=np.stack([s.masks for s in scenes]),
        labels=np.array([s.labels for s in scenes]),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=FOLDER)
    parser.add_argument("--scenes", type=int, nargs=2, default=TRAIN_SCENES)
    parser.add_argument("--blocks", type=int, nargs="+", default=BLOCKS)
    given = parser.parse_args()
    main(given.output, given.scenes, given.blocks)
