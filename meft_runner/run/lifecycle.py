"""One run from top to bottom: settings in, a record and trained weights out."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, set_seed

from meft_runner.backbones import FAMILIES, positions
from meft_runner.backbones.loading import find_source, load_image_processor, load_model, load_tokenizer
from meft_runner.backbones.repeat import repeat_layers
from meft_runner.config import Head, Precision, Settings, Study, identity, plain
from meft_runner.errors import UserError
from meft_runner.memory import AUTOCAST, probe
from meft_runner.methods.meft import reversible_stacks
from meft_runner.methods.prepare import prepare
from meft_runner.records.record import completed, finish, new_record, read_record, write_record
from meft_runner.records.schema import CompleteRecord, Data, LayerGradient, Memory, Record, Start
from meft_runner.run import checkpoints, processes
from meft_runner.run.arguments import adapter_description, build_trainer, plan
from meft_runner.run.callbacks import LossWatch, StepTimes
from meft_runner.run.folder import BusyError, claimed, run_directory
from meft_runner.run.gradient_study import first_outputs, gradient_errors, relative_distance
from meft_runner.run.interruption import Interruption
from meft_runner.run.keeping import keep_adapter, keep_answers
from meft_runner.run.results import parameter_counts, reversal_figures, scores_of, timing_of
from meft_runner.run.trackers import Tracker, tracking
from meft_runner.run.trainer import train
from meft_runner.tasks import TaskData, load_task


def run(settings: Settings) -> CompleteRecord:
    """Trains one backbone on one task with one method, or returns the record of when that was done.

    Several processes of torchrun each call it and train together; the main one writes.

    Args:
        settings: checked settings.

    Returns:
        The completed record, as it is on disk.

    Raises:
        UserError: something the user asked for or provided does not fit; the record says so too.
        BusyError: another process is running it.
        InterruptedRunError: SIGTERM or Ctrl-C came; the run goes on from its checkpoint when it is started again.
    """
    directory = run_directory(settings)
    with _claimed_together(directory):
        earlier = processes.agreed(read_record(directory))
        if isinstance(earlier, CompleteRecord):
            return earlier
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        record = new_record(identity(settings), plain(settings), _device_name(device))
        interruption = Interruption()
        with (
            _recording(record, directory),
            tracking(settings.logger, directory, record) as tracker,
            interruption.watching(),
        ):
            _run(settings, device, directory, record, tracker, interruption)
        if processes.is_main():
            checkpoints.remove(directory)
    return completed(record)


def _run(
    settings: Settings,
    device: torch.device,
    directory: Path,
    record: Record,
    tracker: Tracker,
    interruption: Interruption,
) -> None:
    """The story of a run; each chapter fills its part of the record."""
    if settings.training.precision is Precision.fp16 and device.type == "cpu":
        raise UserError("training.precision=fp16: needs a GPU. On a CPU take fp32 or bf16.")
    source = find_source(settings.backbone)
    data = load_task(settings.task, _load_processor(settings, source))
    record.data = Data.model_validate(data.description)

    set_seed(settings.seed)
    loaded = load_model(settings.backbone, source, data.head, max(1, len(data.classes)))
    nn.Module.to(loaded, device)
    family = FAMILIES[loaded.config.model_type]
    if settings.backbone.repeat is not None:
        repeat_layers(loaded, family, settings.backbone.repeat)
    size = plan(settings, data).batch_size
    batch = _first_batch(data, size, device)
    pretrained = first_outputs(loaded, batch)
    model = prepare(loaded, family, settings.backbone, settings.method).to(device)
    record.parameters = parameter_counts(model)
    record.start = Start(output_distance=relative_distance(first_outputs(model, batch), pretrained))

    if settings.study is Study.gradients:
        errors = gradient_errors(model, batch, AUTOCAST[settings.training.precision.name])
        record.gradients = [LayerGradient.model_validate(error) for error in errors]
        record.reversal = reversal_figures(reversible_stacks(model))
        return
    record.memory = _measure_memory(settings, model, data, size)
    _write(record, directory)
    callbacks = [interruption, *tracker.callbacks(data.evaluation)]
    _train(settings, model, data, directory, record, callbacks)


def _train(
    settings: Settings,
    model: nn.Module,
    data: TaskData,
    directory: Path,
    record: Record,
    callbacks: list[TrainerCallback],
) -> None:
    """Trains from the last checkpoint there is, and keeps the weights of the best epoch."""
    times = StepTimes()
    watch = LossWatch(settings.training.learning_rate, settings.training.precision.name)
    trainer = build_trainer(settings, model, data, directory, {}, watch, [times, *callbacks])
    train(trainer, processes.by_main(lambda: checkpoints.last_whole(directory)))
    record.scores = scores_of(trainer.state.log_history, data)
    record.timing = timing_of(times, trainer.state)
    record.reversal = reversal_figures(reversible_stacks(model))

    keep_answers(trainer, data, directory)
    if processes.is_main():
        keep_adapter(model, directory, adapter_description(settings))


@contextmanager
def _claimed_together(directory: Path) -> Iterator[None]:
    """Holds a run for this group of processes: the main one has the lock."""
    with ExitStack() as stack:
        problem = None
        if processes.is_main():
            try:
                stack.enter_context(claimed(directory))
            except (BusyError, UserError) as error:
                problem = error
        problem = processes.agreed(problem)
        if problem is not None:
            raise problem
        yield


@contextmanager
def _recording(record: Record, directory: Path) -> Iterator[None]:
    """Keeps the record on disk true: running inside and where it was interrupted, complete or failed afterwards."""
    _write(record, directory)
    try:
        yield
    except Exception as error:
        finish(record, "failed", str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
        _write(record, directory)
        raise
    finish(record, "complete")
    _write(record, directory)


def _write(record: Record, directory: Path) -> None:
    if processes.is_main():
        write_record(record, directory)


def _load_processor(settings: Settings, source: str) -> Any:
    """Loads what turns rows into model inputs: the tokenizer, or the image processor."""
    task = settings.task
    if task.head is Head.image:
        return load_image_processor(settings.backbone, source)
    return load_tokenizer(settings.backbone, source, task.max_length)  # type: ignore[attr-defined]  # all others have it


def _first_batch(data: TaskData, size: int, device: torch.device, padded: bool = False) -> dict[str, Tensor]:
    """Returns the first rows as a batch, padded to each other or to the maximum length."""
    rows = [dict(data.train[index]) for index in range(size)]
    for row in rows:
        row.pop("length", None)
    return {name: tensor.to(device) for name, tensor in data.collate(rows, to_maximum=padded).items()}


def _measure_memory(settings: Settings, model: nn.Module, data: TaskData, size: int) -> Memory:
    """Measures steps at the run's batch size, padded to the maximum length, before training begins."""
    device = next(model.parameters()).device
    batch = _first_batch(data, size, device, padded=True)
    config: Any = model.config  # a peft model hands on its model's
    length = batch["input_ids"].shape[1] if "input_ids" in batch else positions(config)
    accumulating = settings.training.gradient_accumulation > 1
    memory = probe(model, batch, AUTOCAST[settings.training.precision.name], accumulating)
    for stack in reversible_stacks(model):
        stack.monitor.reset()
    return Memory(
        source="cuda" if device.type == "cuda" else "tracked",
        **memory.as_dict(),
        batch_size=size,
        length=length,
    )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
