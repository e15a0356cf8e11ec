"""Stand-ins for what docs/reproduce.md tells to download: its names and file formats, small and random inside.

`StandIns` makes each of them when it is first asked for. Data lie under the names that the commands use; models of the
Hub lie in a cache as `huggingface_hub` writes it, data sets of the Hub as folders with the files of their repositories,
which `datasets` reads as it reads the repositories.
"""

from __future__ import annotations

import csv
import io
import json
import random
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import scipy.io
import timm
import timm.data
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

HASH = "0123456789abcdef0123456789abcdef01234567"  # of the only commit of each repository
WORDS = [
    "the", "a", "film", "story", "planet", "orbit", "of", "in", "and", "was", "is", "it", "this", "that", "with",
    "plot", "actor", "dull", "brilliant", "quiet", "charming", "slow", "year", "people", "world", "water", "energy",
    "light", "plant", "animal", "earth", "sun", "moon", "time", "place", "very", "never", "always", "why", "which",
    "many",
]  # fmt: skip


def sentence(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(count))


# --- Pictures -------------------------------------------------------------------------------------------------------


def picture(seed: int, width: int = 80, height: int = 60) -> Image.Image:
    """A bright rectangle on noise."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 120, (height, width, 3), dtype=np.uint8)
    pixels[height // 4 : height // 2, width // 3 : width // 2] = rng.integers(150, 255, 3)
    return Image.fromarray(pixels)


def jpeg(path: Path) -> None:
    picture(len(path.name)).save(path, "JPEG")


def _added(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def imagenet_val(folder: Path, pictures: int = 20) -> None:
    """The two files as image-net.org has them: pictures by number, and the devkit, which counts classes its own way."""
    folder.mkdir()
    rng = random.Random(0)
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as tar:
        for number in range(1, pictures + 1):
            data = io.BytesIO()
            picture(number).save(data, "JPEG")
            _added(tar, f"ILSVRC2012_val_{number:08d}.JPEG", data.getvalue())
    wnids = list(timm.data.ImageNetInfo().label_names())
    rng.shuffle(wnids)
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = [(float(i), wnid, "words", "gloss", 0.0) for i, wnid in enumerate(wnids, 1)]
    meta = io.BytesIO()
    scipy.io.savemat(
        meta, {"synsets": np.array([*rows, (1001.0, "n00001740", "entity", "", 2.0)], dtype=kinds)[:, None]}
    )
    truth = "".join(f"{rng.randint(1, 1000)}\n" for _ in range(pictures))
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        _added(tar, "ILSVRC2012_devkit_t12/data/meta.mat", meta.getvalue())
        _added(tar, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", truth.encode())


def pert_index(path: Path) -> None:
    np.save(path, np.array([17, 3, 11, 8]))


def class_names(path: Path) -> None:
    """A name for each class; two of ImageNet's classes have one name, so that it has to be made another."""
    info = timm.data.ImageNetInfo()
    found: dict[str, None] = {}
    for i in range(1000):
        name = info.index_to_description(i).partition(",")[0]
        found[name if name not in found else f"{name} {i}"] = None
    path.write_text("\n".join(found) + "\n", "utf-8")


def segmentation(path: Path, count: int = 8) -> None:
    """As MATLAB 7.3 writes a struct array: each field a column of references, axes in reverse."""
    with h5py.File(path, "w", userblock_size=512) as file:
        refs = file.create_group("#refs#")

        def refer(array: Any, kind: Any = None) -> Any:
            return refs.create_dataset(f"r{len(refs)}", data=array, dtype=kind).ref

        def text(words: str) -> Any:
            return refer(np.array([[ord(c)] for c in words], dtype=np.uint16))

        columns: dict[str, list[Any]] = {"gt": [], "id": [], "img": [], "target": []}
        for i in range(count):
            pixels = np.asarray(picture(i))
            mask = (pixels.max(-1) > 140).astype(np.uint8)
            columns["img"].append(refer(pixels.transpose(2, 1, 0)))
            columns["gt"].append(refer(np.array([[refer(mask.T)]], dtype=h5py.ref_dtype), h5py.ref_dtype))
            columns["id"].append(text(f"n01443537_{i}"))
            columns["target"].append(text("n01443537"))
        for name, column in columns.items():
            data = np.array(column, dtype=h5py.ref_dtype)[:, None]
            file.create_dataset(f"value/{name}", data=data, dtype=h5py.ref_dtype)


