"""Training with transformers' Trainer: its arguments, and the checks and figures it does not have."""

import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import EvalLoopOutput

from meft_runner.config import MeftSettings, Precision, Settings, plain
from meft_runner.config.checks import effective_merge
from meft_runner.errors import writing
from meft_runner.methods import may_start_without_gradient
from meft_runner.methods.weights import WEIGHT_WRITING_ERRORS, load_trained, save_trained
from meft_runner.tasks import EvalSplit, TaskData


class GradientError(RuntimeError):
    """A parameter that should train has no usable gradient."""


@dataclass
class StepTimes(TrainerCallback):
    """Seconds of each optimizer step.

    Attributes:
        seconds: one entry a step, evaluation not counted.
        tokens_before: tokens that an earlier process had trained on, where a run is resumed.
    """

    seconds: list[float] = field(default_factory=list)
    tokens_before: int = 0
    _started: float = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Notes what was trained on before."""
        self.tokens_before = state.num_input_tokens_seen

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stops the clock."""
        self.seconds.append(time.perf_counter() - self._started)

    @property
    def median(self) -> float | None:
        """The median step in seconds, None before the first."""
        return statistics.median(self.seconds) if self.seconds else None


class FirstGradients(TrainerCallback):
    """Stops a run in which something that should train gets no gradient."""

    def __init__(self, scaled: bool) -> None:
        self.scaled = scaled
        self.done = False

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Checks the first step's gradients.

        Raises:
            GradientError: one is missing, not finite, or zero where it should not be.
        """
        if self.done:
            return
        model: nn.Module = kwargs["model"]
        if self.scaled and not all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None):
            return  # the loss scaler is still looking for its scale and skips this step
        self.done = True
        check_gradients(model)


def check_gradients(model: nn.Module) -> None:
    """Makes sure that every trainable parameter has a finite gradient that is not zero throughout.

    Raises:
        GradientError: names those that have not.
    """
    bad = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:
            bad.append(f"{name} (none)")
        elif not parameter.grad.isfinite().all():
            bad.append(f"{name} (not finite)")
        elif not parameter.grad.any() and not may_start_without_gradient(name):
            bad.append(f"{name} (zero)")
    if bad:
        raise GradientError(f"{len(bad)} trainable parameters have no usable gradient after one step: {', '.join(bad)}")


class EpochOrder(Sampler[int]):
    """An order of rows that depends on the seed and the epoch alone: a run resumed inside an epoch goes on in it.

    Args:
        sampler: draws the order.
        trainer: knows seed and epoch.
    """

    def __init__(self, sampler: LengthGroupedSampler, trainer: Trainer) -> None:
        self.sampler = sampler
        self.trainer = trainer

    def __iter__(self) -> Iterator[int]:
        """Draws the order of the epoch that the trainer is in."""
        seed = 10_007 * self.trainer.args.seed + int(self.trainer.state.epoch or 0)
        self.sampler.generator = torch.Generator().manual_seed(seed)
        return iter(self.sampler)

    def __len__(self) -> int:
        """Returns how many rows there are."""
        return len(self.sampler)


class MeftTrainer(Trainer):
    """A Trainer whose checkpoints hold the trained weights alone, in peft's file form.

    Each development split has a score of its own, and is predicted in its own order, which the score knows.

    Args:
        description: what adapter_config.json says of the weights.
        splits: the development splits by name.
        **kwargs: the Trainer's own arguments.
    """

    model: nn.Module

    def __init__(self, description: dict[str, Any], splits: Mapping[str, EvalSplit], **kwargs: Any) -> None:
        rows = {name: split.rows for name, split in splits.items()}
        super().__init__(eval_dataset=rows, **kwargs)
        self.description = description
        self.splits = splits

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        sampler = super()._get_train_sampler(train_dataset)
        return EpochOrder(sampler, self) if isinstance(sampler, LengthGroupedSampler) else sampler

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None  # the Trainer's "not grouped"

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Predicts a split, and scores it where it is a development split."""
        split = self.splits.get(metric_key_prefix.removeprefix("eval_")) if metric_key_prefix != "test" else None
        self.compute_metrics = split.score if split else None
        # BART returns its encoder's states besides, which would be gathered over the whole split.
        ignored = ["past_key_values", "encoder_last_hidden_state"]
        return super().evaluation_loop(dataloader, description, False, ignored, metric_key_prefix)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        folder = Path(str(self.args.output_dir)).parent
        with writing(f"the checkpoint of step {self.state.global_step}", folder, WEIGHT_WRITING_ERRORS):
            super()._save_checkpoint(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert output_dir is not None
        save_trained(self.model, Path(output_dir), self.description)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_trained(self.model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None
        load_trained(self.model, Path(self.state.best_model_checkpoint))


def train(trainer: MeftTrainer, checkpoint: str | None) -> None:
    """Trains, from a checkpoint where there is one, and ends with the weights of the best epoch."""
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        stopping = state.stateful_callbacks["EarlyStoppingCallback"]
        if stopping["attributes"]["early_stopping_patience_counter"] >= stopping["args"]["early_stopping_patience"]:
            trainer.state = state  # it had stopped; the Trainer would not remember and train on
            trainer._load_best_model()
            return
    trainer.train(resume_from_checkpoint=checkpoint)


def build_trainer(
    settings: Settings,
    model: nn.Module,
    data: TaskData,
    directory: Path,
    callbacks: list[TrainerCallback],
) -> MeftTrainer:
    """Makes the Trainer of a run.

    Args:
        settings: the run's settings.
        model: prepared for training.
        data: the task.
        directory: receives the checkpoints, and the logger's files.
        callbacks: besides early stopping and the gradient check.
    """
    training = settings.training
    return MeftTrainer(
        description=adapter_description(settings),
        model=model,
        splits=data.evaluation,
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
    training = settings.training
    of_tokens = "length" in data.train.column_names  # images have neither lengths nor tokens to count
    by_length = training.group_by_length and of_tokens
    return TrainingArguments(
        output_dir=str(directory),
        seed=settings.seed,
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        per_device_train_batch_size=training.batch_size,
        per_device_eval_batch_size=training.eval_batch_size,
        gradient_accumulation_steps=training.gradient_accumulation,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        warmup_steps=training.warmup,
        max_grad_norm=training.max_grad_norm,
        adam_beta1=0.9,
        adam_beta2=0.98,
        adam_epsilon=1e-6,
        bf16=training.precision is Precision.bf16,
        fp16=training.precision is Precision.fp16,
        train_sampling_strategy="group_by_length" if by_length else "random",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        restore_callback_states_from_checkpoint=True,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{next(iter(data.evaluation))}_{data.metric}",
        greater_is_better=True,
        label_names=list(data.label_names),
        logging_strategy="epoch",
        include_num_input_tokens_seen="non_padding" if of_tokens else "no",
        report_to=[],  # trackers are ours: the same names for each of them
        use_cpu=not torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def adapter_description(settings: Settings) -> dict[str, Any]:
    """Returns what adapter_config.json says of weights that are not peft's own."""
    content, method = plain(settings), settings.method
    return {
        "peft_type": settings.method.name.upper(),
        "base_model_name_or_path": settings.backbone.path or settings.backbone.hub,
        "inference_mode": True,
        "method": content["method"],
        "merge": effective_merge(settings.backbone, method) if isinstance(method, MeftSettings) else None,
    }
