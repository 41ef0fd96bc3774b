"""The beginning of a run: its rows, its model made ready for training, and what is known before it trains."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, set_seed

from meft_runner.backbones import FAMILIES, Family
from meft_runner.backbones.loading import load_config, load_model
from meft_runner.backbones.processors import load_image_processor, load_tokenizer
from meft_runner.backbones.repeat import repeat_layers
from meft_runner.backbones.sources import find_source, weights_of
from meft_runner.backbones.weights import check_installed
from meft_runner.config import Head, LanguageSettings, Precision, Settings, WeightForm, identity
from meft_runner.config.methods import OFFLOAD
from meft_runner.errors import UserError
from meft_runner.memory import AUTOCAST
from meft_runner.methods.base_model import description_of
from meft_runner.methods.prepare import check_kernels, prepare
from meft_runner.records.schema import Data, Record, Start, Weights
from meft_runner.run.announcement import show_model, show_origin, show_rows, show_training
from meft_runner.run.arguments import Plan, plan
from meft_runner.run.beginning import begin_with
from meft_runner.run.display import Screen
from meft_runner.run.distances import first_outputs, relative_distance
from meft_runner.run.earlier import check_backbone, check_rows
from meft_runner.run.measuring import first_batch
from meft_runner.run.results import parameter_counts
from meft_runner.run.reuse import digest_of_inputs, stamps_of_sources
from meft_runner.tasks import TaskData, load_task


@dataclass(frozen=True)
class Opened:
    """What a run begins with.

    Attributes:
        model: prepared for training, on its device.
        data: the task.
        plan: what the settings of training come to.
        made_from: what tells the run's rows and weights from others.
        base: what tells the plain model from others, see `description_of`.
    """

    model: nn.Module
    data: TaskData
    plan: Plan
    made_from: dict[str, Any]
    base: dict[str, Any]


def open_run(settings: Settings, device: torch.device, record: Record, screen: Screen) -> Opened:
    """Reads rows and weights and prepares the model; the record and the screen get what is known of them.

    Raises:
        UserError: rows, weights or settings do not fit.
    """
    _check_device(settings, device)
    check_installed(settings.backbone.weights)
    source = find_source(settings.backbone)
    record.files = stamps_of_sources(settings)
    data = load_task(settings.task, load_processor(settings, source))
    record.data = Data.model_validate(data.description)
    check_rows(settings, record.data)
    planned = plan(settings, data)
    show_rows(data, record.data, screen)
    if settings.study is None:
        show_training(settings, planned, screen)

    loaded, family = load_backbone(settings, source, data.head, len(data.classes), device)
    record.weights = Weights.model_validate(weights_of(settings.backbone, source))
    check_backbone(settings, record.weights)
    layers = family.depth(loaded)
    batch = first_batch(data, planned.batch_size, device)
    as_trained = None if settings.backbone.weights is WeightForm.fp32 else AUTOCAST[settings.training.precision.name]
    pretrained = first_outputs(loaded, batch, as_trained)
    base = description_of(loaded)
    del base["class"]  # what trained on it says which heads it fits, of several classes that have them
    model = prepare(loaded, family, settings.backbone, settings.method).to(device)
    record.origin = begin_with(settings, model, data, source)
    record.parameters = parameter_counts(model, layers)
    started = first_outputs(model, batch, as_trained)
    record.start = Start(
        output_distance=relative_distance(started.head, pretrained.head),
        hidden_distance=relative_distance(started.hidden, pretrained.hidden),
    )
    show_model(record.parameters, device, settings.backbone.weights, screen)
    if record.origin is not None:
        show_origin(record.origin, screen)
    made_from = {
        "identity": identity(settings),
        "rows": {name: split.fingerprint for name, split in record.data.splits.items()},
        "version": record.data.version,
        "weights": record.weights.sha256 or record.weights.revision,
        "inputs": digest_of_inputs(settings),
    }
    return Opened(model, data, planned, made_from, base)


def _check_device(settings: Settings, device: torch.device) -> None:
    check_kernels(settings.method, device)
    if device.type != "cpu":
        return
    if settings.training.precision is Precision.fp16:
        raise UserError("training.precision=fp16: needs a GPU. On a CPU take fp32 or bf16.")
    if getattr(settings.method, "checkpointing", False) == OFFLOAD:
        raise UserError(
            "method.checkpointing=offload: moves what checkpointing keeps out of a GPU's memory, and this machine has "
            "no GPU. Take method.checkpointing=true, which keeps the same tensors where they are."
        )


def load_backbone(
    settings: Settings, source: str, head: Head, classes: int, device: torch.device
) -> tuple[PreTrainedModel, Family]:
    """Loads a run's model as it is before a method prepares it, with what is drawn anew drawn by the run's seed.

    Args:
        settings: of the run.
        source: what `find_source` returned.
        head: what the model is to do.
        classes: how many there are; 0 where nothing is classified.
        device: where it will be.

    Raises:
        UserError: the weights cannot be reached or read, or are not this model's.
    """
    set_seed(settings.seed)
    loaded = load_model(settings.backbone, source, head, max(1, classes), settings.training.precision)
    nn.Module.to(loaded, device)
    family = FAMILIES[loaded.config.model_type]
    if settings.backbone.repeat is not None:
        repeat_layers(loaded, family, settings.backbone.repeat)
    return loaded, family


def load_processor(settings: Settings, source: str) -> Any:
    """Loads what turns rows into model inputs: the tokenizer, or the image processor.

    Raises:
        UserError: it is missing or cannot be read, or the model does not read rows as the task has them.
    """
    task = settings.task
    if task.head is Head.image:
        return load_image_processor(settings.backbone, source)
    if isinstance(task, LanguageSettings) and task.pack:
        _check_packs(settings, source)
    return load_tokenizer(settings.backbone, source, task.max_length)  # type: ignore[attr-defined]  # all others have it


def _check_packs(settings: Settings, source: str) -> None:
    """Makes sure that a model can read several texts in a row without one seeing another."""
    model_type = load_config(settings.backbone, source).model_type
    if not FAMILIES[model_type].packs:
        able = ", ".join(name for name, family in FAMILIES.items() if family.packs)
        raise UserError(
            f"task.pack=true: the attention of {model_type} models does not keep packed rows apart, that of {able} "
            "does. Take another backbone, or leave it out."
        )
