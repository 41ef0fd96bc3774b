"""Training with transformers' Trainer, and the methods of it that a run needs otherwise."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import EvalLoopOutput

from meft_runner.errors import writing
from meft_runner.methods.weights import WEIGHT_WRITING_ERRORS, load_trained, save_trained
from meft_runner.reversible.monitor import StreamOverflowError
from meft_runner.run import checkpoints, processes
from meft_runner.run.callbacks import LossWatch, NotFiniteError, StepTimes
from meft_runner.run.so_far import go_on, so_far
from meft_runner.tasks import EvalSplit

# Learned merge weights, (IA)^3's factors and DoRA's lengths of weights: they start at 1, or where the weights are.
_FACTORS = ("learned_merge", "ia3_l", "lora_magnitude_vector")


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

    Each development split has a score of its own, and is predicted in its own order, which the score knows. The
    overridden methods whose names begin with an underscore are the Trainer's own and not promised to stay; each says
    why nothing else will do.

    Args:
        description: what adapter_config.json says of the weights.
        splits: the development splits by name.
        loss_watch: sees every loss of training.
        made_from: what tells the run's rows and weights from others, for its checkpoints.
        **kwargs: the Trainer's own arguments.

    Attributes:
        times: how long its steps take.
    """

    model: nn.Module

    def __init__(
        self,
        description: dict[str, Any],
        splits: Mapping[str, EvalSplit],
        loss_watch: LossWatch,
        made_from: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        rows = {name: split.rows for name, split in splits.items()}
        self.times = StepTimes()
        callbacks = [self.times, *kwargs.pop("callbacks")]  # first: a step's time ends before the others begin
        super().__init__(eval_dataset=rows, callbacks=callbacks, **kwargs)
        self.remove_callback(PrinterCallback)  # prints dictionaries; the run's console shows the same
        self.description = description
        self.splits = splits
        self.loss_watch = loss_watch
        self.made_from = made_from

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path(str(self.args.output_dir))

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Runs forward and backward pass of a batch.

        Raises:
            NotFiniteError: the loss is not finite, or the streams of a reversible model leave their grid.
        """
        step = self.state.global_step + 1
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
        except StreamOverflowError as error:
            raise NotFiniteError(f"step {step}: {error}") from error
        self.loss_watch.see(loss * self.current_gradient_accumulation_steps, step)
        return loss

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
        output = super().evaluation_loop(dataloader, description, False, ignored, metric_key_prefix)
        if split is not None and split.by_model is not None and output.metrics is not None:
            with self.accelerator.autocast():  # which predictions have by the model's own `forward` alone
                found = split.by_model(self.model)
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in found.items()})
        return output

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Returns the parameters that weight decay pulls to zero: not those in which zero is far from pre-training."""
        names = super().get_decay_parameter_names(model)
        return [name for name in names if not any(factor in name for factor in _FACTORS)]

    def train_from(self, checkpoint: Path | None) -> None:
        """Trains, from a checkpoint where there is one, and ends with the weights of the best epoch."""
        if checkpoint is not None:
            go_on(checkpoints.manifest(checkpoint).get("so_far"), self.model, self.times)
            state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
            stopping = state.stateful_callbacks["EarlyStoppingCallback"]
            if stopping["attributes"]["early_stopping_patience_counter"] >= stopping["args"]["early_stopping_patience"]:
                self.state = state  # it had stopped; the Trainer would not remember and train on
                load_trained(self.model, checkpoint)  # these weights stay where no epoch has a score
                self._load_best_model()
                return
        self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        """Draws rows by seed and epoch: the Trainer's order by length cannot be drawn again when a run is resumed."""
        sampler = super()._get_train_sampler(train_dataset)
        return EpochOrder(sampler, self) if isinstance(sampler, LengthGroupedSampler) else sampler

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        """Keeps the rows' order, which scores rely on: the Trainer would group them by length as in training."""
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None  # the Trainer's "not grouped"

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Keeps the last and the best checkpoint: the Trainer's own rotation removes a user's checkpoint-* folders."""
        step, best = self.state.global_step, self.state.best_global_step
        with writing(f"the checkpoint of step {step}", self.folder.parent, WEIGHT_WRITING_ERRORS):
            processes.by_main(lambda: checkpoints.begin(self.folder, step))
            super()._save_checkpoint(*args, **kwargs)
            self.accelerator.wait_for_everyone()  # each process writes its random state
            if processes.is_main():
                checkpoints.complete(self.folder, step, best, self.made_from, so_far(self.model, self.times))
                checkpoints.remove(self.folder, keep=(step, best))

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Saves the trained weights alone: the Trainer has no other place for the form of a checkpoint's weights."""
        assert output_dir is not None
        save_trained(self.model, Path(output_dir), self.description)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Reads what `_save` wrote."""
        load_trained(self.model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        """Reads what `_save` wrote, in the folder where the run is now; without any score the weights stay."""
        if self.state.best_global_step:
            load_trained(self.model, checkpoints.folder_of(self.folder, self.state.best_global_step))
