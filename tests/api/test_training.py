"""What trainers of others do with a reversible model: how they scale its loss, switch checkpointing on, hold it."""

import pytest
import torch
from datasets import Dataset
from transformers import BitsAndBytesConfig, LlamaForCausalLM, Trainer, TrainingArguments

import meft_runner
from tests.helpers.interface import batch_of, model_of, prepared_by
from tests.helpers.models import gradients, move_away, tiny_config, tiny_model

CASES = [("bert", "meft1"), ("bert", "lora"), ("llama", "meft1"), ("llama", "lora"), ("vit", "meft3"), ("opt", "ia3")]


@pytest.mark.parametrize(("kind", "how"), CASES)
def test_the_trainer_is_told_which_losses_count_their_items(kind, how):
    model = prepared_by(model_of(kind), how)
    inner = model if how.startswith("meft") else model.get_base_model()
    with torch.no_grad():
        mean, counted = (model.eval()(**batch_of(kind), **items).loss for items in ({}, {"num_items_in_batch": 1000}))
    assert inner.accepts_loss_kwargs == (kind in ("llama", "opt"))
    assert counted < mean / 2 if inner.accepts_loss_kwargs else True


def trained_once(kind, how, folder, rows, **arguments):
    """The parameters that train, after one step of plain gradient descent."""
    torch.manual_seed(0)
    config = tiny_config(kind, dropout=0.0)
    model = move_away(prepared_by(LlamaForCausalLM(config) if kind == "llama" else tiny_model(kind, dropout=0.0), how))
    usual = {
        "optim": "sgd",
        "learning_rate": 1.0,
        "max_grad_norm": 0.0,
        "max_steps": 1,
        "lr_scheduler_type": "constant",
    }
    given = TrainingArguments(str(folder), report_to=[], disable_tqdm=True, use_cpu=True, **usual, **arguments)
    Trainer(model, given, train_dataset=Dataset.from_list(rows)).train()
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


ACCUMULATED = [
    pytest.param("bert", "lora", marks=pytest.mark.slow),
    pytest.param("llama", "meft1", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("kind", "how"), [("bert", "meft1"), ("llama", "lora"), *ACCUMULATED])
@pytest.mark.thin(2)
def test_accumulated_passes_are_one_batch(kind, how, tmp_path):
    columns = batch_of(kind)
    rows = [{name: column[row].tolist() for name, column in columns.items()} for row in range(4)]
    together = trained_once(kind, how, tmp_path, rows, per_device_train_batch_size=4)
    apart = trained_once(kind, how, tmp_path, rows, per_device_train_batch_size=1, gradient_accumulation_steps=4)
    assert all(torch.allclose(apart[name], together[name], atol=1e-5) for name in together)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "how"), [("bert", "meft1"), ("llama", "lora"), ("llama", "meft1")])
def test_training_goes_on_from_a_checkpoint_of_the_trainer(kind, how, tmp_path):
    columns = batch_of(kind)
    rows = [{name: column[row].tolist() for name, column in columns.items()} for row in range(4)]
    usual = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "max_steps": 4}
    given = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True, load_best_model_at_end=True, **usual)

    def trained(checkpoint):
        model = move_away(prepared_by(model_of(kind), how))
        data = Dataset.from_list(rows)
        Trainer(model, given, train_dataset=data, eval_dataset=data).train(resume_from_checkpoint=checkpoint)
        return [parameter.detach() for parameter in model.parameters()]

    whole, resumed = trained(None), trained(str(tmp_path / "checkpoint-2"))
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_checkpointing_that_is_switched_on_later_stays_off_with_a_word(tmp_path):
    rows = [{name: column[0].tolist() for name, column in batch_of("bert").items()}]
    with pytest.warns(UserWarning, match="gradient checkpointing stays off"):
        trained_once("bert", "meft1", tmp_path, rows, gradient_checkpointing=True)


def reloaded(kind, folder, **how):
    model = model_of(kind)
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder, **how)


NF4 = {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")}
HELD = [
    ("bert", "meft3", {"dtype": torch.bfloat16}, False),
    pytest.param("llama", "meft1", {"dtype": torch.bfloat16}, True, marks=pytest.mark.slow),
    pytest.param("llama", "lora", {"dtype": torch.float16}, False, marks=pytest.mark.slow),
    ("llama", "lora", NF4, False),
    pytest.param("llama", "meft1", NF4, True, marks=pytest.mark.slow),
    pytest.param("llama", "ia3", NF4, False, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("kind", "how", "held", "autocast"), HELD)
def test_weights_of_other_forms_train_with_the_gradients_of_stored(kind, how, held, autocast, tmp_path):
    found = {}
    for reversal in ("exact", "stored"):
        model = move_away(prepared_by(reloaded(kind, tmp_path, **held), how, reversal=reversal)).train()
        torch.manual_seed(3)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = model(**batch_of(kind)).loss
        loss.backward()
        found[reversal] = gradients(model)
    assert all(torch.equal(grad, found["stored"][name]) for name, grad in found["exact"].items())
    assert meft_runner.reversal_report(model).mode == "stored"


def test_an_adapter_goes_from_float32_to_bfloat16_weights(tmp_path):
    model = prepared_by(model_of("bert"), "meft1")
    meft_runner.save_adapter(model, tmp_path / "adapter")
    found = meft_runner.load_adapter(reloaded("bert", tmp_path, dtype=torch.bfloat16), tmp_path / "adapter")
    with torch.no_grad():
        difference = found(**batch_of("bert")).logits - model.eval()(**batch_of("bert")).logits
    assert difference.abs().max() < 0.05
