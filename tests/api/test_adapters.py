"""Adapters in folders: saved, put on a base model again, and refused where they do not belong."""

import json
import shutil
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from peft import LNTuningConfig, LoHaConfig, LoraConfig, OFTConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BertForTokenClassification

import meft_runner
from meft_runner.methods.layers import plain_layers, reversible_stacks
from meft_runner.methods.weights import save_trained
from meft_runner.records.record import write_record
from tests.helpers.interface import batch_of, made, model_of, outputs, with_adapters
from tests.helpers.models import gradients, meft_settings, move_away, peft_settings, prepared, tiny_model
from tests.helpers.records import record

CASES = [("bert", "meft1"), ("llama", "lora"), ("bart", "ia3"), ("vit", "meft3"), ("bert", "dora")]


@pytest.mark.parametrize(("kind", "how"), CASES)
@pytest.mark.thin(2)
def test_what_is_saved_is_loaded_and_trains_on(kind, how, tmp_path):
    model = made(kind, how).eval()
    meft_runner.save_adapter(model, tmp_path / "my adapter")
    found = meft_runner.load_adapter(model_of(kind), tmp_path / "my adapter")
    assert not found.training
    assert torch.equal(outputs(found, kind), outputs(model, kind))
    found.train()(**batch_of(kind)).loss.backward()
    assert meft_runner.reversal_report(found).mismatches == 0
    trained = [{name for name, p in each.named_parameters() if p.requires_grad} for each in (found, model)]
    assert trained[0] == trained[1]


TARGETS = ["q_proj", "v_proj"]
OF_PEFT = [
    LoHaConfig(target_modules=TARGETS, r=2),
    OFTConfig(target_modules=TARGETS, oft_block_size=4),
    LNTuningConfig(target_modules=["input_layernorm"]),
    LoraConfig(target_modules=TARGETS, layers_to_transform=[1], rank_pattern={"v_proj": 3}),
    LoraConfig(target_modules=TARGETS, modules_to_save=["lm_head", "embed_tokens", "input_layernorm"]),
    LoraConfig(target_modules=["up_proj"], modules_to_save=["self_attn"]),
    LoraConfig(target_modules="all-linear", trainable_token_indices=[3, 4]),
]


@pytest.mark.slow
@pytest.mark.parametrize("config", OF_PEFT, ids=lambda config: config.peft_type)
def test_methods_of_peft_that_train_inside_layers_need_no_more(config, tmp_path):
    found = {}
    for reversal in ("exact", "stored"):
        model = get_peft_model(model_of("llama"), deepcopy(config), adapter_name="mine")
        model = move_away(meft_runner.make_reversible(model, reversal=reversal)).train()
        model(**batch_of("llama")).loss.backward()
        found[reversal] = gradients(model)
    assert all(torch.equal(grad, found["stored"][name]) for name, grad in found["exact"].items())
    meft_runner.save_adapter(model, tmp_path)
    loaded = meft_runner.load_adapter(model_of("llama"), tmp_path)
    assert torch.equal(outputs(loaded, "llama"), outputs(model.eval(), "llama"))


FRESH = """
import sys
import torch
import meft_runner
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

for folder in sys.argv[1:]:
    base = AutoModelForSequenceClassification.from_pretrained(f"{folder}/base", num_labels=2)
    model = meft_runner.load_adapter(base, f"{folder}/adapter")
    with torch.no_grad():
        save_file({"logits": model(**load_file(f"{folder}/batch.safetensors")).logits}, f"{folder}/found.safetensors")
"""


