"""Models as people write them themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from support.zoo_common import TEXT, Made, T, in_zoo, likeliest, loud, noise, tokens
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

ONE = ("sdpa",)
WIDTH, CLASSES = 16, 5


def _vit(kernel: str = "sdpa") -> nn.Module:
    model = VisionTransformer(img_size=16, patch_size=8, embed_dim=WIDTH, depth=2, num_heads=2, num_classes=0)
    for block in model.blocks:
        block.attn.fused_attn = kernel == "sdpa"
    return model


def _bert(kernel: str) -> nn.Module:
    config = T.BertConfig(**TEXT)
    config._attn_implementation = kernel
    return T.BertModel(config)


class OwnHeadOnViT(nn.Module):
    def __init__(self, kernel: str) -> None:
        super().__init__()
        self.backbone = _vit(kernel)
        self.head = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, CLASSES))

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.backbone.forward_features(image)[:, 1:].mean(1))


@in_zoo("image")
def own_head_on_vit(kernel: str) -> Made:
    return loud(OwnHeadOnViT(kernel)), noise(2, 3, 16, 16), likeliest


class OwnHeadOnBert(nn.Module):
    def __init__(self, kernel: str) -> None:
        super().__init__()
        self.bert = _bert(kernel)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        words = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        real = attention_mask[..., None].to(words.dtype)
        return self.head((words * real).sum(1) / real.sum(1))


@in_zoo("input_ids")
def own_head_on_bert(kernel: str) -> Made:
    ids = tokens(7)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return loud(OwnHeadOnBert(kernel)), {"input_ids": ids, "attention_mask": mask}, likeliest


class PictureAndTable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.columns = _vit(), nn.Linear(6, WIDTH)
        self.head = nn.Sequential(nn.Linear(2 * WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))

    def forward(self, picture: Tensor, table: Tensor) -> Tensor:
        seen, read = self.backbone(picture), torch.tanh(self.columns(table))
        return self.head(torch.cat([seen, read], -1))


@in_zoo("picture", "table", kernels=ONE)
def picture_and_table(kernel: str) -> Made:
    return loud(PictureAndTable()), {"picture": noise(2, 3, 16, 16), "table": noise(2, 6, seed=1)}, likeliest


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.age, self.kind = _vit(), nn.Linear(WIDTH, 1), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.backbone(x)
        return {"age": self.age(features), "kind": self.kind(features)}


@in_zoo("x", kernels=ONE)
def two_heads(kernel: str) -> Made:
    return loud(TwoHeads()), noise(2, 3, 16, 16), lambda output: output["age"][:, 0] + output["kind"][:, 2]


class Siamese(nn.Module):
    """One network sees both pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = _vit()

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return F.cosine_similarity(self.backbone(first), self.backbone(second))


@in_zoo("first", "second", kernels=ONE)
def siamese(kernel: str) -> Made:
    return loud(Siamese()), (noise(2, 3, 16, 16), noise(2, 3, 16, 16, seed=1)), lambda output: output


