"""Models of any kind from folders: what `config.json` names, adapters, sentence encoders; and pipelines."""

from __future__ import annotations

import json

import peft
import pytest
import sentence_transformers
import torch
import transformers
from sentence_transformers import models as parts
from tokenizers import Tokenizer, models, pre_tokenizers

import clew
from clew.errors import LoadError

SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 32}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "dog", "sat", "ran"]


def tokenizer():
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


@pytest.mark.parametrize(
    "kind", ["BertForMaskedLM", "BertModel", "T5ForConditionalGeneration", "BertForMultipleChoice"]
)
def test_what_the_configuration_names_is_loaded(kind, tmp_path):
    torch.manual_seed(0)
    if kind.startswith("T5"):
        config = transformers.T5Config(vocab_size=40, d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=3)
    else:
        config = transformers.BertConfig(**SMALL, vocab_size=40)
    model = getattr(transformers, kind)(config).eval()
    model.save_pretrained(tmp_path)
    loaded = clew.load(tmp_path)
    assert type(loaded.model).__name__ == kind
    for name, weight in model.named_parameters():
        assert torch.equal(weight, loaded.model.get_parameter(name))


def test_a_class_that_transformers_lacks_is_told(tmp_path):
    transformers.BertModel(transformers.BertConfig(**SMALL, vocab_size=40)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["BertForDreaming"]}))
    with pytest.raises(LoadError, match="is a BertForDreaming, which this transformers does not have"):
        clew.load(tmp_path)


def test_a_folder_of_adapters_is_opened_with_its_base(tmp_path):
    torch.manual_seed(0)
    base = transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL, vocab_size=40, num_labels=3))
    base.save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    base = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], init_lora_weights=False)
    adapted = peft.get_peft_model(base, config).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = clew.load(tmp_path / "adapter")
    a = clew.explain(loaded, "a cat sat", method="attn_lrp", target=1)
    ids = tokenizer()("a cat sat", return_tensors="pt")["input_ids"]
    torch.testing.assert_close(a.score, adapted(input_ids=ids).logits[:, 1].detach(), rtol=1e-5, atol=1e-6)
    assert a.tokens[0] == ["a", "cat", "sat"]
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(LoadError, match="no weights that are safe to read"):
        clew.load(tmp_path / "adapter")


def test_sentence_encoders_as_objects_and_folders(tmp_path):
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(**SMALL, vocab_size=40)).save_pretrained(tmp_path / "bert")
    tokenizer().save_pretrained(tmp_path / "bert")
    pieces = [parts.Transformer(str(tmp_path / "bert")), parts.Pooling(24), parts.Normalize()]
    model = sentence_transformers.SentenceTransformer(modules=pieces, device="cpu").eval()
    model.save(str(tmp_path / "encoder"))
    texts = ["a cat sat", "a dog ran a cat"]
    own = model.encode([*texts, "a dog sat"], convert_to_tensor=True)
    for found in (model, clew.load(tmp_path / "encoder")):
        for method in ("attn_lrp", "attention_rollout"):
            a = clew.explain(found, texts, method=method, target=clew.Similarity("a dog sat"))
            torch.testing.assert_close(a.score, own[:2] @ own[2], rtol=1e-4, atol=1e-5)
            assert a.tokens[1][:5] == ["a", "dog", "ran", "a", "cat"]
    modules = json.loads((tmp_path / "encoder" / "modules.json").read_text())
    modules[0]["type"] = "os.path.join"
    (tmp_path / "encoder" / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(LoadError, match="whose code is not run"):
        clew.load(tmp_path / "encoder")


def test_a_pipeline_is_its_model_with_its_tokenizer():
    torch.manual_seed(0)
    config = transformers.BertConfig(**SMALL, vocab_size=40, num_labels=2, id2label={0: "bad", 1: "good"})
    model = transformers.BertForSequenceClassification(config).eval()
    made = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer(), device="cpu")
    a = clew.explain(made, "a cat sat", method="attention_rollout", target="good")
    assert a.target == ["good"]
    assert a.tokens[0] == ["a", "cat", "sat"]