@pytest.mark.slow
def test_a_fresh_process_computes_the_same_bits(tmp_path):
    expected = {}
    for kind, how in [("bert", "meft1"), ("bert", "lora"), ("bart", "meft3"), ("roberta", "ia3"), ("bert", "dora")]:
        folder = tmp_path / f"{kind}-{how}"
        model_of(kind).save_pretrained(folder / "base")
        model = made(kind, how).eval()
        meft_runner.save_adapter(model, folder / "adapter")
        save_file(batch_of(kind), folder / "batch.safetensors")
        expected[folder] = outputs(model, kind)
    command = [sys.executable, "-c", FRESH, *map(str, expected)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    for folder, logits in expected.items():
        assert torch.equal(load_file(folder / "found.safetensors")["logits"], logits)


RUNS = {
    "meft3": meft_settings("meft3"),
    "lora reversed": peft_settings("lora", scale_1="1/16"),
    "dora": peft_settings("dora", "off"),
    "ia3": peft_settings("ia3", "off"),
    "vera reversed": peft_settings("vera"),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.thin(2)
def test_the_folder_of_a_run_is_loaded(name, tmp_path):
    method = RUNS[name]
    model = move_away(prepared(method)).eval()
    config = {"method": {**vars(method), "reversal": method.reversal.name, "kernels": method.kernels.name}}
    save_trained(model, tmp_path, {"peft_type": method.name.upper(), **config})
    found = meft_runner.load_adapter(tiny_model(), tmp_path)
    assert torch.equal(outputs(found, "bert"), outputs(model, "bert"))
    assert bool(reversible_stacks(found)) == method.reverses


def test_the_record_beside_an_older_folder_says_how_layers_were_coupled(tmp_path):
    model = made("bert", "lora", scale_1="1/16").eval()
    meft_runner.save_adapter(model, tmp_path / "adapter")
    (tmp_path / "adapter" / "coupling.json").unlink()
    assert not reversible_stacks(meft_runner.load_adapter(tiny_model(), tmp_path / "adapter"))
    write_record(record(0.5, "method=lora", "method.reversal=exact", "method.scale_1=1/16"), tmp_path)
    found = meft_runner.load_adapter(tiny_model(), tmp_path / "adapter")
    assert torch.equal(outputs(found, "bert"), outputs(model, "bert"))


def with_other_layer():
    model = tiny_model()
    torch.nn.init.normal_(model.bert.encoder.layer[-1].output.dense.weight)
    return model


OTHERS = {
    r"another base model \(its sizes are the same, but": lambda: model_of("bert", seed=3),
    r"another base model \(its sizes are the same, but bert.encoder.layer.\*.output.dense.weight": with_other_layer,
    r"another base model \(hidden_size is 64 there and 32 here": lambda: tiny_model(hidden=32),
    r"another base model \(its class is BertForSequenceClassification there and BertForTokenClassification": lambda: (
        BertForTokenClassification(tiny_model().config)
    ),
    r"another base model \(model_type is bert there and roberta here": lambda: model_of("roberta"),
    r"other settings \(the method is meft1 there and meft2 here\)": lambda: made("bert", "meft2"),
    r"other settings \(the method is meft1 there and lora here\)": lambda: made("bert", "lora"),
    r"other settings \(adapter_dim is 8 there and 4 here\)": lambda: made("bert", "meft1", adapter_dim=4),
    r"classifier\.bias is \(2,\) there and \(3,\) here": lambda: with_labels(3),
}


def with_labels(count):
    model = tiny_model()
    config = model.config
    config.num_labels = count
    other = type(model)(config)
    other.load_state_dict({k: v for k, v in model.state_dict().items() if "classifier" not in k}, strict=False)
    return other


@pytest.mark.parametrize("message", OTHERS)
@pytest.mark.thin(3)
def test_a_folder_of_another_model_or_method_is_refused(message, tmp_path):
    meft_runner.save_adapter(made("bert", "meft1"), tmp_path)
    other = OTHERS[message]()
    before = {name: value.clone() for name, value in other.state_dict().items()}
    flags = [parameter.requires_grad for parameter in other.parameters()]
    with pytest.raises(ValueError, match=message):
        meft_runner.load_adapter(other, tmp_path)
    assert other.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    assert [parameter.requires_grad for parameter in other.parameters()] == flags


def test_a_base_model_is_as_it_was_when_peft_weights_do_not_fit(tmp_path):
    meft_runner.save_adapter(made("bert", "lora"), tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    save_file(dict(list(weights.items())[1:]), tmp_path / "adapter_model.safetensors")
    other = model_of("bert")
    names = [name for name, _ in other.named_modules()]
    with pytest.raises(ValueError, match=r"lora_\w\.weight is missing there"):
        meft_runner.load_adapter(other, tmp_path)
    assert [name for name, _ in other.named_modules()] == names
    assert torch.equal(outputs(other.eval(), "bert"), outputs(model_of("bert").eval(), "bert"))


@pytest.mark.parametrize("damage", ["5", "[" * 100_000, '{"sizes": {}, "numbers": {"a": [' + "9" * 400 + "]}}"])
def test_a_damaged_description_of_the_base(damage, tmp_path):
    meft_runner.save_adapter(made("bert", "lora"), tmp_path)
    (tmp_path / "coupling.json").write_text(f'{{"base": {damage}, "method": {{}}}}')
    with pytest.raises(ValueError, match=r"coupling\.json cannot be read|its base model is damaged"):
        meft_runner.load_adapter(model_of("bert"), tmp_path)


def test_a_damaged_pattern_of_modules(tmp_path):
    meft_runner.save_adapter(made("bert", "lora"), tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"target_modules": "(("}))
    with pytest.raises(ValueError, match="peft cannot put it on this model"):
        meft_runner.load_adapter(model_of("bert"), tmp_path)


def test_what_trains_beside_a_method_of_peft_is_not_lost_on_saving(tmp_path):
    model = made("bert", "lora")
    model.get_base_model().classifier.requires_grad_(True)
    with pytest.raises(ValueError, match=r"classifier\.weight, .*classifier\.bias train and are not in peft's files"):
        meft_runner.save_adapter(model, tmp_path)
    model.get_base_model().classifier.requires_grad_(False)
    meft_runner.save_adapter(model, tmp_path)


def test_weights_under_an_adapter_that_train_besides_are_not_lost_on_saving(tmp_path):
    model = made("bert", "lora")
    model.get_submodule("base_model.model.bert.encoder.layer.0").replaced[1].attention.self.query.requires_grad_(True)
    with pytest.raises(ValueError, match=r"base_layer\.weight, .*base_layer\.bias train and are not in peft's files"):
        meft_runner.save_adapter(model, tmp_path)


def test_peft_puts_another_adapter_into_the_layers_that_are_named(tmp_path):
    model = made("llama", "lora")
    model.add_adapter("second", LoraConfig(target_modules=TARGETS, layers_to_transform=[1]))
    with plain_layers(model):
        found = {name.partition("layers.")[2][0] for name, _ in model.named_parameters() if ".second." in name}
    assert found == {"1"}


def test_a_decoder_keeps_keys_and_values_as_before_when_weights_do_not_fit(tmp_path):
    meft_runner.save_adapter(made("llama", "meft1"), tmp_path)
    changed(tmp_path, adapter_dim=3)
    base = model_of("llama")
    with pytest.raises(ValueError, match="do not fit this model"):
        meft_runner.load_adapter(base, tmp_path)
    assert base.config.use_cache


def test_files_of_an_earlier_adapter_do_not_stay(tmp_path):
    meft_runner.save_adapter(made("bert", "lora"), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    model = move_away(with_adapters(model_of("bert"), "lora")).eval()
    meft_runner.save_adapter(model, tmp_path)
    assert not (tmp_path / "coupling.json").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert torch.equal(outputs(meft_runner.load_adapter(model_of("bert"), tmp_path), "bert"), outputs(model, "bert"))


def test_a_readme_of_the_user_stays(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    meft_runner.save_adapter(made("bert", "lora"), tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert (tmp_path / "adapter_model.safetensors").exists()


def test_a_frozen_model_does_not_replace_what_was_trained(tmp_path):
    model = made("bert", "meft1")
    meft_runner.save_adapter(model, tmp_path)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("classifier" in name)
    with pytest.raises(ValueError, match=r"its adapters do not require gradient, .* Save it before it is frozen\."):
        meft_runner.save_adapter(model, tmp_path)
    assert load_file(tmp_path / "adapter_model.safetensors")


def test_a_model_is_converted_after_training():
    assert outputs(made("bert", "meft1").to(torch.bfloat16).eval(), "bert").dtype == torch.bfloat16


def test_what_peft_itself_saves_of_a_reversible_model_is_loaded_by_both(tmp_path):
    model = made("bert", "lora").eval()
    model.save_pretrained(tmp_path)  # as the Trainer does
    found = meft_runner.load_adapter(model_of("bert"), tmp_path)
    assert torch.equal(outputs(found, "bert"), outputs(model, "bert"))
    alone = PeftModel.from_pretrained(model_of("bert"), tmp_path).eval()
    assert torch.allclose(outputs(alone, "bert"), outputs(model, "bert"), atol=1e-2)


def spoilt(folder, name, content):
    (folder / name).write_text(content)


BROKEN = {
    "no such folder": shutil.rmtree,
    r"adapter_config\.json cannot be read \(No such": lambda folder: (folder / "adapter_config.json").unlink(),
    r"adapter_config\.json cannot be read \(Expecting": lambda folder: spoilt(folder, "adapter_config.json", "{half"),
    r"adapter_config\.json is no description": lambda folder: spoilt(folder, "adapter_config.json", "[]"),
    "names no method": lambda folder: spoilt(folder, "adapter_config.json", "{}"),
    "adapter_dim=0: expected 1": lambda folder: changed(folder, adapter_dim=0),
    "method=full, which has no adapter": lambda folder: changed(folder, name="full"),
    "method=meft9, which has no adapter": lambda folder: changed(folder, variant="meft9"),
    "scale_1: expected a value, not something": lambda folder: changed(folder, scale_1="${oc.env:HOME}"),
    r"adapter_model\.safetensors cannot be read": lambda folder: spoilt(folder, "adapter_model.safetensors", "half"),
}


def changed(folder, **settings):
    config = json.loads((folder / "adapter_config.json").read_text())
    config["method"] |= settings
    spoilt(folder, "adapter_config.json", json.dumps(config))


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_folder_is_one_line(message, tmp_path):
    meft_runner.save_adapter(made("bert", "meft1"), tmp_path / "a")
    BROKEN[message](tmp_path / "a")
    model = model_of("bert")
    with pytest.raises(ValueError, match=message) as error:
        meft_runner.load_adapter(model, tmp_path / "a")
    assert len(str(error.value).splitlines()) <= 2
    assert not reversible_stacks(model)


@pytest.mark.parametrize("reversal", ["exact", None])
def test_an_adapter_of_another_scaling_is_refused(reversal, tmp_path):
    def prepared_with(alpha):
        model = with_adapters(model_of("bert"), "lora", lora_alpha=alpha, lora_dropout=alpha / 100)
        return model if reversal is None else meft_runner.make_reversible(model, reversal=reversal)

    meft_runner.save_adapter(prepared_with(16), tmp_path)
    meft_runner.load_adapter(prepared_with(16), tmp_path)
    with pytest.raises(ValueError, match="lora_alpha is 16 there and 32 here"):
        meft_runner.load_adapter(prepared_with(32), tmp_path)


NAMING = {
    "XLORA": {"hidden_size": 8, "adapters": {"other": "/nowhere/else"}},
    "PROMPT_TUNING": {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "a", "tokenizer_name_or_path": "a/b"},
    "LORA": {"megatron_config": {"a": 1}, "megatron_core": "this"},
}


@pytest.mark.parametrize("kind", NAMING)
def test_nothing_is_read_that_a_folder_names(kind, tmp_path):
    meft_runner.save_adapter(made("bert", "lora"), tmp_path)
    (tmp_path / "coupling.json").unlink()
    config = {"peft_type": kind, "task_type": "SEQ_CLS", "num_virtual_tokens": 2, **NAMING[kind]}
    spoilt(tmp_path, "adapter_config.json", json.dumps(config))
    with pytest.raises(ValueError, match="what such a file names"):
        meft_runner.load_adapter(model_of("bert"), tmp_path)


def test_what_cannot_be_saved_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="this BertForSequenceClassification has no adapter"):
        meft_runner.save_adapter(model_of("bert"), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file: cannot be written"):
        meft_runner.save_adapter(made("bert", "meft1"), tmp_path / "file")
    with pytest.raises(ValueError, match="this BertForSequenceClassification has no adapter"):
        meft_runner.save_adapter(made("bert", "lora").merge_and_unload(), tmp_path)
    two = made("bert", "lora")
    two.add_adapter("second", two.peft_config["default"])
    with pytest.raises(ValueError, match=r"it has 2 adapters \(default, second\)"):
        meft_runner.save_adapter(two, tmp_path)