# --- Texts ----------------------------------------------------------------------------------------------------------


def movies(folder: Path) -> None:
    """ERASER's film reviews: a sentence on each line; the first of a split is longer than BERT reads."""
    (folder / "docs").mkdir(parents=True)
    for split, first in (("train", 0), ("val", 800), ("test", 900)):
        rows: list[dict[str, Any]] = []
        for i, lines in enumerate((60, 10, 12, 8)):
            kind, rng = ("NEG", "POS")[i % 2], random.Random(first + i)
            name = f"{kind.lower()}R_{first + i:03d}.txt"
            words = [[*sentence(rng, 9).split(), "."] for _ in range(lines)]
            (folder / "docs" / name).write_text("\n".join(map(" ".join, words)) + "\n", "utf-8")
            flat = [word for line in words for word in line]
            spans = [(3, 7), (24, 31), (40, 44)]
            evidences = [
                [
                    {
                        "docid": name, "start_token": a, "end_token": b, "start_sentence": -1, "end_sentence": -1,
                        "text": " ".join(flat[a:b]),
                    }
                ]
                for a, b in spans
            ]  # fmt: skip
            question = "What is the sentiment of this review?"
            row = {"annotation_id": name, "classification": kind, "docids": None, "evidences": evidences}
            rows.append({**row, "query": question, "query_type": None})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


NEWSGROUPS = [
    "alt.atheism", "comp.graphics", "comp.os.ms-windows.misc", "comp.sys.ibm.pc.hardware", "comp.sys.mac.hardware",
    "comp.windows.x", "misc.forsale", "rec.autos", "rec.motorcycles", "rec.sport.baseball", "rec.sport.hockey",
    "sci.crypt", "sci.electronics", "sci.med", "sci.space", "soc.religion.christian", "talk.politics.guns",
    "talk.politics.mideast", "talk.politics.misc", "talk.religion.misc",
]  # fmt: skip


def newsgroups(folder: Path) -> None:
    """Posts with headers, quotes and a signature; in the test part more than the 3,000 that are drawn of it."""
    for part, each, first in (("train", 2, 0), ("test", 151, 500)):
        for g, group in enumerate(NEWSGROUPS):
            place = folder / f"20news-bydate-{part}" / group
            place.mkdir(parents=True)
            for i in range(first, first + each):
                rng = random.Random(1000 * g + i)
                post = (
                    f"From: reader{i}@site.example (A. Reader)\nSubject: Re: {sentence(rng, 3)}\nOrganization: A "
                    f"site\nLines: 9\nNntp-Posting-Host: host.example\n\nIn article <{i}@site.example> somebody "
                    f"writes:\n> {sentence(rng, 6)}\n> {sentence(rng, 6)}\n\n{sentence(rng, 10)}, Andr\u00e9.\n"
                    f"{sentence(rng, 8)}.\n\n--\nA. Reader, somewhere\n"
                )
                (place / str(50000 + 1000 * g + i)).write_bytes(post.encode("latin-1"))


def imdb(path: Path) -> None:
    rng = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["review", "sentiment"])
        for i in range(6):
            review = f'{sentence(rng, 9).capitalize()}, "{sentence(rng, 4)}".<br /><br />It\'s {sentence(rng, 8)}!'
            writer.writerow([review, ("positive", "negative")[i % 2]])


def _repository(folder: Path, configs: dict[str, dict[str, list[dict[str, Any]]]]) -> None:
    """A data set's repository: Parquet files, and a README that says which of them make which config and split."""
    lines = ["---", "configs:"]
    for config, splits in configs.items():
        (folder / config).mkdir(parents=True)
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            table = pyarrow.Table.from_pylist(rows)
            pyarrow.parquet.write_table(table, folder / config / f"{split}-00000-of-00001.parquet")
            lines += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]), "utf-8")


