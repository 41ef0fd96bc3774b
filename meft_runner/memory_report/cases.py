"""The memory laboratory: what a training step of any backbone and method needs, predicted or measured."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig

from meft_runner.backbones import FAMILIES, positions
from meft_runner.backbones.loading import load_config, new_model
from meft_runner.backbones.repeat import multiply_depth
from meft_runner.config import DEPTH_NAMES, BackboneSettings, Head, Kernel, MethodSettings, Precision
from meft_runner.errors import UserError
from meft_runner.memory import AUTOCAST, TrainingStep, kernels, probe
from meft_runner.memory.fake import Shapes, fake_step, predict_step
from meft_runner.memory.step import StepMemory
from meft_runner.memory.timeline import Timeline, trace_step
from meft_runner.methods.prepare import prepare

_IMPLEMENTATIONS = {Kernel.materialised: "eager", Kernel.flash: kernels.FUSED}
_LABELS = {Head.span: ("start_positions", "end_positions")}  # of other heads it is `labels`


@dataclass(frozen=True)
class Case:
    """One training step whose memory is asked for.

    Attributes:
        backbone: the model; its sizes are read from its settings, or from a local folder's config.json.
        method: the fine-tuning method.
        batch_size: rows.
        length: tokens a row; None for images, which have as many as the model makes of them.
        precision: of the forward pass.
        attention: the kernel of the machine that is asked about.
        accumulating: the step adds to the gradients of an earlier pass.
        depth: layers of each stack, None for the model's own.
    """

    backbone: BackboneSettings
    method: MethodSettings
    batch_size: int
    length: int | None
    precision: Precision = Precision.fp32
    attention: Kernel = Kernel.materialised
    accumulating: bool = False
    depth: int | None = None

    @property
    def checkpointing(self) -> bool:
        """Whether the method recomputes each layer's activations; MEFT has no such setting."""
        return getattr(self.method, "checkpointing", False)

    def config(self) -> PreTrainedConfig:
        """Returns the model's configuration.

        Raises:
            UserError: inputs of this length are longer than the model reads.
        """
        config = model_config(self.backbone)
        if self.depth is not None:
            for name in DEPTH_NAMES:
                if hasattr(config, name):
                    setattr(config, name, self.depth)
        if self.length is not None and self.length > positions(config):
            raise UserError(f"length={self.length}: {self.backbone.name} reads at most {positions(config)} tokens.")
        return config


def model_config(backbone: BackboneSettings) -> PreTrainedConfig:
    """Returns a backbone's configuration, of a local folder or of the sizes in its settings; nothing is downloaded."""
    if backbone.path is not None:
        config = load_config(backbone, backbone.path)
    else:
        config = AutoConfig.for_model(backbone.model_types[0], **backbone.config)
    config.use_cache = False
    multiply_depth(config, backbone.repeat or 1)
    return config


def build(case: Case) -> nn.Module:
    """Returns a model of random weights, on torch's default device, prepared for training."""
    kernels.register()
    config = case.config()
    model = new_model(case.backbone, config, _IMPLEMENTATIONS[case.attention])
    return prepare(model, FAMILIES[config.model_type], case.backbone, case.method)


def inputs_of(case: Case) -> Shapes:
    """Returns shape and dtype of a batch without padding."""
    config, rows = case.config(), case.batch_size
    labels = _LABELS.get(FAMILIES[config.model_type].first_head, ("labels",))
    inputs: Shapes = dict.fromkeys(labels, ((rows,), torch.long))
    if case.length is None:
        return {"pixel_values": ((rows, 3, config.image_size, config.image_size), torch.float32), **inputs}
    return {"input_ids": ((rows, case.length), torch.long), **inputs}


def predict(case: Case) -> dict[str, Any]:
    """Returns a row of the table for a case, predicted from shapes alone."""
    with _shapes_of(case) as step:
        return _row(case, predict_step(step, case.accumulating), step.trainable_parameters, "predicted")


def trace(case: Case) -> Timeline:
    """Returns the live bytes over a case's step, predicted from shapes alone."""
    with _shapes_of(case) as step:
        return trace_step(*step)


@contextmanager
def _shapes_of(case: Case) -> Iterator[TrainingStep]:
    """Makes a case's step of fake tensors, with the kernels of the machine that is asked about."""
    operations = kernels.gpu_operations() if case.attention is Kernel.flash else nullcontext()
    with operations, fake_step(lambda: build(case), inputs_of(case), AUTOCAST[case.precision.name]) as step:
        yield step


def measure(case: Case) -> dict[str, Any]:
    """Returns a row of the table for a case, measured on this machine with random weights.

    Raises:
        UserError: this machine does not run the kernel that is asked about.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if case.attention is not Kernel.materialised:
        raise UserError("attention=flash: is predicted for a GPU. Take measure=false, or attention=materialised.")
    model = build(case).to(device)
    batch = {name: torch.zeros(shape, dtype=dtype, device=device) for name, (shape, dtype) in inputs_of(case).items()}
    memory = probe(model, batch, AUTOCAST[case.precision.name], case.accumulating)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return _row(case, memory, trained, "cuda" if device.type == "cuda" else "tracked")


def _row(case: Case, memory: StepMemory, trained: int, source: str) -> dict[str, Any]:
    return {
        "backbone": case.backbone.name,
        "method": case.method.name,
        "checkpointing": case.checkpointing,
        "batch_size": case.batch_size,
        "length": case.length or positions(case.config()),
        "depth": case.depth or case.config().num_hidden_layers,
        "precision": case.precision.name,
        "attention": case.attention.name,
        "source": source,
        "trainable_parameters": trained,
        **memory.as_dict(),
        "dominant": dominant(memory),
    }


def dominant(memory: StepMemory) -> str:
    """Returns in words which part of the peak is the largest."""
    parts = {
        "parameters": memory.parameters_bytes,
        "gradients": memory.gradients_bytes,
        "optimizer state": memory.optimizer_bytes,
        "activations": memory.activations_bytes,
    }
    name = max(parts, key=lambda part: parts[part])
    return f"{name}, {100 * parts[name] / memory.peak_bytes:.0f} % of the peak"
