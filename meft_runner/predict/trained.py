"""A complete run as it is found in its folder: its settings, and its model with the trained weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from meft_runner.backbones.sources import find_source, weights_of
from meft_runner.backbones.weights import check_installed
from meft_runner.config import (
    LanguageSettings,
    Precision,
    PredictSettings,
    Settings,
    SplitSettings,
)
from meft_runner.config.checks import check
from meft_runner.config.fields import settings_of
from meft_runner.config.methods import KEEPS_NOTHING, KernelForm
from meft_runner.errors import UserError, nearest
from meft_runner.methods.prepare import prepare
from meft_runner.methods.weights import load_trained
from meft_runner.records.schema import CompleteRecord
from meft_runner.run.beginning import class_names
from meft_runner.run.finished import check_weights, complete_record, recorded_settings
from meft_runner.run.opening import load_backbone
from meft_runner.run.reuse import ADAPTER, changed_base


@dataclass(frozen=True)
class Trained:
    """A complete run that has trained weights.

    Attributes:
        directory: its folder.
        record: what it left.
        settings: its own, with paths as they are now.
        source: the folder that its backbone is loaded from.
        note: what could not be compared; None where all is as it was.
    """

    directory: Path
    record: CompleteRecord
    settings: Settings
    source: str
    note: str | None

    @property
    def classes(self) -> list[str]:
        """Class names in label order; none where nothing is classified."""
        return class_names(self.record, self.settings.task)

    def load(self, classes: int, device: torch.device) -> nn.Module:
        """Loads the model with its trained weights, in evaluation mode.

        Args:
            classes: how many there are.
            device: where it will be.

        Raises:
            UserError: the weights cannot be read, or do not belong together.
        """
        settings = self.settings
        model, family = load_backbone(settings, self.source, settings.task.head, classes, device)
        prepared = prepare(model, family, settings.backbone, settings.method).to(device)
        load_trained(prepared, self.directory / ADAPTER)
        return prepared.eval()


def find_run(asked: PredictSettings, paths: Mapping[str, str]) -> Trained:
    """Finds a run, and makes sure that its weights and those of its backbone are what they were.

    Args:
        asked: what the user asked for.
        paths: where files of the run are now, by the settings that name them.

    Raises:
        UserError: there is no such run, it is not complete or trained nothing, a path is none of its settings, or
            something of it has changed.
    """
    directory = Path(str(asked.run))
    record = complete_record(directory)
    settings = _settings(record, directory, asked, paths)
    then = record.data.version
    if then is not None and then != settings.task.version:
        raise UserError(
            f"run={directory}: made with version {then} of the prompts or preprocessing of task={settings.task.name}, "
            f"this program has version {settings.task.version}. Train again to predict with this program."
        )
    check_weights(directory, record)
    check_installed(settings.backbone.weights)
    source = find_source(settings.backbone)
    return Trained(directory, record, settings, source, _compared(settings, source, record, directory))


def _settings(record: CompleteRecord, directory: Path, asked: PredictSettings, paths: Mapping[str, str]) -> Settings:
    """Returns the settings of a run with what is read from elsewhere now, and from the hub as it was then."""
    settings = recorded_settings(directory, record)
    if settings.backbone.path is None and record.weights is not None:
        settings.backbone.revision = record.weights.revision
    task = settings.task
    if isinstance(task, SplitSettings | LanguageSettings) and task.revision is None:
        task.revision = record.data.revision
    known = [key for key, _, notes in settings_of(settings) if notes.path and not notes.beside and "." in key]
    for key, path in paths.items():
        if key not in known:
            raise UserError(f"{key}: {nearest(key, known)}expected one of {', '.join(known)}.")
        group, _, name = key.partition(".")
        section = getattr(settings, group)
        setattr(section, name, path)
        if name in ("path", "data_dir"):
            section.revision = None
    for name, value in KEEPS_NOTHING.items():
        if hasattr(settings.method, name):
            setattr(settings.method, name, value)
    if getattr(settings.method, "kernels", None) is KernelForm.fused:
        settings.method.kernels = KernelForm.auto  # type: ignore[attr-defined]  # where there are none, plain ones
    if asked.precision is not None:
        settings.training.precision = asked.precision
    check(settings)
    if settings.training.precision is Precision.fp16 and not torch.cuda.is_available():
        raise UserError(f"run={directory}: was trained in fp16, which needs a GPU. Add precision=fp32 on a CPU.")
    return settings


def _compared(settings: Settings, source: str, record: CompleteRecord, directory: Path) -> str | None:
    """Makes sure that a backbone is the one that a run was made from; returns a note where that cannot be told."""
    change = changed_base(settings, record)
    if change is not None:
        raise UserError(
            f"run={directory}: made from other files ({change}). Give the folder as it was by backbone.path=DIR, or "
            "train again."
        )
    if any(name.startswith("backbone.path/") for name in record.files or {}) and settings.backbone.path is not None:
        return None
    then, now = record.weights, weights_of(settings.backbone, source)
    if then is not None and (then.revision, then.sha256) == (now["revision"], now["sha256"]):
        return None
    where = "a backbone that its record does not name" if then is None else str(then.source)
    return f"trained on {where}; whether {now['source']} holds the same weights cannot be told"