def arc(folder: Path) -> None:
    """Questions whose right answer is that which the stand-in of Llama 3.1 gives, but for one."""

    def question(i: int, key: str) -> dict[str, Any]:
        rng = random.Random(i)
        choices = {"text": [sentence(rng, 2) for _ in range(4)], "label": list("ABCD")}
        return {"id": f"Mercury_{i}", "question": f"{sentence(rng, 8)}?", "choices": choices, "answerKey": key}

    splits = {
        "train": [question(i, key) for i, key in enumerate((ANSWER, "D"))],
        "test": [question(i, ANSWER) for i in (2, 3)],
        "validation": [question(4, ANSWER)],
    }
    _repository(folder, {"ARC-Challenge": splits, "ARC-Easy": splits})


def wikipedia(folder: Path) -> None:
    rng = random.Random(0)
    rows = [
        {
            "id": str(i), "url": f"https://en.wikipedia.org/wiki/{i}", "title": f"Article {i}",
            "text": f"{sentence(rng, 12)}.\n\n{sentence(rng, 12)}.",
        }
        for i in range(3)
    ]  # fmt: skip
    _repository(folder, {"20231101.de": {"train": rows[:1]}, "20231101.en": {"train": rows}})


# --- Models of timm, and checkpoints for them -----------------------------------------------------------------------

_create_model = timm.create_model
SMALL = {"embed_dim": 24, "num_heads": 3, "patch_size": 32}
DEPTH = {"vit_base_patch16_224.orig_in21k_ft_in1k": 7}  # for start_layer=6; three blocks for others


def create_model(name: str, pretrained: bool = False, **given: Any) -> nn.Module:
    """timm's function of that name, but for the sizes of the model, and random weights where it would fetch some."""
    torch.manual_seed(0)
    return moved(_create_model(name, pretrained=False, depth=DEPTH.get(name, 3), **(SMALL | given)))


def moved(model: nn.Module) -> nn.Module:
    """Weights large enough for attention to be far from uniform."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_((0.2 if parameter.ndim > 1 else 0.1) * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def mae(path: Path) -> None:
    model = create_model("vit_base_patch16_224.mae", num_classes=1000, global_pool="avg", fc_norm=True)
    torch.save({"model": model.state_dict()}, path)


def dino(path: Path) -> None:
    torch.save(create_model("vit_base_patch16_224.dino", num_classes=0).state_dict(), path)


def dino_linear(path: Path) -> None:
    head = nn.Linear(2 * SMALL["embed_dim"], 1000)
    weights = {f"module.linear.{name}": value for name, value in head.state_dict().items()}
    torch.save({"epoch": 100, "state_dict": weights, "optimizer": {"state": {}}, "best_acc": 78.2}, path)


def moco(path: Path) -> None:
    weights = create_model("vit_base_patch16_224", num_classes=1000).state_dict()
    inside = {"epoch": 90, "arch": "vit_base", "state_dict": {f"module.{k}": v for k, v in weights.items()}}
    torch.save({**inside, "best_acc1": torch.tensor(76.7), "optimizer": {"state": {}}}, path)


def deit(path: Path) -> None:
    torch.save({"model": create_model("deit_tiny_patch16_224").state_dict()}, path)


# --- Tokenizers -----------------------------------------------------------------------------------------------------


def _corpus() -> Iterator[str]:
    rng = random.Random(0)
    yield from (sentence(rng, 12) for _ in range(20))
    yield from (f"A. {word}. a photo of a dog, Answer: {c} Once upon" for word in WORDS for c in "ABCD")


def wordpiece(folder: Path) -> int:
    """BERT's tokenizer as bert-base-uncased has it; the number of its tokens."""
    tokens = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokens.normalizer, tokens.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens.train_from_iterator(_corpus(), trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    tokens.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokens.decoder = decoders.WordPiece()
    tokens.save(str(folder / "tokenizer.json"))
    words = sorted(tokens.get_vocab(), key=tokens.get_vocab().__getitem__)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", "utf-8")
    settings = {"do_lower_case": True, "model_max_length": 512, "tokenizer_class": "BertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(words)


def clip_tokens(folder: Path) -> int:
    """CLIP's tokenizer: pieces of words, of which the last ends in `</w>`; the end of a text is the last token."""
    tokens = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokens.normalizer = normalizers.Lowercase()
    tokens.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokens.train_from_iterator(_corpus(), trainers.BpeTrainer(vocab_size=900, end_of_word_suffix="</w>"))
    merges = [tuple(one) for one in json.loads(tokens.to_str())["model"]["merges"]]
    words = [*sorted(alphabet), *(f"{c}</w>" for c in sorted(alphabet)), *("".join(pair) for pair in merges)]
    words = [*dict.fromkeys(words), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges), ""]), "utf-8")
    settings = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, "errors": "replace",
        "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>", "add_prefix_space": False,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(words)


