import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from peft.tuners.ia3 import IA3Layer
from peft.tuners.lora import LoraLayer
from torch.autograd.graph import save_on_cpu

from meft_runner.backbones import task_head
from meft_runner.config import FullSettings, Ia3Settings, LoraSettings
from meft_runner.config.methods import CHECKPOINTING
from meft_runner.run.callbacks import GradientError, check_gradients
from tests.helpers.models import KINDS, batch, family_of, gradients, prepared, tiny_model

METHODS = {"full": FullSettings, "lora": LoraSettings, "ia3": Ia3Settings}


def method(name, **kwargs):
    return METHODS[name](name=name, learning_rate=1e-3, **kwargs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", METHODS)
def test_every_trainable_parameter_gets_a_gradient(name, kind):
    model = prepared(method(name), kind)
    model(**batch(kind)).loss.backward()
    check_gradients(model)


def trained_names(name, kind="bert"):
    return {n for n, p in prepared(method(name), kind).named_parameters() if p.requires_grad}


def test_full_trains_everything():
    assert trained_names("full") == {name for name, _ in tiny_model().named_parameters()}


def test_lora_updates_query_and_value():
    names = trained_names("lora")
    assert len(names) == 2 * 2 * 2 + 2  # two layers, two projections, two matrices; weight and bias of the head
    assert all(part in name for name in names if "lora" in name for part in ["attention.self."])
    assert not any(".key." in name for name in names)


@pytest.mark.parametrize(
    ("kind", "attentions"), [("opt", 1), ("vit", 1), ("deit", 1), ("bart", 3)]
)  # BART's decoder has two
@pytest.mark.parametrize("name", ["lora", "ia3"])
def test_the_same_parts_are_adapted_in_every_family(name, kind, attentions):
    added = [n for n in trained_names(name, kind) if "lora" in n or "ia3" in n]
    mlps = 2 if kind == "bart" else 1
    assert len(added) == 2 * (attentions * 2 * 2 if name == "lora" else attentions * 2 + mlps)  # two layers


def test_ia3_rescales_keys_values_and_the_inner_mlp():
    model = prepared(method("ia3"))
    vectors = {n: p for n, p in model.named_parameters() if "ia3" in n}
    assert len(vectors) == 2 * 3
    assert {v.shape for n, v in vectors.items() if ".layer.0.output.dense" in n} == {torch.Size([1, 128])}
    assert not any("attention.output" in name for name in vectors)


@pytest.fixture
def pageable(monkeypatch):
    """Offloading into ordinary memory where there is no GPU: pinned memory, and so transformers' own, needs one."""
    if not torch.cuda.is_available():
        monkeypatch.setattr("transformers.modeling_utils.save_on_cpu", lambda **options: save_on_cpu())


@pytest.mark.usefixtures("pageable")
@pytest.mark.parametrize("kind", ["bert", "bart", "opt", "vit"])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.thin(2)
def test_checkpointing_changes_no_gradient(name, kind):
    device, found = "cuda" if torch.cuda.is_available() else "cpu", []
    for checkpointing in CHECKPOINTING:
        model = prepared(method(name, checkpointing=checkpointing), kind, layers=5).to(device)
        torch.manual_seed(3)
        model(**{name: tensor.to(device) for name, tensor in batch(kind).items()}).loss.backward()
        found.append(gradients(model))
    for other in found[1:]:
        assert found[0].keys() == other.keys()
        assert all(torch.equal(found[0][key], other[key]) for key in other)


@pytest.mark.parametrize(("kind", "recomputed"), [(False, 0), (True, 6), ("every_4", 2)])
def test_checkpointing_computes_these_layers_twice(kind, recomputed):
    model, calls = prepared(method("lora", checkpointing=kind), layers=6), []
    for layer in model.base_model.model.bert.encoder.layer:
        layer.intermediate.register_forward_hook(lambda *_: calls.append(1))
    model(**batch()).loss.backward()
    assert len(calls) == 6 + recomputed


def test_a_parameter_without_gradient_is_named():
    model = prepared(method("full"))
    model(**batch()).loss.backward()
    model.classifier.bias.grad = None
    model.classifier.weight.grad.zero_()
    with pytest.raises(GradientError, match=r"2 trainable .* classifier.weight \(zero\), classifier.bias \(none\)"):
        check_gradients(model)


USUAL = {"lora": 0.0, "ia3": 1.0}
ADAPTED = pytest.mark.parametrize("name", USUAL)
TWO_KINDS = pytest.mark.parametrize("kind", ["bert", "opt"])


def starts(model):
    """The parameters that start at a constant, as peft's own layers hold them."""
    lora = [layer.lora_B["default"].weight for layer in model.modules() if isinstance(layer, LoraLayer)]
    return lora + [layer.ia3_l["default"] for layer in model.modules() if isinstance(layer, IA3Layer)]


def peft_model(name, kind):
    """The same model by peft alone."""
    model, family = tiny_model(kind), family_of(kind)
    if name == "lora":
        config = LoraConfig(
            r=8, lora_alpha=16, target_modules=family.lora_targets, modules_to_save=task_head(model), lora_dropout=0.0
        )
    else:
        config = IA3Config(
            target_modules=family.ia3_targets,
            feedforward_modules=family.ia3_feedforward,
            modules_to_save=task_head(model),
        )
    torch.manual_seed(1)  # as in `prepared`
    return get_peft_model(model, config)


def equal(found, expected, names):
    return all(torch.equal(found[name], expected[name]) for name in names)


@TWO_KINDS
@ADAPTED
def test_without_a_start_of_ones_own_the_model_is_pefts(name, kind):
    expected = peft_model(name, kind).state_dict()
    state = torch.get_rng_state()
    model = prepared(method(name), kind)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.state_dict().keys() == expected.keys()
    assert equal(model.state_dict(), expected, expected)
    assert all((p == USUAL[name]).all() for p in starts(model))


@pytest.mark.parametrize("constant", [0.0, 0.3, -2.0])
@TWO_KINDS
@ADAPTED
def test_a_constant_start(name, kind, constant):
    model, plain = prepared(method(name, init_constant=constant), kind), prepared(method(name), kind)
    assert len(starts(model)) == (4 if name == "lora" else 6)
    assert all((p == constant).all() for p in starts(model))
    changed = {id(p) for p in starts(model)}
    kept = [n for n, p in model.named_parameters() if id(p) not in changed]
    assert equal(model.state_dict(), plain.state_dict(), kept)


@pytest.mark.parametrize("constant", [None, 0.5])
@TWO_KINDS
@ADAPTED
def test_a_noisy_start(name, kind, constant):
    model = prepared(method(name, init_constant=constant, init_noise=0.1), kind)
    expected = USUAL[name] if constant is None else constant
    noise = torch.cat([(p.detach() - expected).flatten() / 0.1 for p in starts(model)])
    assert noise.mean().item() == pytest.approx(0, abs=4 / len(noise) ** 0.5)  # four standard errors
    assert noise.std().item() == pytest.approx(1, abs=3 / len(noise) ** 0.5)
    assert len(noise.unique()) > 0.99 * len(noise)
    again = prepared(method(name, init_constant=constant, init_noise=0.1), kind)
    assert equal(model.state_dict(), again.state_dict(), model.state_dict())  # `prepared` seeds the generator
    model(**batch(kind)).loss.backward()
    check_gradients(model)


@TWO_KINDS
@ADAPTED
def test_a_start_without_data(name, kind):
    with torch.device("meta"):
        model = prepared(method(name, init_constant=0.3, init_noise=0.1), kind)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert starts(model)
