"""Trackers: the settings, curves and results of a run in Weights & Biases or TensorBoard, under the same names."""

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from accelerate.tracking import TensorBoardTracker, WandBTracker
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from meft_runner.config import Logger
from meft_runner.errors import UserError
from meft_runner.records.schema import Record
from meft_runner.run import processes
from meft_runner.run.results import split_metrics

_CURVES = {"loss": "train/loss", "learning_rate": "train/learning_rate", "grad_norm": "train/gradient_norm"}
_RESULTS = {
    "scores": ("best", "final"),
    "parameters": ("trainable", "total"),
    "timing": ("median_step_seconds",),
    "reversal": ("mismatches", "checked_steps", "max_error"),
}  # of a record's parts; of its memory, all that is bytes

_WANDB_SETTINGS = {
    "host": "",
    "program": "",
    "console": "off",
    "save_code": False,
    "disable_code": True,
    "disable_git": True,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,  # up to here: nothing about machine, user, command or console leaves with the run
    "finish_timeout": 300.0,  # seconds in which to upload; what is left then stays on disk, for `wandb sync`
}


class _WandB(WandBTracker):
    """A run in Weights & Biases: the same identity is the same run there, also when it is resumed."""

    def __init__(self, directory: Path, identity: str) -> None:
        super().__init__(
            os.environ.get("WANDB_PROJECT", "meft-runner"),
            id=identity,
            name=directory.name,
            dir=str(directory),
            resume="allow",
            settings=_WANDB_SETTINGS,
        )

    def start(self) -> None:
        """Opens the run; never asks for a key.

        Raises:
            UserError: nobody is logged in, or the server cannot be reached.
        """
        wandb = import_module("wandb")
        try:
            online = wandb.setup().settings.mode not in ("offline", "dryrun", "disabled")
            if online and not wandb.login(prompt=False):
                raise UserError("logger=wandb: not logged in. Run wandb login, or set WANDB_MODE=offline.")
            super().start()
        except (wandb.Error, ValueError) as error:  # ValueError: of its environment variables
            reason = " ".join(str(error).split()).rstrip(".")
            raise UserError(f"logger=wandb: {reason}. Mend that, or set WANDB_MODE=offline.") from error

    def summarize(self, record: Record) -> None:
        """Writes the results of a record."""
        self.run.summary.update(summary(record))

    def close(self, failed: bool) -> None:
        """Ends the run, as failed or finished."""
        self.run.finish(exit_code=int(failed))


class _TensorBoard(TensorBoardTracker):
    """A folder of event files; a resumed run adds one."""

    def __init__(self, directory: Path) -> None:
        super().__init__("tensorboard", directory)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Writes the settings as hyperparameters of this very run; accelerate would begin another one for them."""
        hparams = import_module("torch.utils.tensorboard.summary").hparams
        for part in hparams(flat(values), dict.fromkeys(("scores/best", "scores/final"), 0)):
            self.writer.file_writer.add_summary(part)

    def summarize(self, record: Record) -> None:
        """Writes the results of a record, at its last step."""
        history = record.scores.history if record.scores else []
        self.log(summary(record), step=max((epoch.step for epoch in history), default=0))

    def close(self, failed: bool) -> None:
        """Closes the file."""
        self.finish()


_Backend = _WandB | _TensorBoard


class _Curves(TrainerCallback):
    """Hands on what the Trainer logs, under the tracker's names."""

    def __init__(self, backend: _Backend, splits: Collection[str]) -> None:
        self.backend = backend
        self.splits = splits

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Takes an entry of training or of a development split; the Trainer's closing statistics are left out."""
        entry = logs or {}
        values = {name: entry[key] for key, name in _CURVES.items() if key in entry}
        metrics = split_metrics(entry, self.splits)
        values |= {f"eval/{name}": value for name, value in metrics.items() if value is not None}
        if values:
            self.backend.log(values, step=state.global_step)


# Given the names of the development splits, returns what the Trainer has to call.
Tracker = Callable[[Collection[str]], list[TrainerCallback]]


@contextmanager
def tracking(logger: Logger, directory: Path, record: Record) -> Iterator[Tracker]:
    """Follows what is run inside, if a logger is set, in the main process; at its end the tracker gets the results.

    Raises:
        UserError: the tracker's package is not installed, or nobody is logged in.
    """
    if logger is Logger.none or not processes.is_main():
        yield lambda splits: []
        return
    backend = _open(logger, directory, record)
    failed = True
    try:
        yield lambda splits: [_Curves(backend, splits)]
        backend.summarize(record)
        failed = False
    finally:
        backend.close(failed)


def summary(record: Record) -> dict[str, float]:
    """Returns the results of a record that a tracker shows; what a run does not have is left out."""
    results = {**_RESULTS, "memory": record.memory.sizes() if record.memory else ()}
    content = record.plain()
    values = {f"{part}/{key}": (content[part] or {}).get(key) for part, keys in results.items() for key in keys}
    return {name: value for name, value in values.items() if value is not None}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, bool | float | str]:
    """Returns nested settings as one dictionary with dotted names; lists become JSON, None is left out."""
    result: dict[str, bool | float | str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            result[prefix + key] = value if isinstance(value, bool | int | float | str) else json.dumps(value)
    return result


def _open(logger: Logger, directory: Path, record: Record) -> _Backend:
    """Starts the chosen tracker with the settings of the run."""
    try:
        metadata.version(logger.name)
    except metadata.PackageNotFoundError as error:
        raise UserError(f"logger={logger.name}: not installed. pip install meft-runner[{logger.name}].") from error
    backend = _WandB(directory, record.identity) if logger is Logger.wandb else _TensorBoard(directory)
    backend.start()
    backend.store_init_configuration(record.config.plain())
    return backend
