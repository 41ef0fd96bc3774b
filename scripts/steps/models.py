"""Training steps of models with random weights: neither exactness nor time nor memory depends on the weights."""

import gc
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn

from meft_runner.backbones import FAMILIES
from meft_runner.backbones.repeat import repeat_layers
from meft_runner.config import Head, Precision, Settings, WeightForm
from meft_runner.config.compatibility import services
from meft_runner.memory import AUTOCAST, TrainingStep, training_step
from meft_runner.memory.step import end_step
from meft_runner.memory_report import prediction
from meft_runner.memory_report.case import Case
from meft_runner.methods.prepare import prepare
from meft_runner.run.composing import composed

_WORDS, _PADDING = (5, 1000), 1  # tokens that rows are drawn from, and the one that fills them up


@dataclass(frozen=True)
class Shape:
    """A model and its batch.

    Attributes:
        backbone: as it is typed.
        batch_size: rows.
        length: tokens a row; None of images, which have a length of their own.
        sizes: in place of the backbone's own, as `name=value`.
        weights: the form of the frozen ones.
        head: what the model does; None for what its family is usually trained to do.
        name: of the model, where the backbone's would mislead.
        model_type: the architecture, where it is not the backbone's first one.
    """

    backbone: str
    batch_size: int
    length: int | None
    sizes: tuple[str, ...] = ()
    weights: str = "fp32"
    head: Head | None = None
    name: str | None = None
    model_type: str | None = None

    def of_layers(self, count: int) -> "Shape":
        """Returns the shape with so many layers."""
        return replace(self, sizes=(*self.sizes, f"num_hidden_layers={count}"))

    def __str__(self) -> str:
        rows = f"{self.batch_size}" if self.length is None else f"{self.batch_size} x {self.length}"
        form = "" if self.weights == "fp32" else f", {self.weights}"
        return f"{self.name or self.model_type or self.backbone} {rows}{form}"


def sizes(**values: int) -> tuple[str, ...]:
    """Returns sizes as a shape has them."""
    return tuple(f"{name}={value}" for name, value in values.items())


def device() -> torch.device:
    """Returns the device on which steps run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def case_of(shape: Shape, precision: str, *overrides: str) -> Case:
    """Returns the case of a method that is typed so."""
    run = _composed(shape.backbone, shape.sizes, overrides)
    kinds = [shape.model_type] if shape.model_type else run.backbone.model_types
    backbone = replace(run.backbone, model_types=kinds, weights=WeightForm[shape.weights])
    return Case(backbone, run.method, shape.batch_size, shape.length, Precision[precision], head=shape.head)


@cache
def _composed(backbone: str, sizes: tuple[str, ...], overrides: tuple[str, ...]) -> Settings:
    task = next(service.tasks[0] for service in services().values() if backbone in service.backbones)  # any it does
    own = (f"++backbone.config.{size}" for size in sizes)
    return composed([f"backbone={backbone}", f"task={task}", *own, *overrides])


def build(case: Case) -> nn.Module:
    """Returns a model with the attention that training uses: torch's fused kernels, where the family can."""
    release()
    torch.manual_seed(0)
    with device():  # large models take long to initialise elsewhere
        model = prediction.build(case)
    return _as_trained(model, case)


def build_repeated(case: Case) -> nn.Module:
    """Returns a model like `build`, of copies of one layer: only that one is ever there before it is quantised."""
    release()
    family = FAMILIES[case.config().model_type]
    with device():
        model = prediction.base_model(replace(case, depth=1))
        repeat_layers(model, family, case.config().num_hidden_layers)
        model = prepare(model, family, case.backbone, case.method)
    return _as_trained(model, case)


def _as_trained(model: nn.Module, case: Case) -> nn.Module:
    if FAMILIES[case.config().model_type].fused_attention:
        model.set_attn_implementation("sdpa")
    return model.train()


def step_of(case: Case, model: nn.Module, padded: bool = False) -> TrainingStep:
    """Returns the Trainer's step on a new batch."""
    return training_step(model, batch_of(case, padded), AUTOCAST[case.precision.name], learning_rate=1e-5)


def batch_of(case: Case, padded: bool = False) -> dict[str, Tensor]:
    """Returns random inputs with labels; with `padded`, the second half of the first row is padding."""
    batch = {}
    for name, (shape, dtype) in prediction.inputs_of(case).items():
        if dtype.is_floating_point:
            batch[name] = torch.randn(shape, device=device())
        else:  # labels are classes, or places among the first tokens
            low, high = _WORDS if name == "input_ids" else (1, 2) if name == "attention_mask" else (0, 2)
            batch[name] = torch.randint(low, high, shape, device=device())
    if case.task_head is Head.lm:
        batch["labels"] = batch["input_ids"].clone()
    if padded:
        batch["input_ids"][0, batch["input_ids"].shape[1] // 2 :] = _PADDING
        batch["attention_mask"] = (batch["input_ids"] != _PADDING).long()
    return batch


def run_step(step: TrainingStep) -> None:
    """Runs one step of training."""
    step.forward().backward()
    end_step(step.optimizer)


def release() -> None:
    """Gives back to a GPU what nothing refers to any more."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
