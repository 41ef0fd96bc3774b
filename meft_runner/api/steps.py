"""A training step of a model as it is, predicted on a copy of shapes alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from meft_runner.api.batches import shapes_of, with_values
from meft_runner.backbones import Family, inner_model
from meft_runner.config import Kernel
from meft_runner.errors import UserError
from meft_runner.memory import StepMemory, kernels
from meft_runner.memory.fake import Shapes, predict_step, twin_step
from meft_runner.memory.shapes import ShapeMode
from meft_runner.memory_report.case import check_chunks, usual_chunks
from meft_runner.memory_report.prediction import IMPLEMENTATIONS, look_at_no_values
from meft_runner.methods.layers import reversible_stacks


@contextmanager
def copying() -> Iterator[None]:
    """Explains what Python says where a model is copied that holds what cannot be.

    Raises:
        UserError: it said so.
    """
    try:
        yield
    except TypeError as error:
        if "pickle" not in str(error):
            raise
        complaint = f"model: it holds what cannot be copied ({error}). Predict the model as it was loaded."
        raise UserError(complaint) from error


def predicted_step(
    model: nn.Module,
    family: Family,
    rows: int,
    length: int | None,
    autocast: torch.dtype | None,
    attention: Kernel | None,
    accumulating: bool,
) -> StepMemory:
    """Predicts a training step of a model as it is, which stays so.

    Args:
        model: of transformers, or of peft around one.
        family: its architecture.
        rows: in a batch.
        length: tokens a row; None for images.
        autocast: the dtype of autocast, None for float32.
        attention: the kernel of the machine that is asked about; None for the model's own on its device.
        accumulating: whether the step adds to the gradients of an earlier pass.

    Raises:
        UserError: the model has no such batches, or nothing that trains, or cannot be copied.
    """
    inner = inner_model(model)
    shapes = shapes_of(inner, family, rows, length)
    for stack in reversible_stacks(model):
        tokens = rows * (length or family.positions(inner.config))
        stored = len(stack.blocks) if stack.mode == "stored" else stack.stored_layers
        check_chunks(rows, len(stack.blocks), stored, usual_chunks(stack.chunks, tokens))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("model: none of its parameters requires gradient, so that there is nothing to train.")
    kernel = attention or (Kernel.flash if _on_gpu(model) else None)
    try:
        return _predict(model, shapes, None, autocast, kernel, accumulating)
    except NotImplementedError:  # the model looks at values, as BART's classifier, which reads where a text ends
        return _predict(model, shapes, with_values(shapes, inner.config), autocast, kernel, accumulating)


def _predict(
    model: nn.Module,
    shapes: Shapes,
    values: dict[str, Tensor] | None,
    autocast: torch.dtype | None,
    kernel: Kernel | None,
    accumulating: bool,
) -> StepMemory:
    with kernels.machine(has_gpu=kernel is Kernel.flash), torch.random.fork_rng(devices=[]), ShapeMode():
        batch = values or {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in shapes.items()}
        with copying():
            step = twin_step(model, batch, autocast)
        look_at_no_values(inner_model(step.model).config)
        if kernel is not None:
            kernels.take_attention(step.model, IMPLEMENTATIONS[kernel])
        return predict_step(step, accumulating)


def _on_gpu(model: nn.Module) -> bool:
    return next(model.parameters()).device.type == "cuda"
