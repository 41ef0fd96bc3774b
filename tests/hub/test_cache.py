"""What is kept of the hub's files: whole files of one commit, which do without the hub."""

import re
import shutil

import huggingface_hub
import pytest
import torch
from safetensors.torch import load

from meft_runner.backbones.loading import load_model
from meft_runner.backbones.processors import load_image_processor, load_tokenizer
from meft_runner.backbones.sources import find_source
from meft_runner.config import Head
from meft_runner.errors import UserError
from tests.helpers import hub_files
from tests.helpers.hub import Fault
from tests.helpers.hub_reads import backbone, forget, read_model, read_split

ROBERTA, GLUE = ("models", "FacebookAI/roberta-large"), ("datasets", "nyu-mll/glue")


def read_rows(split="train", **kwargs):
    return read_split(split, **kwargs)[0].to_list()


def without(hub):
    """Lets every further request fail, and this process begin again."""
    hub.faults.append(Fault("", status=503))
    forget()
    hub.asked.clear()


def test_only_what_a_run_reads_is_fetched(hub, cache):
    model = read_model()
    weights = load(hub.repositories[ROBERTA].commits[hub.repositories[ROBERTA].refs["main"]]["model.safetensors"])
    assert torch.equal(model.state_dict()["roberta.encoder.layer.1.output.dense.weight"],
                       weights["roberta.encoder.layer.1.output.dense.weight"])  # fmt: skip
    asked = " ".join(hub.asked)
    for other in ("pytorch_model.bin", "tf_model.h5", "onnx", "README"):
        assert other not in asked


def test_weights_without_safetensors_are_read_from_bin_files(hub, cache):
    settings = backbone(name="opt", model_types=["opt"], hub="facebook/opt-1.3b")
    source = find_source(settings)
    assert load_model(settings, source, Head.lm, 1).config.model_type == "opt"
    assert load_tokenizer(settings, source, 100)("a b")["input_ids"][0] == 2  # </s>, which OPT begins with


def test_images_are_scaled_as_the_repository_says(hub, cache):
    settings = backbone(name="vit", model_types=["vit"], hub="google/vit-base-patch16-224-in21k")
    assert load_image_processor(settings, find_source(settings)).size == {"height": 16, "width": 16}


def test_a_split_has_the_repositorys_rows(hub, cache):
    assert read_rows("validation") == hub_files.glue_rows("validation", 24)
    with pytest.raises(UserError, match=r"it has no split 'dev' \(train, validation, test\)"):
        read_rows("dev")


@pytest.mark.parametrize(("read", "large"), [(read_model, "model.safetensors"), (read_rows, "parquet")])
def test_a_file_that_broke_off_is_fetched_again(hub, cache, read, large):
    hub.faults += [Fault("GET /cdn/", keep=0.5, times=1), Fault("GET /cdn/", keep=0.0)]
    with pytest.raises(UserError, match="the connection broke off"):
        read()
    assert not [file for file in cache.rglob(f"*{large}*") if "snapshots" in file.parts]
    assert not list(cache.rglob("*.incomplete"))
    hub.faults.clear()
    assert read()


def test_a_download_goes_on_where_it_broke_off(hub, cache):
    hub.faults.append(Fault("GET /cdn/", keep=0.5, times=1))
    read_model()
    assert [line for line in hub.asked if "/cdn/" in line and line.startswith("GET")] == 2 * [hub.asked[-1]]


@pytest.mark.parametrize("read", [read_model, read_rows])
def test_the_cache_does_without_the_hub(hub, cache, read, caplog):
    first = read()
    without(hub)
    again = read()
    assert str(again) == str(first)
    assert len(hub.asked) == 1  # whether it answers
    assert re.search(r"the hub gives no answer; the cache's commit \w{10} is used", caplog.text)


def test_the_cache_does_without_the_hub_where_that_is_asked_for(hub, cache, monkeypatch):
    read_model()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    without(hub)
    read_model()
    assert not hub.asked


def test_a_hub_that_wants_no_more_questions_leaves_the_cache(hub, cache):
    read_model()
    forget()
    hub.faults.append(Fault("", status=429, headers={"Retry-After": "900"}))
    read_model()


