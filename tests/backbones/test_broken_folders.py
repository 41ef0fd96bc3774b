"""Folders whose files do not fit together, or are damaged: each is one line that names the folder and the way out."""

import json
import pickle
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from meft_runner.backbones.loading import load_model
from meft_runner.backbones.processors import load_image_processor, load_tokenizer
from meft_runner.backbones.sources import find_source, weight_files
from meft_runner.config import BackboneSettings, Head
from meft_runner.errors import UserError
from tests.helpers.folders import make_model_folder

DEEP = '{"a":' * 20_000 + "1" + "}" * 20_000
SIZES = dict.fromkeys(("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"), 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder of each kind of model that is as it should be."""
    return {kind: make_model_folder(tmp_path_factory.mktemp(kind), kind) for kind in ("bert", "vit", "bart", "opt")}


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of BERT's."""
    return shutil.copytree(whole["bert"], tmp_path / "model")


def settings(folder, kind="bert"):
    return BackboneSettings(name=kind, model_types=[kind], hub="-", path=str(folder), heads=list(Head), config=SIZES)


def load(folder):
    """Does what a run does with a folder."""
    backbone = settings(folder)
    source = find_source(backbone)
    tokenizer = load_tokenizer(backbone, source, 48)
    model = load_model(backbone, source, Head.classification, 2)
    inputs = tokenizer(["a fine day", "rain"], ["sun", "and more of it"], padding=True, return_tensors="pt")
    model.train()(**inputs, labels=torch.tensor([0, 1])).loss.backward()
    return model


def configured(**changes):
    def damage(folder):
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(content | changes))

    return damage


def written(name, content):
    def damage(folder):
        (folder / "model.safetensors").unlink() if name.startswith("pytorch") else None
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return damage


def pickled(content):
    def damage(folder):
        (folder / "model.safetensors").unlink()
        torch.save(content, folder / "pytorch_model.bin")

    return damage


def weighed(change):
    def damage(folder):
        changed = change(load_file(folder / "model.safetensors"))
        save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def with_value(value):
    def change(weights):
        weights["bert.encoder.layer.0.output.dense.weight"][3, 5] = value
        return weights

    return weighed(change)


def indexed(content):
    def damage(folder):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))

    return damage


def linked(name, target="/nowhere/at/all"):
    def damage(folder):
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return damage