def llama_2_tokens(folder: Path) -> int:
    """Llama 2's: pieces of SentencePiece with a token for each byte, and an unknown token."""
    learnt = Tokenizer(models.BPE(unk_token="<unk>"))
    learnt.pre_tokenizer = pre_tokenizers.Metaspace()
    learnt.train_from_iterator(_corpus(), trainers.BpeTrainer(vocab_size=300))
    model = json.loads(learnt.to_str())["model"]
    words = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *model["vocab"]]
    merges = [tuple(one) for one in model["merges"]]
    whole = models.BPE(
        {w: i for i, w in enumerate(words)}, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True
    )
    tokens = Tokenizer(whole)
    tokens.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokens.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokens.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    tokens.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokens.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "add_bos_token": True, "add_eos_token": False, "legacy": False, "model_max_length": 10**30,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(words)


def llama_3_tokens(folder: Path) -> int:
    """Llama 3's: pieces of bytes, a beginning, no unknown token and no padding."""
    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer, tokens.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    trainer = trainers.BpeTrainer(vocab_size=450, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokens.train_from_iterator(_corpus(), trainer)
    tokens.add_special_tokens(special)
    start = tokens.token_to_id(special[0])
    tokens.post_processor = processors.TemplateProcessing(
        single=f"{special[0]} $A", pair=f"{special[0]} $A {special[0]}:1 $B:1", special_tokens=[(special[0], start)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokens, bos_token=special[0], eos_token=special[2])
    fast.save_pretrained(folder)
    return len(fast)


# --- Models of Hugging Face -----------------------------------------------------------------------------------------

ANSWER = "B"  # what the stand-in of Llama 3.1 answers to all questions


def _bert(tokens: int, cls: Any = BertForSequenceClassification, **more: Any) -> Any:
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 32}
    torch.manual_seed(0)
    return moved(cls(BertConfig(vocab_size=tokens, max_position_embeddings=512, **sizes, **more)))


def _llama(tokens: int, cls: Any = LlamaForCausalLM, **more: Any) -> Any:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    settings = {"max_position_embeddings": 4096, "num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2, **more}
    torch.manual_seed(0)
    return moved(cls(LlamaConfig(vocab_size=tokens, **sizes, **settings)))


def bert_base(folder: Path) -> None:
    _bert(wordpiece(folder), BertForMaskedLM).save_pretrained(folder)


def llama_2(folder: Path) -> None:
    """In pieces, as large models are."""
    _llama(llama_2_tokens(folder)).save_pretrained(folder, max_shard_size="50KB")


def llama_3(folder: Path) -> None:
    """One that has its answer ready where a prompt ends in "Answer:"."""
    count = llama_3_tokens(folder)
    tokens = PreTrainedTokenizerFast.from_pretrained(folder)
    start, end = tokens.bos_token_id, tokens.eos_token_id
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling = {"rope_scaling": {**rope, "original_max_position_embeddings": 8192}, "rope_theta": 500000.0}
    model = _llama(count, bos_token_id=start, eos_token_id=end, **scaling)
    with torch.no_grad():
        said = model.model(**tokens("Reply with the letter.\nAnswer:", return_tensors="pt")).last_hidden_state[0, -1]
        model.lm_head.weight[tokens(f" {ANSWER}", add_special_tokens=False)["input_ids"][-1]] = 2 * said
    model.save_pretrained(folder, max_shard_size="50KB")


def clip(folder: Path) -> None:
    tokens = clip_tokens(folder)
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 3}
    text = {**sizes, "vocab_size": tokens, "max_position_embeddings": 77, "bos_token_id": 0, "eos_token_id": 2}
    vision = {**sizes, "image_size": 224, "patch_size": 32}
    torch.manual_seed(0)
    moved(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))).save_pretrained(folder)
    settings = {
        "crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3, "size": 224,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def fine_tuned_bert(folder: Path) -> None:
    """For 20 Newsgroups, with the names of classes that a model gets by itself: LABEL_0, …"""
    folder.mkdir()
    _bert(wordpiece(folder), num_labels=len(NEWSGROUPS)).save_pretrained(folder)


def fine_tuned_llama(folder: Path) -> None:
    """For IMDB."""
    folder.mkdir()
    names = {0: "negative", 1: "positive"}
    labels = {"id2label": names, "label2id": {v: k for k, v in names.items()}, "pad_token_id": 2}
    _llama(llama_2_tokens(folder), LlamaForSequenceClassification, **labels).save_pretrained(folder)


def bert_classifier(path: Path) -> None:
    """A state dict of an old transformers, which saved the numbers of positions, too."""
    scratch = path.parent / f"{path.name}-tokenizer"
    scratch.mkdir()
    weights = _bert(wordpiece(scratch), num_labels=2).state_dict()
    torch.save({"bert.embeddings.position_ids": torch.arange(512)[None], **weights}, path)


# --- All together ---------------------------------------------------------------------------------------------------

# By the name that the commands have for it. FOLDER is made for the task: see `StandIns.place`.
INPUTS: dict[str, Callable[[Path], None]] = {
    "cat.jpg": jpeg,
    "park.jpg": jpeg,
    "IMAGENET_VAL": imagenet_val,
    "pert_index.npy": pert_index,
    "names.txt": class_names,
    "gtsegs_ijcv.mat": segmentation,
    "movies": movies,
    "20news-bydate": newsgroups,
    "imdb.csv": imdb,
    "mae_finetuned_vit_base.pth": mae,
    "dino_vitbase16_pretrain.pth": dino,
    "dino_vitbase16_linearweights.pth": dino_linear,
    "linear-vit-b-300ep.pth.tar": moco,
    "classifier.pt": bert_classifier,
    "X.pth": deit,
}
FOLDERS = {"20newsgroups": fine_tuned_bert, "imdb": fine_tuned_llama}
HUB_MODELS: dict[str, Callable[[Path], None]] = {
    "bert-base-uncased": bert_base,
    "openai/clip-vit-base-patch32": clip,
    "meta-llama/Llama-2-7b-hf": llama_2,
    "meta-llama/Llama-3.1-8B-Instruct": llama_3,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": llama_2,
}
HUB_DATA: dict[str, Callable[[Path], None]] = {"allenai/ai2_arc": arc, "wikimedia/wikipedia": wikipedia}


class StandIns:
    """All stand-ins, each made when it is first needed; `cache` is the Hub's, to be made known to its libraries."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.cache = root / "hub"

    def place(self, words: list[str], folder: Path) -> None:
        """Put what a command names where it looks for it: files and folders into `folder`, models into the cache."""
        for word in words:
            name = word.rpartition("=")[2]
            if name.startswith("hf:"):
                self._from_hub(name.removeprefix("hf:"), folder)
            elif name.split("/")[0] in INPUTS:
                self._link(name.split("/")[0], INPUTS[name.split("/")[0]], folder)
            elif name == "FOLDER":
                task = next((task for task in FOLDERS if task in words), "imdb")
                self._link(name, FOLDERS[task], folder)

    def _link(self, name: str, make: Callable[[Path], None], folder: Path) -> None:
        if not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(self._made(name, make))

    def _made(self, name: str, make: Callable[[Path], None]) -> Path:
        path = self._root / make.__name__ / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            make(path)
        return path

    def _from_hub(self, name: str, folder: Path) -> None:
        if name in HUB_DATA:
            self._link(name, HUB_DATA[name], folder)
        repository = self.cache / f"models--{name.replace('/', '--')}"
        if name in HUB_MODELS and not repository.exists():
            snapshot = repository / "snapshots" / HASH
            snapshot.mkdir(parents=True)
            HUB_MODELS[name](snapshot)
            (repository / "refs").mkdir()
            (repository / "refs" / "main").write_text(HASH)
