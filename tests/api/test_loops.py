"""Reversible models in training loops of others: the gradients of stored activations, bit for bit, with dropout."""

import shutil

import pytest
import torch

from meft_runner import reversal_report
from meft_runner.backbones import UnsupportedInputError
from tests.helpers.interface import made
from tests.helpers.loops import CAUSAL, LOOPS, PASSES, ROWS, STEPS, forget_accelerators, rows, trainer_of

KINDS = ("bert", "roberta", "bart", "opt", "vit", "llama")
HOW = ("meft1", "lora", "dora", "ia3")
# SFTTrainer takes language models alone. One default case a loop; each architecture and each method is in one.
CASES = [(kind, how, loop) for kind in KINDS for how in HOW for loop in LOOPS if loop != "trl" or kind in CAUSAL]
QUICK = {("bart", "meft1", "trainer"), ("vit", "dora", "accelerate"), ("roberta", "ia3", "torch"),
         ("llama", "lora", "trl")}  # fmt: skip


def assert_as_stored(kind, how, loop, folder, **arguments):
    """Trains twice, and returns the gradients of reversed layers where they are those of stored activations."""
    models = [made(kind, how, reversal=reversal) for reversal in ("exact", "stored")]
    found, expected = (LOOPS[loop](model, rows(kind), folder, **arguments) for model in models)
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert len(found) == STEPS * sum(parameter.requires_grad for parameter in models[0].parameters())
    assert all(torch.equal(mine, theirs) for (_, mine), (_, theirs) in zip(found, expected, strict=True))
    assert sum(gradient.any().item() for _, gradient in found) > len(found) / 2
    report = reversal_report(models[0])
    assert (report.checked_steps, report.mismatches) == (STEPS * PASSES, 0)
    return found


@pytest.mark.parametrize(("kind", "how", "loop"), [
    pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES
])  # fmt: skip
@pytest.mark.thin(2)
def test_gradients_are_those_of_stored_activations(kind, how, loop, tmp_path):
    assert_as_stored(kind, how, loop, tmp_path)


def without_dropout(model):
    for module in model.modules():
        for name in ("p", "attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def assert_close(found, expected):
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (name, mine), (_, theirs) in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=2e-6), name


@pytest.mark.parametrize("how", ["lora", pytest.param("meft1", marks=pytest.mark.slow)])
def test_texts_in_one_row_of_sft_trainer_do_not_see_each_other(how, tmp_path):
    given, packed = rows("llama"), {"padding_free": True, "max_length": None}
    alone = LOOPS["trl"](without_dropout(made("llama", how)), given, tmp_path)
    together = LOOPS["trl"](without_dropout(made("llama", how)), given, tmp_path, **packed)
    assert_close(together, alone)


def test_packed_texts_are_refused_where_masks_do_not_keep_them_apart():
    inputs = {name: tensor[None] for name, tensor in rows("opt")[1].items()}
    with pytest.raises(UnsupportedInputError, match=r"of opt does not carry .*'cu_seq_lens_q'.* Train without packing"):
        made("opt", "lora")(**inputs, cu_seq_lens_q=torch.tensor([0, 4, 12]))


@pytest.mark.slow
@pytest.mark.parametrize("packed", [{"packing": True}, {"padding_free": True, "max_length": None}, {"bf16": True}])
@pytest.mark.parametrize("how", HOW)
def test_gradients_of_sft_trainer_are_those_of_stored_activations(how, packed, tmp_path):
    assert_as_stored("llama", how, "trl", tmp_path, **packed)


@pytest.mark.parametrize("loop", ["trainer", pytest.param("trl", marks=pytest.mark.slow)])
def test_every_token_weighs_the_same_in_accumulated_passes(loop, tmp_path):
    """The Trainer hands a causal model the tokens of all passes that make a step."""
    accumulated = LOOPS[loop](without_dropout(made("llama", "lora")), rows("llama"), tmp_path)
    at_once = {"per_device_train_batch_size": ROWS * PASSES, "gradient_accumulation_steps": 1}
    assert_close(accumulated, LOOPS[loop](without_dropout(made("llama", "lora")), rows("llama"), tmp_path, **at_once))


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["trainer", "trl"])
def test_gradient_checkpointing_is_left_off_with_a_word(loop, tmp_path):
    without = LOOPS[loop](made("llama", "meft1"), rows("llama"), tmp_path)
    with pytest.warns(UserWarning, match="gradient checkpointing stays off"):
        asked = LOOPS[loop](made("llama", "meft1"), rows("llama"), tmp_path, gradient_checkpointing=True)
    assert all(torch.equal(mine, theirs) for (_, mine), (_, theirs) in zip(asked, without, strict=True))


@pytest.mark.parametrize(("kind", "how"), [
    ("bert", "meft1"), pytest.param("llama", "lora", marks=pytest.mark.slow),
    pytest.param("bart", "ia3", marks=pytest.mark.slow), pytest.param("llama", "meft3", marks=pytest.mark.slow),
])  # fmt: skip
@pytest.mark.slow
def test_the_trainer_goes_on_from_its_checkpoint(kind, how, tmp_path):
    """Evaluated in between, and ended with the best weights: bit for bit those of a training in one go."""

    def train(folder, resume=False):
        model = made(kind, how)
        arguments = {
            "max_steps": 3, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1,
            "learning_rate": 1e-2, "load_best_model_at_end": True,
        }  # fmt: skip
        trainer = trainer_of(model, rows(kind, 3 * ROWS * PASSES), folder, **arguments)
        trainer.train(resume_from_checkpoint=resume)
        assert trainer.evaluate()["eval_loss"] == trainer.state.best_metric
        forget_accelerators()
        return model, trainer.state.best_metric

    expected, best = train(tmp_path / "whole")
    train(tmp_path / "parts")
    for step in (2, 3):
        shutil.rmtree(tmp_path / "parts" / f"checkpoint-{step}")
    found, found_best = train(tmp_path / "parts", resume=True)
    assert found_best == best
    weights = dict(expected.named_parameters())
    assert all(torch.equal(parameter, weights[name]) for name, parameter in found.named_parameters())
