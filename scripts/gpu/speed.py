"""How long steps take, and what the fused arithmetic saves of that."""

import math
import statistics
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from steps.clock import seconds_of
from steps.contenders import chosen, contenders
from steps.models import Shape, build, case_of, device, step_of
from torch.nn.attention import SDPBackend
from torch.utils._python_dispatch import TorchDispatchMode

from gpu.exact import METHODS, one_pass
from gpu.shapes import Row, on_gpu
from meft_runner.memory import TrainingStep
from meft_runner.memory_report.case import Case
from meft_runner.reversible.kernels import hindrance

WARM_UP, ROUNDS, STEPS = 2, 2, 4  # steps before the clock starts, visits to each method, steps a visit
REFERENCES = ("full", "lora + checkpointing")
LEFT_OUT = ("full + *", "* chunks*", "* float", "meft2*", "meft3*, *", "lora exact*, * kept", "lora exact, 1/256")


def speed(shape: Shape) -> list[Row]:
    """Times every method in turn, round by round, so that a device that slows down slows all of them."""
    layers = case_of(shape, "bf16", "method=full").config().num_hidden_layers
    every = [each for each in contenders(layers, on_gpu()) if each.kept in (None, 0, layers // 2, layers)]
    found = {each.name: each.overrides for each in every if each not in chosen(every, LEFT_OUT)}
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for _, (name, overrides) in product(range(ROUNDS), found.items()):
        seconds[name] += step_seconds(case_of(shape, "bf16", *overrides))
    median = {name: statistics.median(values) if values else math.nan for name, values in seconds.items()}
    return [
        {
            "method": name,
            "median step (s)": round(median[name], 4),
            "tokens per second": round(shape.batch_size * (shape.length or 1) / median[name], 1),
            **{f"time / {base}": round(median[name] / median[base], 3) for base in REFERENCES},
        }
        for name in found
    ]


def step_seconds(case: Case) -> list[float]:
    """Returns the seconds of a few steps of a new model, the only one on the device; none where it does not fit."""
    try:
        step = step_of(case, build(case))
        return [seconds_of(step) for _ in range(WARM_UP + STEPS)][WARM_UP:]
    except torch.OutOfMemoryError:
        return []


def kernels(shape: Shape, precision: str, method: str) -> Iterator[Row]:
    """Compares the fused arithmetic with the plain one: what a layer takes of time and launches, and every bit."""
    layers = case_of(shape, precision, "method=full").config().num_hidden_layers
    for form in ("plain", "fused"):
        overrides = (*METHODS[method], f"method.kernels={form}")
        if form == "fused" and (problem := hindrance(device())) is not None:
            yield {"kernels": form, "note": f"left out, {problem}"}
            continue
        run = [one_pass(shape, precision, (*METHODS[method], f"method.kernels={each}"), SDPBackend.MATH)
               for each in ("plain", form)]  # fmt: skip
        case = case_of(shape, precision, *overrides)
        deep, shallow = (_step(replace(case, depth=depth)) for depth in (layers, layers // 2))
        more = layers - layers // 2
        yield {
            "kernels": form,
            "launches a layer": (launches(deep) - launches(shallow)) / more,
            "time a layer (ms)": round(1000 * (_seconds(deep) - _seconds(shallow)) / more, 4),
            "loss and gradients equal": run[0].loss == run[1].loss and run[1].error_from(run[0]) == 0,
            **({"note": "failed, the kernels' bits differ"} if run[0].loss != run[1].loss else {}),
        }


def launches(step: TrainingStep) -> int:
    """Counts the kernels that two passes launch, forward and backward; without a GPU, the operations they dispatch."""
    if on_gpu():
        step.forward().backward()  # what is made once is there from now on
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            step.forward().backward()
            torch.cuda.synchronize()
        found = [each.name for each in profile.events() if each.device_type is torch.autograd.DeviceType.CUDA]
        return sum(not name.startswith(("Memcpy", "Memset")) for name in found)
    with _Counting() as counting:
        step.forward().backward()
    return counting.count


class _Counting(TorchDispatchMode):
    """Counts operations."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def _step(case: Case) -> TrainingStep:
    return step_of(case, build(case))


def _seconds(step: TrainingStep) -> float:
    return statistics.median([seconds_of(step) for _ in range(WARM_UP + 2 * STEPS)][WARM_UP:])
