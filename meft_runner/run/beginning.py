"""A run that begins with the trained weights of an earlier one, which its model gets before anything is measured."""

from pathlib import Path

from torch import nn

from meft_runner.backbones.sources import weights_of
from meft_runner.config import DemoSettings, Head, Settings, TaskSettings
from meft_runner.errors import UserError, listed, printable
from meft_runner.methods.weights import start_from_trained
from meft_runner.records.schema import CompleteRecord, Origin, Record, Weights
from meft_runner.run.finished import check_weights, complete_record, recorded_settings
from meft_runner.run.origin import KEY, origin_name, weights_digest
from meft_runner.run.reuse import ADAPTER
from meft_runner.tasks import TaskData
from meft_runner.tasks.demo import form_of

_SHOWN = 8  # digits of a digest or a commit in a message


def begin_with(settings: Settings, model: nn.Module, data: TaskData, source: str) -> Origin | None:
    """Loads the trained weights with which a run begins; its task head only where its labels are the earlier run's.

    Args:
        settings: of the run.
        model: prepared for training; it is changed.
        data: the task.
        source: the folder that the backbone is loaded from.

    Returns:
        What was taken and what begins anew; None where the run begins with no earlier one.

    Raises:
        UserError: the earlier run has changed meanwhile, or was made from other weights of the backbone.
    """
    if settings.method.start_from is None:
        return None
    directory = Path(settings.method.start_from)
    record = complete_record(directory, KEY)
    check_weights(directory, record, KEY)
    if origin_name(directory, record) != settings.method.started_from:
        raise UserError(f"{KEY}={directory}: was trained anew meanwhile. Start this run again.")
    _check_same_backbone(settings, source, directory, record.weights)
    reason = _other_labels(recorded_settings(directory, record, KEY), record, settings.task, data)
    taken, anew = start_from_trained(model, directory / ADAPTER, with_head=reason is None)
    return Origin(
        run=printable(directory.absolute().name),
        identity=record.identity,
        sha256=weights_digest(directory, record),
        taken=taken,
        anew=anew,
        reason=(reason or "another task head") if anew else None,
    )


def class_names(record: Record, task: TaskSettings) -> list[str]:
    """Returns a run's class names in label order; none where nothing is classified."""
    if isinstance(task, DemoSettings):
        return list(form_of(task).classes)
    named = None if record.data is None else record.data.classes
    return list(getattr(task, "classes", [])) if named is None else named


def _check_same_backbone(settings: Settings, source: str, directory: Path, then: Weights | None) -> None:
    """Makes sure that adapters go onto the weights that they were trained on.

    Raises:
        UserError: those were others, or it cannot be told.
    """
    now = Weights.model_validate(weights_of(settings.backbone, source))
    if then is not None and (then.revision, then.sha256) == (now.revision, now.sha256):
        return
    there, here = ("not recorded" if each is None else _shown(each) for each in (then, now))
    raise UserError(
        f"{KEY}={directory}: trained on other weights of backbone={settings.backbone.name} ({there}) than this run's "
        f"({here}). Take the same backbone.path or backbone.revision, or begin with another run."
    )


def _shown(weights: Weights) -> str:
    kind, name = ("commit", weights.revision) if weights.revision is not None else ("sha256", weights.sha256)
    return f"{weights.source}, {kind} {str(name)[:_SHOWN]}"


def _other_labels(earlier: Settings, record: CompleteRecord, task: TaskSettings, data: TaskData) -> str | None:
    """Returns why an earlier run's task head does not answer this task, None where it does."""
    if earlier.task.head is not task.head:
        return f"{earlier.task.name} has another kind of task head"
    if task.head not in (Head.classification, Head.image):
        return None
    then, now = class_names(record, earlier.task), list(data.classes)
    if then != now:
        return f"{_labels(then)} there, {_labels(now)} here"
    if not now and record.data.labels != data.description.get("labels"):
        return f"{record.data.labels} there, {data.description.get('labels')} here"
    return None


def _labels(classes: list[str]) -> str:
    return f"classes {listed(classes)}" if classes else "grades"
