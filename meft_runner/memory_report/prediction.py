"""A case's row of the table: predicted from shapes alone, or measured on this machine with random weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from meft_runner.backbones import FAMILIES, positions
from meft_runner.backbones.weights import check_installed, held_dtype, move, quantise, settle
from meft_runner.config import Head, Kernel, Precision, WeightForm
from meft_runner.config.methods import OFFLOAD
from meft_runner.errors import UserError
from meft_runner.memory import AUTOCAST, TrainingStep, kernels, probe
from meft_runner.memory.fake import Shapes, fake_step, predict_step
from meft_runner.memory.step import StepMemory
from meft_runner.memory.timeline import Timeline, trace_step
from meft_runner.memory_report.case import Case, sizes_of
from meft_runner.methods.prepare import prepare

IMPLEMENTATIONS = {Kernel.materialised: "eager", Kernel.flash: kernels.FUSED}
_LABELS = {Head.span: ("start_positions", "end_positions")}  # of other heads it is `labels`


def build(case: Case) -> nn.Module:
    """Returns a model of random weights, on torch's default device, prepared for training.

    Raises:
        UserError: no model has these sizes, or the method or the form of the weights does not fit it.
    """
    model = base_model(case)
    return prepare(model, FAMILIES[model.config.model_type], case.backbone, case.method)


def base_model(case: Case) -> PreTrainedModel:
    """Returns a model of random weights in their form, on torch's default device, before a method is applied to it.

    Raises:
        UserError: no model has these sizes, or the form of the weights does not fit it.
    """
    auto = FAMILIES[case.config().model_type].heads[case.task_head]
    with sizes_of(case.backbone):
        return blank_model(case.config(), auto, case.backbone.weights, case.precision, case.attention)


def blank_model(
    config: PreTrainedConfig, auto: Any, form: WeightForm, precision: Precision, attention: Kernel
) -> PreTrainedModel:
    """Returns a model of random weights, on torch's default device.

    Args:
        config: its sizes; some of what it decides by the values of its inputs is taken out.
        auto: the class that has the head; any with `from_config`.
        form: of the weights.
        precision: of training.
        attention: the kernel of the machine that is asked about.

    Raises:
        UserError: the form of the weights needs what is not installed.
    """
    kernels.register()
    look_at_no_values(config)
    dtype = held_dtype(form, precision)
    check_installed(form)
    model: PreTrainedModel = auto.from_config(config, attn_implementation=IMPLEMENTATIONS[attention], dtype=dtype)
    quantise(model, form, dtype)
    settle(model)
    return model


def look_at_no_values(config: PreTrainedConfig) -> None:
    """Keeps a model from deciding by the values of labels and positions, which have none where memory is predicted."""
    config.problem_type = "single_label_classification"
    rotary = getattr(config, "rope_parameters", None) or {}
    if rotary.get("rope_type") == "dynamic":  # its tensors have the shapes of the usual ones
        config.rope_parameters = rotary | {"rope_type": "default"}


def inputs_of(case: Case) -> Shapes:
    """Returns shape and dtype of a batch without padding."""
    config, rows = case.config(), case.batch_size
    family = FAMILIES[config.model_type]
    labels = _LABELS.get(case.task_head, ("labels",))
    inputs: Shapes = dict.fromkeys(labels, ((rows,), torch.long))
    if case.length is None:
        shape = (rows, config.num_channels, config.image_size, config.image_size)
        return {"pixel_values": (shape, torch.float32), **inputs}
    text = ((rows, case.length), torch.long)
    if case.task_head is Head.lm:
        inputs = {"labels": text}  # every token is learned
    # Attention that is no fused kernel has a mask in memory, of whole rows too; others leave that of ones out.
    return {"input_ids": text, **({} if family.fused_attention else {"attention_mask": text}), **inputs}


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
    """Makes a case's step of fake tensors, with the kernels of the machine that is asked about.

    Raises:
        UserError: the head's shapes depend on values, as BART's do, which looks for the end of each text.
    """
    made = fake_step(lambda: build(case), inputs_of(case), AUTOCAST[case.precision.name])
    try:
        with kernels.machine(has_gpu=case.attention is Kernel.flash), made as step:
            yield step
    except NotImplementedError as error:
        if case.head is None:
            raise
        name = case.backbone.name
        raise UserError(f"head={case.head.name}: what {name} does with it depends on tokens. Leave it out.") from error


def measure(case: Case) -> dict[str, Any]:
    """Returns a row of the table for a case, measured on this machine with random weights."""
    assert case.attention is Kernel.materialised  # the other one stands for a GPU's, and computes nothing
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = move(build(case), device)
    batch = {name: torch.zeros(shape, dtype=dtype, device=device) for name, (shape, dtype) in inputs_of(case).items()}
    memory = probe(model, batch, AUTOCAST[case.precision.name], case.accumulating)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return _row(case, memory, trained, "cuda" if device.type == "cuda" else "tracked")


def rows(found: list[Case], measured: bool) -> list[dict[str, Any]]:
    """Returns a row a case, predicted, and with `measured` one measured beside it.

    Raises:
        UserError: this machine has no room for a step that is to be measured.
    """
    made = []
    for case in found:
        made.append(predict(case))
        if measured:
            _check_gpu(case)
            _check_room(made[-1]["peak_bytes"])
            made.append(measure(case))
    return made


def _check_gpu(case: Case) -> None:
    if case.checkpointing == OFFLOAD and not torch.cuda.is_available():
        raise UserError("measure=true: checkpointing=offload moves what a GPU holds, and this machine has none.")


def _check_room(peak: int) -> None:
    on_gpu = torch.cuda.is_available()
    free = torch.cuda.mem_get_info()[0] if on_gpu else psutil.virtual_memory().available
    if peak > free:
        raise UserError(
            f"measure=true: a step needs {peak / 2**30:.1f} GiB, this machine has {free / 2**30:.1f} GiB free. "
            "Leave it out for the prediction alone, or take a smaller batch."
        )


def _row(case: Case, memory: StepMemory, trained: int, source: str) -> dict[str, Any]:
    return {
        "backbone": case.backbone.name,
        "method": case.method.name,
        "reversal": case.reversal,
        "checkpointing": case.checkpointing,
        "offload": case.offload,
        "batch_size": case.batch_size,
        "length": case.length or positions(case.config()),
        "depth": case.depth or case.config().num_hidden_layers,
        "precision": case.precision.name,
        "attention": case.attention.name,
        "weights": case.backbone.weights.name,
        "head": case.task_head.name,
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
