"""One run from top to bottom: settings in, a record and trained weights out."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from peft import PeftModel
from transformers import TrainerCallback

from meft_runner.config import Settings, Study, identity, plain
from meft_runner.errors import UserError
from meft_runner.memory import AUTOCAST
from meft_runner.methods.layers import reversible_stacks
from meft_runner.methods.stored import reversible_layers
from meft_runner.records.record import completed, finish, new_record, write_record
from meft_runner.records.schema import CompleteRecord, LayerGradient, Record
from meft_runner.run import checkpoints, processes
from meft_runner.run.announcement import show_budget, show_memory, show_run
from meft_runner.run.arguments import build_trainer
from meft_runner.run.budget import plan_budget
from meft_runner.run.callbacks import LossWatch
from meft_runner.run.display import Screen
from meft_runner.run.distances import compare_with_plain
from meft_runner.run.failures import explained
from meft_runner.run.folder import claimed, record_of, run_directory
from meft_runner.run.gradient_study import gradient_errors
from meft_runner.run.interruption import Interruption
from meft_runner.run.keeping import keep_adapter, keep_answers
from meft_runner.run.measuring import first_batch, measure_memory
from meft_runner.run.opening import Opened, open_run
from meft_runner.run.pruning import Pruning
from meft_runner.run.quiet import quiet
from meft_runner.run.results import reversal_figures, scores_of, timing_of
from meft_runner.run.reuse import check_ended, check_interrupted, check_unrecorded, stamps_of_adapter
from meft_runner.run.trackers import Tracker, tracking
from meft_runner.run.trainer import MeftTrainer


def run(settings: Settings) -> Record:
    """Trains one backbone on one task with one method, or returns the record of when that was done.

    The record is a `CompleteRecord`, but for a trial of a search that was pruned.

    Several processes of torchrun each call it and train together; the main one writes.

    Raises:
        UserError: something the user asked for or provided does not fit; the record says so too.
        BusyError: another process is running it.
        InterruptedRunError: SIGTERM or Ctrl-C came; the run goes on from its checkpoint when it is started again.
    """
    directory = run_directory(settings)
    with quiet(), _claimed_together(directory):
        earlier = processes.by_main(lambda: _earlier(settings, directory))
        if isinstance(earlier, CompleteRecord):
            return earlier
        was_pruned = earlier is not None and earlier.status == "pruned"
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        record = new_record(identity(settings), plain(settings), _device_name(device))
        interruption = Interruption()
        with (
            _recording(record, directory, was_pruned),
            explained(settings, device),
            tracking(settings.logger, directory, record) as tracker,
            interruption.watching(),
        ):
            _run(settings, device, directory, record, tracker, interruption)
        if processes.is_main():
            checkpoints.remove(directory)
    return completed(record) if record.status == "complete" else record


def _run(
    settings: Settings,
    device: torch.device,
    directory: Path,
    record: Record,
    tracker: Tracker,
    interruption: Interruption,
) -> None:
    """Opens the run and trains it, or does its study; each step adds to the record."""
    screen = Screen(directory.name)
    show_run(settings, directory, screen)
    opened = open_run(settings, device, record, screen)
    record.budget = plan_budget(settings, opened.model, opened.data, opened.plan.batch_size)
    if record.budget is not None:
        show_budget(record.budget, reversible_layers(opened.model), screen)
    if settings.study is Study.gradients:
        _study_gradients(settings, opened, device, record)
        return
    record.memory = measure_memory(settings, opened.model, opened.data, opened.plan.batch_size)
    show_memory(record.memory, record.budget, screen)
    _write(record, directory)
    if settings.study is Study.start:
        return
    checkpoint = processes.by_main(lambda: _last_checkpoint(directory, opened))
    if checkpoint is not None:
        screen.line("goes on", f"from {checkpoint.name}, which an earlier call has left")
    pruning = Pruning(settings.hpo.trial.pruned_below if settings.hpo else [])
    callbacks = [interruption, *tracker(opened.data.evaluation), pruning]
    trainer = _train(settings, opened, directory, checkpoint, record, screen, callbacks)
    if pruning.reason is not None:
        finish(record, "pruned", pruning.reason)
        screen.line("pruned", pruning.reason)
        return
    _keep(settings, opened, directory, trainer, record, screen)


def _train(
    settings: Settings,
    opened: Opened,
    directory: Path,
    checkpoint: Path | None,
    record: Record,
    screen: Screen,
    callbacks: list[TrainerCallback],
) -> MeftTrainer:
    """Trains from the last checkpoint there is, and ends with the weights of the best epoch."""
    model, data = opened.model, opened.data
    watch = LossWatch(settings.training.learning_rate, settings.training.precision.name)
    with screen.training(list(data.evaluation), opened.plan.epochs, watch) as shown:
        seen = [*callbacks, shown]
        trainer = build_trainer(settings, model, data, directory, opened.made_from, watch, seen)
        trainer.train_from(checkpoint)
    record.scores = scores_of(trainer.state.log_history, data)
    record.timing = timing_of(trainer.times, trainer.state)
    record.reversal = reversal_figures(reversible_stacks(model))
    return trainer


def _keep(
    settings: Settings, opened: Opened, directory: Path, trainer: MeftTrainer, record: Record, screen: Screen
) -> None:
    """Keeps what a run that was trained to its end leaves: weights, answers, and what is known of both."""
    model, data = opened.model, opened.data
    if isinstance(model, PeftModel) and reversible_stacks(model):
        record.plain_model = compare_with_plain(trainer, data)
    assert record.scores is not None
    if record.scores.best is None:
        screen.line("note", f"{data.metric} was not defined after any epoch: the weights of the last one are kept")

    keep_answers(trainer, data, directory)
    if processes.is_main():
        keep_adapter(model, directory, settings, record, opened.base)
        record.files = {**(record.files or {}), **stamps_of_adapter(directory)}


def _study_gradients(settings: Settings, opened: Opened, device: torch.device, record: Record) -> None:
    """Compares the gradients of the first batch in place of training."""
    batch = first_batch(opened.data, opened.plan.batch_size, device)
    errors = gradient_errors(opened.model, batch, AUTOCAST[settings.training.precision.name])
    record.gradients = [LayerGradient.model_validate(error) for error in errors]
    record.reversal = reversal_figures(reversible_stacks(opened.model))


def _earlier(settings: Settings, directory: Path) -> Record | None:
    """Returns the record that an earlier call has left, that of a complete run if it is of what is there now."""
    earlier = record_of(settings)
    if earlier is None:
        check_unrecorded(directory)
    if isinstance(earlier, CompleteRecord):
        check_ended(settings, directory, earlier)
    return earlier


def _last_checkpoint(directory: Path, opened: Opened) -> Path | None:
    """Returns the checkpoint that training goes on from, if it was made from what is there now."""
    checkpoint = checkpoints.last_whole(directory)
    if checkpoint is not None:
        check_interrupted(checkpoints.manifest(checkpoint)["made_from"], opened.made_from, directory)
    return checkpoint


@contextmanager
def _claimed_together(directory: Path) -> Iterator[None]:
    """Holds a run for this group of processes: the main one has the lock."""
    with ExitStack() as stack:
        processes.by_main(lambda: stack.enter_context(claimed(directory)))
        yield


@contextmanager
def _recording(record: Record, directory: Path, was_pruned: bool) -> Iterator[None]:
    """Keeps the record on disk true: running inside and where it was interrupted, ended afterwards.

    That of a run that was pruned has the scores that its search goes by, and stays until this one has been opened.
    """
    if not was_pruned:
        _write(record, directory)
    try:
        yield
    except Exception as error:
        finish(record, "failed", str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
        if record.memory is not None or not was_pruned:  # measured, and the record written, where it was opened
            _write(record, directory)
        raise
    if record.status == "running":
        finish(record, "complete")
    _write(record, directory)


def _write(record: Record, directory: Path) -> None:
    if processes.is_main():
        write_record(record, directory)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
