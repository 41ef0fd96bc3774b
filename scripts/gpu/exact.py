"""Whether reversal is exact on this device, and whether what saves memory or time leaves the training alone."""

import re
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from steps.models import Shape, build, case_of, device, step_of
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpu.shapes import Row, on_gpu
from meft_runner.errors import in_brief
from meft_runner.memory import StepMemory, measure_step, meter_for
from meft_runner.methods.layers import reversible_stacks

KERNELS = {
    "default": None,
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
}
METHODS = {
    "meft1": ("method=meft1",),
    "meft2": ("method=meft2",),
    "meft3": ("method=meft3",),
    "lora reversed": ("method=lora", "method.reversal=exact", "method.scale_1=1/16"),
    "lora + checkpointing": ("method=lora", "method.checkpointing=true"),
}
REVERSED = ("meft1", "meft2", "meft3", "lora reversed")
_LOSS_SCALE = 1024.0  # a power of two: keeps gradients of fp16 above 0 and changes no bit of the others


@dataclass(frozen=True)
class Pass:
    """What a forward and a backward pass came to.

    Attributes:
        loss: of the forward pass.
        gradients: of all that trains in a layer, (P,), by the layer's name.
        mismatches: stream elements that came back different.
        checked: how many stacks looked for them.
    """

    loss: float
    gradients: dict[str, Tensor]
    mismatches: int
    checked: int

    def error_from(self, other: "Pass") -> float:
        """Returns the largest relative distance of a layer's gradient from another pass's."""
        errors = [(self.gradients[name] - other.gradients[name]).norm() / other.gradients[name].norm()
                  for name in other.gradients]  # fmt: skip
        return float(f"{torch.stack(errors).max().item():.1e}")


def exactness(shape: Shape, precision: str, kernel: str, padding: bool) -> list[Row]:
    """Compares exact reversal with stored activations; mismatches and losses decide, the rest describes."""
    row: Row = {}
    equal, errors = [], []
    for method in REVERSED:
        run = partial(one_pass, shape, precision, kernel=KERNELS[kernel], padded=padding)
        try:
            stored = run((*METHODS[method], "method.reversal=stored"))
        except RuntimeError as error:  # nothing is reversed here, so it is the kernel that the device refuses
            if kernel == "default" or isinstance(error, torch.AcceleratorError):
                raise
            return [{"note": f"not available, {in_brief(error)[:80]}"}]
        exact = run((*METHODS[method], "method.strict=false"))
        assert (exact.checked > 0, stored.checked) == (True, 0)  # 0 mismatches were counted
        row[f"{method} mismatches"] = exact.mismatches
        equal.append(exact.loss == stored.loss)
        errors.append(exact.error_from(stored))
    wrong = kernel != "cuDNN" and (not all(equal) or any(row.values()))  # which is not promised of that one
    row |= {"losses equal": all(equal), "largest gradient error": max(errors)}
    return [row | ({"note": "failed, the reversal is not exact"} if wrong else {})]


def changed(shape: Shape, precision: str, method: str, change: str) -> list[Row]:
    """Compares a method's step with the same under a setting that saves memory or time, which changes nothing else.

    The plain attention kernel is taken: the gradients of others may differ from one time to the next.
    """
    usual, other = METHODS[method], (*METHODS[method], *change.split())
    if "checkpointing=offload" in change and not on_gpu():
        return [{"note": "left out, needs a GPU"}]
    strict = ("method.strict=false",) if method in REVERSED else ()
    before, after = (one_pass(shape, precision, (*each, *strict), kernel=SDPBackend.MATH) for each in (usual, other))
    needed, saved = (memory_of(shape, precision, each) for each in (usual, other))
    wrong = before.loss != after.loss or before.mismatches or after.mismatches
    row = {
        "losses equal": before.loss == after.loss,
        "gradients equal": all(torch.equal(after.gradients[name], each) for name, each in before.gradients.items()),
        "largest gradient error": after.error_from(before),
        "mismatches": after.mismatches,
        "activations before (MiB)": round(needed.activations_bytes / 2**20, 3),
        "activations (MiB)": round(saved.activations_bytes / 2**20, 3),
        "waiting on the host (MiB)": round(saved.host_bytes / 2**20, 3),
    }
    return [row | ({"note": "failed, the training is another one"} if wrong else {})]


def one_pass(
    shape: Shape, precision: str, overrides: tuple[str, ...], kernel: SDPBackend | None = None, padded: bool = False
) -> Pass:
    """Returns what a pass comes to; weights, inputs and dropout are always the same."""
    case = case_of(shape, precision, *overrides)
    model = build(case)
    _move_away(model)
    torch.manual_seed(1)
    with nullcontext() if kernel is None else sdpa_kernel(kernel):  # in backward too, where layers are computed again
        loss = step_of(case, model, padded and shape.length is not None).forward()
        (_LOSS_SCALE * loss).backward()
    gradients: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            layer = re.sub(r"((blocks|layers?)\.\d+)\..*", r"\1", name)
            gradients.setdefault(layer, []).append(parameter.grad.flatten())
    monitors = [stack.monitor for stack in reversible_stacks(model)]
    joined = {layer: torch.cat(parts) for layer, parts in gradients.items()}
    found = sum(monitor.mismatches for monitor in monitors), sum(monitor.checked_steps for monitor in monitors)
    return Pass(loss.item(), joined, *found)


def memory_of(shape: Shape, precision: str, overrides: tuple[str, ...]) -> StepMemory:
    """Returns what a step of a method needs on this device."""
    case = case_of(shape, precision, *overrides)
    return measure_step(*step_of(case, build(case)), meter_for(device()))


def _move_away(model: torch.nn.Module) -> None:
    """Moves what trains away from where it starts, where a factor at zero hides the other one's gradient."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
