"""Train `mini:reviews-bert` and `mini:reviews-llama`: `python -m clew.minis.train_reviews bert` (or `llama`).

Each takes some two minutes on 2 cores; the runs are seeded. The model learns how much evidence there is, not only which
way it points, so that no word is without effect because others have already decided. Writes the model's folder with its
tokenizer, trained on the same reviews, and records what was measured: accuracy on 1,000 reviews of the test split.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    Trainer,
)

from .film_reviews import LABELS, Split, compose_review
from .training import training_arguments, write_model

Kind = Literal["bert", "llama"]
FOLDER = Path(__file__).parent
TRAIN_REVIEWS, TEST_REVIEWS, BATCH = 38_400, 1_000, 64
LONGEST = 256  # tokens; the longest review has fewer than 150
LOGIT_PER_WORD = 1.5  # what one more decisive word adds to the difference of the two logits


class Reviews(Dataset[dict[str, Any]]):
    """Reviews `0 .. length - 1` of a split as the model's inputs, not padded."""

    def __init__(self, split: Split, length: int, tokenizer: PreTrainedTokenizerFast) -> None:
        self.split: Split = split
        self.length = length
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        review = compose_review(self.split, index)
        return {"input_ids": self.tokenizer(review.text)["input_ids"], "labels": float(review.evidence)}


def build_tokenizer(kind: Kind) -> PreTrainedTokenizerFast:
    """WordPiece for BERT, byte-level BPE for Llama, large enough that every word of the corpus is one token.

    Were some words cut into more pieces than others, then those would have more chances of a large score.
    """
    texts = [compose_review("train", i).text for i in range(5_000)]
    if kind == "bert":
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        trained.normalizer = normalizers.BertNormalizer(lowercase=True)
        trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trained.decoder = decoders.WordPiece()
        trained.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=760, special_tokens=special))
        trained.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        roles = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    else:
        special = ["<pad>", "<s>", "</s>"]
        trained = Tokenizer(models.BPE())
        trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trained.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=1_200, special_tokens=special, initial_alphabet=alphabet)
        trained.train_from_iterator(texts, trainer)
        trained.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
        roles = ("pad_token", "bos_token", "eos_token")
    more: dict[str, Any] = dict(zip(roles, special, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=trained, model_max_length=LONGEST, model_input_names=["input_ids", "attention_mask"], **more
    )


def build(kind: Kind, tokenizer: PreTrainedTokenizerFast, layers: int) -> Any:
    """The untrained model."""
    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 192,
        "max_position_embeddings": LONGEST,
        "initializer_range": 0.05,
        "pad_token_id": tokenizer.pad_token_id,
        "id2label": dict(enumerate(LABELS)),
        "label2id": {name: i for i, name in enumerate(LABELS)},
    }
    if kind == "bert":
        return BertForSequenceClassification(BertConfig(attention_probs_dropout_prob=0.0, **shared))
    # A norm divides a token's size away, and then the gradient times the input is 0 at the input whatever a token says;
    # an epsilon as large as what it normalises leaves most of the size.
    ends: dict[str, Any] = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return LlamaForSequenceClassification(LlamaConfig(num_key_value_heads=2, rms_norm_eps=0.1, **ends, **shared))


def graded_loss(output: Any, evidence: Tensor, num_items_in_batch: Any = None) -> Tensor:
    """Cross entropy to the probability that the evidence gives."""
    positive = torch.sigmoid(LOGIT_PER_WORD * evidence.float())
    return F.cross_entropy(output["logits"], torch.stack([1 - positive, positive], dim=1))


@torch.no_grad()
def accuracy(model: Any, tokenizer: Any, split: Split, length: int) -> float:
    """Share of reviews whose label the model gives."""
    hits = 0
    for start in range(0, length, 100):
        reviews = [compose_review(split, i) for i in range(start, min(start + 100, length))]
        inputs = tokenizer([r.text for r in reviews], padding=True, return_tensors="pt")
        hits += int((model(**inputs).logits.argmax(-1) == torch.tensor([r.label for r in reviews])).sum())
    return hits / length


def main(kind: Kind, output: Path | None = None, train_reviews: int = TRAIN_REVIEWS, layers: int = 2) -> None:
    """Train, measure and write everything that ships."""
    output = output or FOLDER / f"reviews-{kind}"
    torch.manual_seed(0)
    tokenizer = build_tokenizer(kind)
    model = build(kind, tokenizer, layers)
    head = model.classifier if kind == "bert" else model.score
    with torch.no_grad():
        head.weight[1] = -head.weight[0]  # and stays so: what is common to both logits would mean nothing
    arguments = training_arguments(output, batch=BATCH, warmup=60, logging_steps=100)
    data = Reviews("train", train_reviews, tokenizer)
    collate = DataCollatorWithPadding(tokenizer)
    Trainer(model, arguments, train_dataset=data, data_collator=collate, compute_loss_func=graded_loss).train()
    model.half().float().eval()  # measured with the weights that ship
    measured = {"test_accuracy": accuracy(model, tokenizer, "test", TEST_REVIEWS), "test_reviews": TEST_REVIEWS}
    print(measured)
    write_model(model, output, measured, tokenizer)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["bert", "llama"])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    main(given.kind, given.output, layers=given.layers)
