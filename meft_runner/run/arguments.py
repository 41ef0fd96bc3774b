"""What a run's settings come to for its rows, and the Trainer that follows them."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

from meft_runner.config import Precision, Settings, TrainingSettings, plain
from meft_runner.run.callbacks import FirstGradients, LossWatch
from meft_runner.run.trainer import MeftTrainer
from meft_runner.tasks import TaskData


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Attributes:
        batch_size: rows in one forward pass of one process, no more than there are.
        eval_batch_size: the same of evaluation.
        gradient_accumulation: forward passes for one optimizer step, no more than an epoch has.
        epoch_steps: optimizer steps an epoch.
        steps: optimizer steps in all.
        epochs: those that are begun.
        warmup_steps: those in which the learning rate rises; it is 0 in the first of them.
        by_length: whether batches have rows of about one length.
        notes: a line for each setting that comes to something else than it says.
    """

    batch_size: int
    eval_batch_size: int
    gradient_accumulation: int
    epoch_steps: int
    steps: int
    epochs: int
    warmup_steps: int
    by_length: bool
    notes: tuple[str, ...]


def plan(settings: Settings, data: TaskData) -> Plan:
    """Returns what the settings of training come to for the rows there are."""
    training, processes = settings.training, settings.training.processes or 1
    notes: list[str] = []

    def at_most(name: str, most: int, why: str) -> int:
        set_to: int | None = getattr(training, name)
        asked = set_to or training.rows_scored_at_once  # of these, evaluation's alone may be unset
        if asked > most and set_to != getattr(TrainingSettings(), name):  # a default is nobody's wish
            notes.append(f"training.{name}={asked}: cut to {most}, {why}")
        return min(asked, most)

    rows = math.ceil(len(data.train) / processes)
    longest = max(len(split.rows) for split in data.evaluation.values())
    batch_size = at_most("batch_size", rows, "the number of training rows")
    eval_batch_size = at_most("eval_batch_size", longest, "the number of rows that are scored")
    batches = math.ceil(rows / batch_size)
    accumulation = at_most("gradient_accumulation", batches, "the number of batches in an epoch")
    epoch_steps = math.ceil(batches / accumulation)
    steps = training.max_steps or training.epochs * epoch_steps
    warmup_steps = math.ceil(steps * training.warmup)
    if steps == 1 and warmup_steps:
        notes.append(f"training.warmup={training.warmup:g}: left out, the learning rate of the only step would be 0")
        warmup_steps = 0
    visible = torch.cuda.device_count()
    if processes == 1 and visible > 1:
        together = f"torchrun --nproc_per_node={visible} -m meft_runner"
        notes.append(f"{visible} GPUs are visible: one of them is used; {together} trains on all of them")
    return Plan(
        batch_size=batch_size,
        eval_batch_size=eval_batch_size,
        gradient_accumulation=accumulation,
        epoch_steps=epoch_steps,
        steps=steps,
        epochs=math.ceil(steps / epoch_steps),
        warmup_steps=warmup_steps,
        by_length=training.group_by_length and "length" in data.train.column_names,  # images have one size
        notes=tuple(notes),
    )


def build_trainer(
    settings: Settings,
    model: nn.Module,
    data: TaskData,
    directory: Path,
    made_from: dict[str, Any],
    loss_watch: LossWatch,
    callbacks: list[TrainerCallback],
) -> MeftTrainer:
    """Makes the Trainer of a run, with these callbacks besides early stopping and the check of first gradients."""
    training = settings.training
    return MeftTrainer(
        description=adapter_description(settings),
        splits=data.evaluation,
        loss_watch=loss_watch,
        made_from=made_from,
        model=model,
        args=training_arguments(settings, data, directory),
        train_dataset=data.train,
        data_collator=data.collate,
        callbacks=[
            EarlyStoppingCallback(training.patience),
            FirstGradients(scaled=training.precision is Precision.fp16),
            *callbacks,
        ],
    )


def training_arguments(settings: Settings, data: TaskData, directory: Path) -> TrainingArguments:
    """Returns the Trainer's arguments for a run; optimizer settings are the released code's."""
    training, planned = settings.training, plan(settings, data)
    arguments = TrainingArguments(
        output_dir=str(directory),
        seed=settings.seed,
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        per_device_train_batch_size=planned.batch_size,
        per_device_eval_batch_size=planned.eval_batch_size,
        gradient_accumulation_steps=planned.gradient_accumulation,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        warmup_steps=planned.warmup_steps,
        max_grad_norm=training.max_grad_norm,
        adam_beta1=0.9,
        adam_beta2=0.98,
        adam_epsilon=1e-6,
        bf16=training.precision is Precision.bf16,
        fp16=training.precision is Precision.fp16,
        train_sampling_strategy="group_by_length" if planned.by_length else "random",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=None,  # MeftTrainer keeps the last and the best
        restore_callback_states_from_checkpoint=True,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{next(iter(data.evaluation))}_{data.metric}",
        greater_is_better=True,
        label_names=list(data.label_names),
        logging_strategy="epoch",
        logging_nan_inf_filter=False,  # it would hide a loss that is not finite
        disable_tqdm=True,  # the run's console shows the progress
        include_num_input_tokens_seen=_tokens_counted(data),
        report_to=[],  # trackers are ours: the same names for each of them
        use_cpu=not torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    if arguments.n_gpu > 1:  # the Trainer would wrap the model in nn.DataParallel, whose copies have no parameters
        arguments._n_gpu = 1  # as the Trainer itself does for a model that lies on several devices
    return arguments


def _tokens_counted(data: TaskData) -> str:
    """Returns which tokens count as seen: those that no mask hides; packed rows have no mask, and little padding."""
    columns = data.train.column_names
    return "all" if "position_ids" in columns else "non_padding" if "length" in columns else "no"


def adapter_description(settings: Settings) -> dict[str, Any]:
    """Returns the content of adapter_config.json for weights that are not peft's own."""
    return {
        "peft_type": settings.method.name.upper(),
        "base_model_name_or_path": settings.backbone.path or settings.backbone.hub,
        "inference_mode": True,
        "method": plain(settings.method),
    }
