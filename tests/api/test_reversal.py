"""`make_reversible` on models of transformers as users have them: plain, and prepared by peft."""

import peft
import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from transformers import BertModel, GPT2Config, GPT2Model, OPTForCausalLM

import meft_runner
from meft_runner.methods.layers import reversible_stacks
from tests.helpers.interface import batch_of, made, model_of, outputs, with_adapters
from tests.helpers.models import gradients, tiny_config, tiny_model


def trained_once(model, kind):
    torch.manual_seed(5)
    loss = model(**batch_of(kind)).loss
    loss.backward()
    return loss, gradients(model)


FEW = [("bert", "meft1"), ("llama", "lora"), ("bart", "ia3")]
GRID = [
    pytest.param(kind, how, marks=() if (kind, how) in FEW else pytest.mark.slow)
    for kind in ("bert", "roberta", "bart", "opt", "vit", "llama")
    for how in ("meft1", "meft2", "meft3", "lora", "dora", "ia3")
]


@pytest.mark.parametrize(("kind", "how"), GRID)
def test_gradients_are_those_of_stored_activations(kind, how):
    (loss, found), (expected_loss, expected) = (
        trained_once(made(kind, how, reversal=reversal), kind) for reversal in ("exact", "stored")
    )
    assert torch.equal(loss, expected_loss)
    assert found.keys() == expected.keys()
    assert found
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("kind", "how"), FEW)
def test_a_model_is_changed_in_place_and_its_mode_kept(kind, how):
    model = model_of(kind).eval() if how.startswith("meft") else with_adapters(model_of(kind), how).eval()
    same = meft_runner.make_reversible(model, *([how] if how.startswith("meft") else []))
    assert same is model
    assert reversible_stacks(model)
    assert not any(module.training for module in model.modules())


def test_parts_in_another_mode_stay_in_it():
    model = model_of("bert").train()
    model.bert.encoder.layer[0].eval()
    meft_runner.make_reversible(model, "meft1")
    assert not any(module.training for module in reversible_stacks(model)[0].blocks[0].f.first.layer.modules())
    assert all(module.training for module in reversible_stacks(model)[0].blocks[0].g.modules())


def test_a_bare_model_has_adapters_and_no_head():
    model = meft_runner.make_reversible(BertModel(tiny_config("bert")), "meft3")
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("adapter" in name for name in trained)


