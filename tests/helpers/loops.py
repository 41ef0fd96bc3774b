"""Training loops of others, each as its documentation shows it, with an optimizer that keeps the gradients.

Each loop is given a model, rows and a folder, makes STEPS optimizer steps of PASSES passes, and returns all gradients.
"""

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from datasets import Dataset
from tokenizers import Tokenizer, models
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from tests.helpers.models import VOCABULARY, batch

ROWS, PASSES, STEPS = 2, 2, 2  # a pass, a step, in all
CAUSAL = ("opt", "llama")  # whose tokens all have labels


class Recording(torch.optim.SGD):
    """Keeps a copy of every gradient that it steps with."""

    def __init__(self, model):
        self.model, self.gradients = model, []
        super().__init__([p for p in model.parameters() if p.requires_grad], lr=0.05)

    def step(self, closure=None):
        named = self.model.named_parameters()
        self.gradients += [(name, p.grad.clone()) for name, p in named if p.grad is not None]
        return super().step(closure)


def rows(kind, count=ROWS * PASSES * STEPS, length=12):
    """Rows of a model's inputs, some of them padded; of a language model with a label for each token."""
    inputs = batch(kind, rows=count, length=length)
    if kind in CAUSAL:
        inputs["labels"] = inputs["input_ids"].where(inputs["attention_mask"].bool(), -100)
    return [{name: tensor[row] for name, tensor in inputs.items()} for row in range(count)]


def torch_loop(model, given, folder):
    """Plain torch."""
    set_seed(3)
    optimizer = Recording(model)
    for number, inputs in enumerate(DataLoader(given, batch_size=ROWS, shuffle=True), start=1):
        (model(**inputs).loss / PASSES).backward()
        if number % PASSES == 0:
            optimizer.step()
            optimizer.zero_grad()
    return optimizer.gradients


def accelerate_loop(model, given, folder, precision="bf16"):
    """accelerate, in half precision."""
    forget_accelerators()
    set_seed(3)
    accelerator = Accelerator(cpu=True, mixed_precision=precision, gradient_accumulation_steps=PASSES)
    optimizer = Recording(model)
    loader = DataLoader(given, batch_size=ROWS, shuffle=True)
    prepared, wrapped, loader = accelerator.prepare(model, optimizer, loader)
    for inputs in loader:
        with accelerator.accumulate(prepared):
            accelerator.backward(prepared(**inputs).loss)
            accelerator.clip_grad_norm_(prepared.parameters(), 1.0)
            wrapped.step()
            wrapped.zero_grad()
    forget_accelerators()
    return optimizer.gradients


def trainer_loop(model, given, folder, **arguments):
    """transformers' Trainer."""
    optimizer = Recording(model)
    run(trainer_of(model, given, folder, optimizer, **arguments))
    return optimizer.gradients


def trainer_of(model, given, folder, optimizer=None, **arguments):
    return Trainer(
        model,
        TrainingArguments(**common(folder) | arguments),
        train_dataset=given,
        eval_dataset=given[:4],
        data_collator=default_data_collator,
        optimizers=(optimizer, None),
    )


def trl_loop(model, given, folder, **arguments):
    """TRL's SFTTrainer."""
    from trl import SFTConfig, SFTTrainer

    kept = [row["input_ids"][row["labels"] != -100].tolist() for row in given]
    optimizer = Recording(model)
    trainer = SFTTrainer(
        model,
        SFTConfig(**common(folder) | {"bf16": False, "gradient_checkpointing": False, "max_length": 24} | arguments),
        train_dataset=Dataset.from_dict({"input_ids": kept}),
        processing_class=words(),
        optimizers=(optimizer, None),
    )
    run(trainer)
    return optimizer.gradients


LOOPS = {"torch": torch_loop, "accelerate": accelerate_loop, "trainer": trainer_loop, "trl": trl_loop}


def common(folder):
    return {
        "output_dir": str(folder), "max_steps": STEPS, "per_device_train_batch_size": ROWS, "seed": 3,
        "gradient_accumulation_steps": PASSES, "report_to": "none", "save_strategy": "no", "use_cpu": True,
        "disable_tqdm": True, "lr_scheduler_type": "constant",
    }  # fmt: skip


def run(trainer, **arguments):
    trainer.train(**arguments)
    forget_accelerators()


def words():
    """A tokenizer of one word a token."""
    tokenizer = Tokenizer(models.WordLevel({f"w{place}": place for place in range(VOCABULARY)}, unk_token="w3"))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="w0", pad_token="w1", eos_token="w2", unk_token="w3"
    )


def forget_accelerators():
    """Lets the next one have another precision: accelerate keeps that of the first in a process."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