def cut_in_half(folder):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def more_tokens(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"] |= {f"word{number}": 300 + number for number in range(50)}
    (folder / "tokenizer.json").write_text(json.dumps(content))


SHARDS = {"metadata": {}, "weight_map": {"bert.pooler.dense.bias": "model-00001-of-00002.safetensors"}}
QUANTISED = {"quant_method": "bitsandbytes", "load_in_4bit": True}
BROKEN = {
    # config.json: numbers that do not fit together, or the weights
    "heads that do not divide the hidden size": (configured(num_attention_heads=3), r"\(64\) is not a multiple of"),
    "another hidden size": (configured(hidden_size=32), "weights are missing there or have another shape"),
    "more layers": (configured(num_hidden_layers=3), r"another shape \(16, bert.encoder.layer.2"),
    "fewer layers": (configured(num_hidden_layers=1), r"no place in a model of its config.json \(16, bert.encoder"),
    "no layers": (configured(num_hidden_layers=0), "num_hidden_layers=0, expected 1 or more"),
    "negative layers": (configured(num_hidden_layers=-2), "num_hidden_layers=-2, expected 1 or more"),
    "no heads": (configured(num_attention_heads=0), "num_attention_heads=0, expected 1 or more"),
    "another MLP": (configured(intermediate_size=100), r"another shape \(6, bert.encoder.layer.0.intermediate"),
    "more positions": (configured(max_position_embeddings=512), "another shape .1, bert.embeddings.position"),
    "negative positions": (configured(max_position_embeddings=-5), "max_position_embeddings=-5, expected 1 or more"),
    "a larger vocabulary": (configured(vocab_size=1000), "another shape .1, bert.embeddings.word"),
    "a vocabulary beyond memory": (configured(vocab_size=10**13), "weights cannot be loaded"),
    "padding outside the vocabulary": (configured(pad_token_id=999), "pad_token_id=999, expected 0 to 299"),
    "negative padding": (configured(pad_token_id=-1), "pad_token_id=-1, expected 0 to 299"),
    "a size as text": (configured(hidden_size="64"), "'hidden_size' expected int, got str"),
    "a size that is null": (configured(hidden_size=None), "'hidden_size' expected int, got NoneType"),
    "a dropout as text": (configured(hidden_dropout_prob="0.1"), "hidden_dropout_prob"),
    "a dropout of 2": (configured(hidden_dropout_prob=2.0), "hidden_dropout_prob=2.0, expected 0 to 1"),
    "a dropout that no layer looks at": (configured(attention_dropout=-1), "attention_dropout=-1, expected 0 to 1"),
    "no such activation": (configured(hidden_act="nope"), "hidden_act=nope, which transformers does not know"),
    "no such dtype": (configured(dtype="nonsense"), "its configuration cannot be loaded"),
    "labels that are no table": (configured(id2label="junk"), "its configuration cannot be loaded"),
    "weights of a decoder": (configured(is_decoder=True, add_cross_attention=True), "weights are missing there"),
    "quantised": (configured(quantization_config=QUANTISED), "has a quantization_config, .* as they were before"),
    "quantised by nonsense": (configured(quantization_config={"quant_method": "zzz"}), "has a quantization_config"),
    "quantised by a list": (configured(quantization_config=[1]), "its configuration cannot be loaded"),
    # config.json: no configuration at all
    "a list": (written("config.json", "[1]"), "config.json is not a JSON object but a list"),
    "a word": (written("config.json", '"bert"'), "config.json is not a JSON object but a str"),
    "deep": (written("config.json", DEEP), "config.json is not a JSON object"),
    "not UTF-8": (written("config.json", b"\xff\xfe{"), "config.json is not a JSON object"),
    "a number of 5,000 digits": (written("config.json", f'{{"model_type": {"9" * 5000}}}'), "config.json is not"),
    "another architecture": (configured(model_type="gpt2"), "holds a gpt2 model, backbone=bert expects bert"),
    "a mixture of experts": (
        configured(model_type="mixtral", num_local_experts=8),
        r"holds a mixtral model, .*; a mixture of experts cannot be made reversible here. Models of these types are "
        r"served: bart, bert, .*llama, mistral, .*vit\.",
    ),
    "layers with masks of their own": (
        configured(model_type="gemma3", text_config={"layer_types": ["sliding_attention", "full_attention"]}),
        r"holds a gemma3 model, .*; layers that read different masks cannot be made reversible here",
    ),
    "several architectures": (configured(model_type=["bert"]), r"holds a \['bert'\] model"),
    # weights
    "an empty file": (written("model.safetensors", ""), "weights cannot be loaded .*header too small"),
    "half a file": (cut_in_half, "weights cannot be loaded .*not fully covered"),
    "no safetensors": (written("model.safetensors", b"\x10" * 100), "weights cannot be loaded .*header"),
    "NaN": (with_value(float("nan")), "no numbers .NaN or infinite., in bert.encoder.layer.0.output.dense.weight"),
    "infinite": (with_value(float("-inf")), "no numbers .NaN or infinite., in bert.encoder"),
    "whole numbers": (weighed(lambda w: {n: t.int() for n, t in w.items()}), "as I32, expected floating-point"),
    "eight bits": (
        weighed(lambda w: {n: t.to(torch.float8_e4m3fn) for n, t in w.items()}),
        "as F8_E4M3, expected floating-point numbers. Give the model's weights before they were quantised",
    ),
    "weights of something else": (weighed(lambda w: {"foo": torch.zeros(1)}), r"weights are missing .*\(37, bert.emb"),
    "more than the model": (
        weighed(lambda w: w | {"bert.encoder.layer.0.extra.weight": torch.zeros(3)}),
        r"no place in a model of its config.json \(1, bert.encoder.layer.0.extra.weight among them\)",
    ),
    "a shard that is missing": (indexed(SHARDS), "model-00001-of-00002.safetensors is missing"),
    "an index without a map": (indexed({"metadata": {}}), "model.safetensors.index.json does not map weights"),
    "an index that is a list": (indexed([1]), "model.safetensors.index.json does not map weights"),
    "an empty index": (indexed({"weight_map": {}}), "model.safetensors.index.json does not map weights"),
    "an index of other folders": (indexed({"weight_map": {"a": "../../x"}}), "to files beside it"),
    "an index of numbers": (indexed({"weight_map": {"a": 3}}), "to files beside it"),
    "a pickle of a list": (pickled([1, 2]), "pytorch_model.bin holds something else than named tensors"),
    "a pickle of words": (pickled({"a": "b"}), "pytorch_model.bin holds something else than named tensors"),
    "a pickle of code": (written("pytorch_model.bin", pickle.dumps(shutil.rmtree)), "pytorch_model.bin is no file of"),
    "a pickle of a module": (pickled(torch.nn.Linear(2, 2)), "pytorch_model.bin is no file of tensors"),
    "text": (written("pytorch_model.bin", "hello"), "pytorch_model.bin is no file of tensors"),
    "nothing": (written("pytorch_model.bin", ""), "pytorch_model.bin is no file of tensors"),
    # links that lead nowhere
    "weights elsewhere": (linked("model.safetensors"), "model.safetensors is missing"),
    "weights that are themselves": (linked("model.safetensors", "model.safetensors"), "model.safetensors is missing"),
    "a configuration elsewhere": (linked("config.json"), "config.json is missing"),
    "a tokenizer elsewhere": (linked("tokenizer.json"), "no tokenizer there"),
    # tokenizers
    "a tokenizer of more tokens": (more_tokens, "numbers 350 tokens, the model 300 .* the model's own tokenizer"),
    "another model's padding": (configured(pad_token_id=7), "pads with token 1, the model with token 7"),
    "a broken tokenizer": (written("tokenizer.json", "{"), "its tokenizer cannot be loaded"),
    "a tokenizer that is a list": (written("tokenizer.json", "[]"), "its tokenizer cannot be loaded"),
    "a deep tokenizer": (written("tokenizer.json", DEEP), "its tokenizer cannot be loaded"),
    "settings that are a list": (written("tokenizer_config.json", "[]"), "its tokenizer cannot be loaded"),
    "a class that is a number": (written("tokenizer_config.json", '{"tokenizer_class": 3}'), "its tokenizer cannot"),
    "broken tokens": (written("special_tokens_map.json", "["), "its tokenizer cannot be loaded"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_folder_is_one_line(folder, kind):
    damage, message = BROKEN[kind]
    damage(folder)
    with pytest.raises(UserError, match=message) as told:
        load(folder)
    text = str(told.value)
    assert text.startswith(f"backbone.path={folder}: ")
    assert text.endswith(".")
    assert "\n" not in text
    assert len(text) < 500 + len(str(folder))


HARMLESS = {
    "as it is": lambda folder: None,
    "another form of answers": configured(return_dict=False, output_attentions=True, output_hidden_states=True),
    "chunks of the MLP": configured(chunk_size_feed_forward=7),
    "half precision": weighed(lambda w: {name: tensor.half() for name, tensor in w.items()}),
    "a head of another task": weighed(lambda w: w | {"qa_outputs.bias": torch.zeros(2)}),
    "a language model's head": weighed(lambda w: w | {"cls.predictions.bias": torch.zeros(300)}),
    "another number of classes": weighed(lambda w: w | {"classifier.bias": torch.zeros(5)}),
    "a buffer of older versions": weighed(lambda w: w | {"bert.embeddings.position_ids": torch.arange(130)}),
    "no pooler": weighed(lambda w: {name: tensor for name, tensor in w.items() if "pooler" not in name}),
    "code of its own": configured(auto_map={"AutoModel": "evil.Model"}),
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_does_no_harm_is_loaded(folder, kind):
    expected = load_file(folder / "model.safetensors")["bert.encoder.layer.1.output.dense.weight"]
    HARMLESS[kind](folder)
    assert torch.allclose(load(folder).bert.encoder.layer[1].output.dense.weight, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("preprocessor", "message"),
    [
        ({"size": {"height": 32, "width": 32}}, "makes images of 3 x 32 x 32, the model reads 3 x 16 x 16.*remove the"),
        ({"do_resize": False}, "makes images of 3 x 32 x 48, the model reads 3 x 16 x 16"),
        ({"size": {"height": 0, "width": 16}}, "its image processor cannot be loaded"),
        ({"size": "large"}, "its image processor cannot be loaded"),
        ({"image_mean": [0.5]}, "its image processor cannot be loaded"),
        ([], "its image processor cannot be loaded"),
    ],
)
def test_a_preprocessor_of_another_size_is_refused(whole, tmp_path, preprocessor, message):
    copy = shutil.copytree(whole["vit"], tmp_path / "vit")
    own = {"image_processor_type": "ViTImageProcessor"} if isinstance(preprocessor, dict) else []
    content = own | preprocessor if own else preprocessor
    (copy / "preprocessor_config.json").write_text(json.dumps(content))
    backbone = settings(copy, "vit")
    with pytest.raises(UserError, match=message) as told:
        load_image_processor(backbone, find_source(backbone))
    assert "\n" not in str(told.value)


def test_a_preprocessor_of_the_models_size_is_taken(whole, tmp_path):
    copy = shutil.copytree(whole["vit"], tmp_path / "vit")
    content = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 16, "width": 16},
        "image_mean": [0, 0, 0],
    }
    (copy / "preprocessor_config.json").write_text(json.dumps(content))
    processor = load_image_processor(settings(copy, "vit"), str(copy))
    made = processor(images=[Image.new("RGB", (40, 30))], return_tensors="pt")["pixel_values"]
    assert made.shape == (1, 3, 16, 16)
    assert made.eq(0).all()  # black, less a mean of 0


def test_the_files_of_weights_are_those_that_are_loaded(folder):
    assert [file.name for file in weight_files(folder)] == ["model.safetensors"]
    indexed({"weight_map": {"a": "b.safetensors", "c": "a.safetensors", "d": "b.safetensors"}})(folder)
    assert [file.name for file in weight_files(folder)] == ["a.safetensors", "b.safetensors"]