BAD = [
    ({}, "method: a plain model needs one of meft1, "),
    ({"method": "lora"}, "method=lora: expected one of meft1, "),
    ({"method": "meft4"}, "method=meft4: no such method, did you mean 'meft"),
    ({"method": "meft1", "adapter_dm": 4}, "adapter_dm: no such argument, did you mean 'adapter_dim'?"),
    ({"method": "meft1", "adapter_dim": 0}, "adapter_dim=0: expected 1 to"),
    ({"method": "meft1", "adapter_dim": "wide"}, "adapter_dim: Value 'wide'"),
    ({"method": "meft1", "strict": 2}, "strict=2: expected True or False"),
    ({"method": "meft1", "scale_1": "${oc.env:HOME}"}, "scale_1: expected a value, not something"),
    ({"method": "meft1", "reversal": 1}, "reversal=1: expected one of exact, float, stored"),
    ({"method": "meft1", "reversal": "off"}, "reversal: Invalid value 'off'"),
    ({"method": "meft1", "scale_1": 0.3}, "scale_1=0.3: reversal=exact divides integers"),
    ({"method": "meft1", "strict": False, "reversal": "stored"}, "strict=false: has no effect with reversal=stored"),
    ({"method": "meft1", "frozen_layers": 2}, "frozen_layers=2: BertForSequenceClassification has 2 layers"),
    ({"method": "meft1", "frozen_layers": 1, "stored_layers": 2}, "stored_layers=2: .* has 1 reversible layer"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_a_mistake_is_a_value_error_and_leaves_the_model_alone(arguments, message):
    model = tiny_model()
    with pytest.raises(ValueError, match=f"^{message}") as error:
        meft_runner.make_reversible(model, **arguments)
    assert len(str(error.value).splitlines()) <= 2
    assert not reversible_stacks(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


def checkpointed():
    model = tiny_model()
    model.activation_checkpointing_enable()
    return model


def attention_of(model):
    return model.bert.encoder.layer[1].attention.self


def hooked():
    model = tiny_model()
    model.bert.encoder.layer[1].register_forward_hook(print)
    return model


def hooked_for_backward():
    model = tiny_model()
    model.bert.encoder.layer[1].register_full_backward_pre_hook(lambda module, grads: grads)
    return model


def hooked_inside():
    model = tiny_model()
    attention_of(model).register_forward_hook(print)
    return model


def patched():
    model = tiny_model()
    attention_of(model).forward = lambda *args, **kwargs: None
    return model


def of_another_class():
    model = tiny_model()
    kind = type(attention_of(model))
    attention_of(model).__class__ = type("Other", (kind,), {"forward": lambda self, *args, **kwargs: None})
    return model


def of_another_kernel():
    model = tiny_model()
    model.config._attn_implementation = "flash_attention_2"
    return model


UNFIT = {
    "expected a model of transformers, or of peft around one, not Linear": lambda: torch.nn.Linear(2, 2),
    "Give it before it is wrapped": lambda: torch.nn.DataParallel(tiny_model()),
    "models of type gpt2 are not served": lambda: GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=9)),
    "it is reversible already": lambda: made("bert", "meft1"),
    "peft has put adapters inside": lambda: with_adapters(tiny_model(), "lora").get_base_model(),
    "not str. Load it by from_pretrained": lambda: "bert-base-uncased",
    "gradient checkpointing is on": checkpointed,
    "hooks on BertLayer in the layers": hooked,
    "hooks on BertLayer in the layers .* would not call": hooked_for_backward,
    "hooks on BertSelfAttention in the layers": hooked_inside,
    "BertSelfAttention in the layers .* has a forward pass of its own": patched,
    "Other in the layers .* has a forward pass of its own": of_another_class,
    "its attention is flash_attention_2, .* Load it with attn_implementation='sdpa'": of_another_kernel,
}


@pytest.mark.parametrize("message", UNFIT)
def test_a_model_that_cannot_be_reversed_is_refused(message):
    with pytest.raises(ValueError, match=message):
        meft_runner.make_reversible(UNFIT[message](), "meft1")


@pytest.mark.parametrize("reversal", ["exact", "float"])
def test_what_trains_in_a_hook_inside_a_layer_is_told(reversal):
    """A reversal cannot know it, so that it would get no gradient."""
    model = tiny_model(dropout=0.0)
    vector = torch.nn.Parameter(torch.zeros(model.config.hidden_size))
    model.bert.encoder.layer[0].intermediate.dense.register_forward_hook(lambda module, read, y: y + vector.sum())
    model = meft_runner.make_reversible(model, "meft1", reversal=reversal).train()
    with pytest.raises(RuntimeError, match=r"a tensor of shape \(\d+,\) trains in a reversible layer and is no"):
        model(**batch_of("bert")).loss.backward()


@pytest.mark.skipif(not hasattr(peft, "ShadowConfig"), reason="a method of later versions of peft")
def test_layers_that_peft_runs_in_its_own_way_are_refused():
    model = get_peft_model(model_of("llama"), peft.ShadowConfig(task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match=r"ShadowLayer in the layers of .* has a forward pass of its own"):
        meft_runner.make_reversible(model)


def test_methods_that_add_tokens_are_refused():
    model = get_peft_model(model_of("llama"), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ValueError, match="PREFIX_TUNING adds tokens"):
        meft_runner.make_reversible(model)


def test_layers_left_out_at_random_are_refused():
    config = tiny_config("opt")
    config.layerdrop = 0.1
    with pytest.raises(ValueError, match=r"has layerdrop=0\.1"):
        meft_runner.make_reversible(OPTForCausalLM(config), "meft1")


def test_a_model_in_which_nothing_trains_is_refused(tmp_path):
    with_adapters(model_of("bert"), "lora").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="nothing in it trains"):
        meft_runner.make_reversible(PeftModel.from_pretrained(tiny_model(), tmp_path))


def test_peft_goes_on_working():
    model, plain = made("bert", "lora").eval(), model_of("bert").eval()
    trained = outputs(model, "bert")
    with model.disable_adapter():
        untrained = outputs(model, "bert")
    assert torch.allclose(untrained, outputs(plain, "bert"), atol=1e-2)  # but for a 256th of what two layers change
    assert not torch.equal(untrained, trained)
    merged = model.merge_and_unload()
    assert torch.allclose(outputs(merged, "bert"), trained, atol=1e-5)
    assert merged.state_dict().keys() == plain.state_dict().keys()


def test_it_generates():
    model = made("llama", "lora").eval()
    rows = batch_of("llama")["input_ids"][1:]
    found = model.generate(input_ids=rows, max_new_tokens=5, do_sample=False, attention_mask=torch.ones_like(rows))
    without = model.generate(
        input_ids=rows, max_new_tokens=5, do_sample=False, attention_mask=torch.ones_like(rows), use_cache=False
    )
    assert found.shape[1] == rows.shape[1] + 5
    assert torch.equal(found, without)