class Recurrent(nn.Module):
    def __init__(self, kind: type[Any], **options: Any) -> None:
        super().__init__()
        self.words = nn.Embedding(50, WIDTH)
        self.layers = kind(WIDTH, WIDTH, batch_first=True, **options)
        self.head = nn.Linear(WIDTH * (2 if options.get("bidirectional") else 1), CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        states, _ = self.layers(self.words(ids))
        return self.head(states[:, -1] + states.mean(1))


@in_zoo("ids", kernels=ONE)
def lstm(kernel: str) -> Made:
    return loud(Recurrent(nn.LSTM, num_layers=2, bidirectional=True)), tokens(5), likeliest


@in_zoo("ids", kernels=ONE)
def gru(kernel: str) -> Made:
    return loud(Recurrent(nn.GRU)), tokens(5), likeliest


class Encoder(nn.Module):
    def __init__(self, *, batch_first: bool, norm_first: bool = False) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.words, self.place = nn.Embedding(50, WIDTH), nn.Parameter(torch.zeros(6, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, 2, 24, activation="gelu", batch_first=batch_first, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.place
        if self.batch_first:
            return self.head(self.encoder(x)[:, 0])
        return self.head(self.encoder(x.transpose(0, 1))[0])


@in_zoo("ids", kernels=ONE)
def encoder_token_first(kernel: str) -> Made:
    return loud(Encoder(batch_first=False)), tokens(6), likeliest


@in_zoo("ids", kernels=ONE)
def encoder_batch_first(kernel: str) -> Made:
    return loud(Encoder(batch_first=True, norm_first=True)), tokens(6), likeliest


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, stride=2, groups=2), nn.BatchNorm2d(8, affine=False), nn.Hardswish(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, CLASSES),
        )  # fmt: skip

    def forward(self, picture: Tensor) -> Tensor:
        return self.layers(picture)


@in_zoo("picture", kernels=ONE)
def convolutions(kernel: str) -> Made:
    model = loud(Convolutions())
    for i, norm in enumerate(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.copy_(noise(8, seed=i))
        norm.running_var.copy_(noise(8, seed=i + 2).square() + 0.5)
    return model, noise(2, 3, 16, 16), likeliest


class Series(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(4, 8, 5, padding="same")
        self.second = nn.Conv1d(8, 8, 3, dilation=2, padding=2)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, series: Tensor) -> Tensor:
        x = F.avg_pool1d(F.elu(self.first(series)), 2)
        x = x + F.leaky_relu(self.second(x))
        return self.head(F.adaptive_max_pool1d(x, 1).squeeze(-1))


@in_zoo("series", kernels=ONE)
def series(kernel: str) -> Made:
    return loud(Series()), {"series": noise(2, 4, 20)}, likeliest


class InPlace(nn.Module):
    """Changes what it was given, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mark, self.head = nn.Parameter(torch.zeros(WIDTH)), nn.Linear(WIDTH, CLASSES)

    def forward(self, table: Tensor) -> Tensor:
        table *= 2
        table[:, 0] = 0.5
        table[:, 1:3] += table[:, 3:5]
        x = self.first(table).relu_()
        y = torch.zeros(len(x), 2, WIDTH, dtype=x.dtype, device=x.device)
        y[:, 0] = self.second(x)
        y[:, 1] = self.mark
        y[:, 1, 3:] += x[:, 3:]
        y.clamp_(max=1.5).div_(2).sub_(0.1)
        return self.head(y.sum(1))


@in_zoo("table", kernels=ONE)
def in_place(kernel: str) -> Made:
    return loud(InPlace()), noise(2, 6), likeliest


class ActivatedInPlace(nn.Module):
    """What the activation returns is left aside: it changed its argument."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.act = nn.ELU(inplace=True)

    def forward(self, table: Tensor) -> Tensor:
        x = self.first(table)
        F.leaky_relu(x, 0.3, True)
        y = self.second(x)
        self.act(y)
        return self.head(y)


@in_zoo("table", kernels=ONE)
def activated_in_place(kernel: str) -> Made:
    return loud(ActivatedInPlace()), noise(2, 6), likeliest


class TokenFirst(nn.Module):
    """Is given token numbers (token, batch)."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.layers, self.head = nn.Embedding(50, WIDTH), nn.GRU(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.layers(self.words(ids))[0][-1])


@in_zoo("ids", kernels=ONE, alone=False)
def given_token_first(kernel: str) -> Made:
    return loud(TokenFirst()), tokens(5).T.contiguous(), likeliest


class LookedUp(nn.Module):
    """Words are looked up in one of the ways there are; `looked` only lets pass what was."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.looked = way, nn.Identity()
        self.words, self.mix = nn.Embedding(50, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        if self.way == "indexed":
            x = self.looked(self.words.weight[ids])
        elif self.way == "token first":
            x = self.looked(self.words(ids.t().contiguous())).transpose(0, 1)
        else:  # a beginning of its own, and padding to a whole number of fours
            begun = torch.cat([torch.full_like(ids[:, :1], 1), ids], 1)
            x = self.looked(self.words(F.pad(begun, (0, -begun.shape[1] % 4), value=0)))
        steps = torch.arange(1, x.shape[1] + 1, dtype=x.dtype, device=x.device)[:, None]
        x = x + torch.tanh(self.mix(x.cumsum(1) / steps))
        return self.head(x.amax(1))


def _looked_up(way: str) -> Made:
    return loud(LookedUp(way)), tokens(6), likeliest


@in_zoo("ids", kernels=ONE, looked_up={"ids": {"looked": lambda values: values}})
def indexed_table(kernel: str) -> Made:
    return _looked_up("indexed")


@in_zoo("ids", kernels=ONE, looked_up={"ids": {"looked": lambda values: values.T}})
def ids_token_first(kernel: str) -> Made:
    return _looked_up("token first")


@in_zoo("ids", kernels=ONE, looked_up={"ids": {"looked": lambda values: values[:, 1:7]}})
def ids_padded_inside(kernel: str) -> Made:
    return _looked_up("padded")


class OfOneMapping(nn.Module):
    takes_mapping = True

    def __init__(self) -> None:
        super().__init__()
        self.words, self.sounds, self.head = nn.Embedding(50, WIDTH), nn.Linear(4, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        words, sounds = self.words(batch["words"]), self.sounds(batch["sound"])
        weights = torch.softmax(words @ sounds.mT, -1)
        return self.head((words + weights @ sounds).mean(1))


@in_zoo("words", "sound", kernels=ONE)
def of_one_mapping(kernel: str) -> Made:
    return loud(OfOneMapping()), {"words": tokens(5), "sound": noise(2, 7, 4)}, likeliest