@pytest.mark.parametrize("by", ["tag", "commit"])
def test_a_revision_is_pinned(hub, cache, by):
    repository = hub.repositories[GLUE]
    old, new = repository.refs["main"], repository.commit(hub_files.glue_rte(8))
    repository.refs["v1"] = old
    assert rows_and_commit() == (8, new)
    assert rows_and_commit({"tag": "v1", "commit": old}[by]) == (24, old)


def rows_and_commit(revision=None):
    rows, commit = read_split(revision=revision)
    return len(rows), commit


def test_all_files_are_of_one_commit(hub, cache):
    source = find_source(backbone())
    config = hub.repositories[ROBERTA].commits[hub.repositories[ROBERTA].refs["main"]]["config.json"]
    hub.repositories[ROBERTA].commit(
        {"config.json": config.replace(b'"hidden_dropout_prob": 0.1', b'"hidden_dropout_prob": 0.2')}
    )
    assert load_model(backbone(), source, Head.classification, 2).config.hidden_dropout_prob == 0.1
    forget()
    assert read_model().config.hidden_dropout_prob == 0.2


def test_rows_of_another_revision_are_not_taken_for_those(hub, cache):
    old = hub.repositories[GLUE].refs["main"]
    new = hub.repositories[GLUE].commit(hub_files.glue_rte(8))
    read_rows()
    read_rows(revision=old)  # is prepared last
    without(hub)
    with pytest.raises(UserError, match=rf"cache holds revision {old} in place of {new}. Set task.revision={old}, or"):
        read_rows()
    assert len(read_rows(revision=old)) == 24


DAMAGES = {
    "model.safetensors": (lambda content: content[:-100], r"model.safetensors .*\(it is not whole\)"),
    "tokenizer_config.json": (lambda content: content + b" ", r"tokenizer_config.json .*\(it is not whole\)"),
    "tokenizer.json": (lambda content: b"x" * len(content), r"its tokenizer .*\("),
    "config.json": (lambda content: b"x" * len(content), r"its (tokenizer|configuration) .*\("),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_not_read(hub, cache, name):
    read_model()
    folder, (damage, said) = cache / "hub" / "models--FacebookAI--roberta-large", DAMAGES[name]
    file = next(folder.glob(f"snapshots/*/{name}"))
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=rf"{said}.*Remove {folder} to make it anew, or set backbone.path=DIR"):
        load_tokenizer(backbone(), find_source(backbone()), 16) and read_model()
    shutil.rmtree(folder)
    assert read_model()


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_damaged_rows_are_not_read(hub, cache, kind):
    read_rows()
    for file in cache.rglob(f"*train*.{kind}"):
        file.write_bytes(file.read_bytes()[:-200])
    if kind == "parquet":
        shutil.rmtree(cache / "datasets")
    forget()
    folder = {"arrow": "datasets/nyu-mll___glue/rte/0.0.0/", "parquet": "hub/datasets--nyu-mll--glue"}[kind]
    with pytest.raises(UserError, match=rf"\(\w+: .*\). Remove {cache / folder}\S* to make it anew") as error:
        read_rows()
    shutil.rmtree(re.search(r"Remove (\S+)", str(error.value))[1])
    assert len(read_rows()) == 24


def test_a_cache_that_another_program_filled(hub, cache):
    name = ROBERTA[1]
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        huggingface_hub.hf_hub_download(name, file)
    without(hub)
    read_model()


def test_a_repository_without_weights(hub, cache):
    hub.add("models", "nobody/config", {"config.json": b'{"model_type": "roberta"}'})
    with pytest.raises(UserError, match=r"nobody/config: it has no model.safetensors or pytorch_model.bin. Look at"):
        read_model(hub="nobody/config")
    hub.add("models", "nobody/nothing", {"README.md": b"."})
    with pytest.raises(UserError, match=r"nobody/nothing: it has no config.json. Look at"):
        read_model(hub="nobody/nothing")


def test_another_architecture_is_refused_by_its_repository(hub, cache):
    with pytest.raises(
        UserError, match=r"backbone=roberta: facebook/opt-1.3b: holds a opt model, backbone=roberta expects"
    ):
        read_model(hub="facebook/opt-1.3b")
