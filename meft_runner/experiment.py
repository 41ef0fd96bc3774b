"""One run from top to bottom: settings in, a record and trained weights out."""

import importlib.util
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import set_seed

from meft_runner import methods
from meft_runner.backbones import FAMILIES
from meft_runner.backbones.loading import find_source, image_positions, load_image_processor, load_model, load_tokenizer
from meft_runner.errors import UserError
from meft_runner.memory import AUTOCAST, probe
from meft_runner.methods.meft import reversible_stacks
from meft_runner.methods.weights import save_trained
from meft_runner.records.record import Record, finish, new_record, read_record, write_record
from meft_runner.records.results import parameter_counts, reversal_figures, scores_of, timing_of
from meft_runner.settings import ImageSettings, Logger, Precision, Settings, identity, plain
from meft_runner.tasks import TaskData, load_task
from meft_runner.training import MeftTrainer, StepTimes, adapter_description, build_trainer

_log = logging.getLogger(__name__)


def run_directory(settings: Settings) -> Path:
    """Returns the folder of a run; equal settings share it."""
    name = f"{settings.backbone.name}-{settings.task.name}-{settings.method.name}-s{settings.seed}-{identity(settings)}"
    return Path(settings.output_dir) / name


def run(settings: Settings) -> Record:
    """Trains one backbone on one task with one method, or returns the record of when that was done.

    Args:
        settings: checked settings.

    Returns:
        The completed record, as it is on disk.

    Raises:
        UserError: something the user asked for or provided does not fit; the record says so too.
    """
    directory = run_directory(settings)
    earlier = read_record(directory)
    if earlier is not None and earlier["status"] == "complete":
        _log.info("%s is complete already; remove the folder to run it again.", directory)
        return earlier
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    record = new_record(identity(settings), plain(settings), _device_name(device))
    with _recording(record, directory):
        _run(settings, device, directory, record)
    return record


def _run(settings: Settings, device: torch.device, directory: Path, record: Record) -> None:
    """The story of a run; each chapter fills its part of the record."""
    if settings.training.precision is Precision.fp16 and device.type == "cpu":
        raise UserError("training.precision=fp16: needs a GPU. On a CPU take fp32 or bf16.")
    if settings.logger is not Logger.none and importlib.util.find_spec(settings.logger.name) is None:
        raise UserError(
            f"logger={settings.logger.name}: not installed. pip install meft-runner[{settings.logger.name}]."
        )
    source = find_source(settings.backbone)
    data = load_task(settings.task, _load_processor(settings, source))
    record["data"] = data.description

    set_seed(settings.seed)
    loaded = load_model(settings.backbone, source, data.head, max(1, len(data.classes)))
    family = FAMILIES[loaded.config.model_type]
    model = methods.prepare(loaded, family, settings.backbone, settings.method).to(device)
    record["parameters"] = parameter_counts(model)

    record["memory"] = _measure_memory(settings, model, data)
    write_record(record, directory)

    times = StepTimes()
    trainer = build_trainer(settings, model, data, directory, callbacks=[times])
    trainer.train(resume_from_checkpoint=_last_checkpoint(directory))
    record["scores"] = scores_of(trainer.state.log_history, data)
    record["timing"] = timing_of(times, trainer.state)
    record["reversal"] = reversal_figures(reversible_stacks(model))

    _write_answers(trainer, data, directory / "predictions")
    _save_adapter(model, directory, settings)
    for checkpoint in directory.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


@contextmanager
def _recording(record: Record, directory: Path) -> Iterator[None]:
    """Keeps the record on disk true: running inside, complete or failed afterwards."""
    write_record(record, directory)
    try:
        yield
    except BaseException as error:
        finish(record, "failed", str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
        write_record(record, directory)
        raise
    finish(record, "complete")
    write_record(record, directory)


def _load_processor(settings: Settings, source: str) -> Any:
    """Loads what turns rows into model inputs: the tokenizer, or the image processor."""
    task = settings.task
    if isinstance(task, ImageSettings):
        return load_image_processor(settings.backbone, source)
    return load_tokenizer(settings.backbone, source, task.max_length)  # type: ignore[attr-defined]  # all others have it


def _measure_memory(settings: Settings, model: nn.Module, data: TaskData) -> dict[str, str | int]:
    """Measures steps at the run's batch size, padded to the maximum length, before training begins."""
    size = settings.training.batch_size
    device = next(model.parameters()).device
    rows = [dict(data.train[i % len(data.train)]) for i in range(size)]
    for row in rows:
        row.pop("length", None)
    batch = {name: tensor.to(device) for name, tensor in data.collate(rows, to_maximum=True).items()}
    config: Any = model.config  # a peft model hands on its model's
    length = batch["input_ids"].shape[1] if "input_ids" in batch else image_positions(config)
    accumulating = settings.training.gradient_accumulation > 1
    memory = probe(model, batch, AUTOCAST[settings.training.precision.name], accumulating)
    for stack in reversible_stacks(model):
        stack.monitor.reset()
    return {
        "source": "cuda" if device.type == "cuda" else "tracked",
        **memory.as_dict(),
        "batch_size": size,
        "length": length,
    }


def _write_answers(trainer: MeftTrainer, data: TaskData, folder: Path) -> None:
    """Writes the files of answers that a task leaves, by the weights of the best epoch."""
    for file in data.answer_files:
        folder.mkdir(exist_ok=True)
        temporary = folder / f"{file.name}.tmp"
        temporary.write_text(file.text(trainer.predict(file.rows).predictions), encoding="utf-8")
        temporary.replace(folder / file.name)


def _last_checkpoint(directory: Path) -> str | None:
    """Returns the latest checkpoint that was written to its end; the Trainer writes its state last."""
    complete = [path.parent for path in directory.glob("checkpoint-*/trainer_state.json")]
    return str(max(complete, key=lambda path: int(path.name.rpartition("-")[2]))) if complete else None


def _save_adapter(model: nn.Module, directory: Path, settings: Settings) -> None:
    temporary, final = directory / "adapter.tmp", directory / "adapter"
    for stale in (temporary, final):
        shutil.rmtree(stale, ignore_errors=True)
    save_trained(model, temporary, adapter_description(settings))
    temporary.replace(final)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
