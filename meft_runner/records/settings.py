"""The settings in a record, of which code reads those that are named here; the others are kept."""

from collections.abc import Collection
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from meft_runner.config import METHODS, Norm, WeightForm
from meft_runner.records.types import Count, Part, Positive, Text


def _one_of(known: Collection[str]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in known:
            raise ValueError(f"expected one of {', '.join(known)}")
        return name

    return AfterValidator(check)


_Rate = Annotated[float, Field(gt=0, le=1e6)]
_Factor = Annotated[int, Field(ge=1, le=10**6)]


class BackboneConfig(Part):
    """The pre-trained model; `config` has its sizes, as its config.json names them."""

    name: Text
    path: str | None = None
    attention: Text
    norm: Annotated[str, _one_of(Norm.__members__)] | None = None
    repeat: _Factor | None = None
    weights: Annotated[str, _one_of(WeightForm.__members__)] = WeightForm.fp32.name
    config: dict[str, Any] = Field(default_factory=dict)


class TaskConfig(Part):
    """The task: where its rows are, and how many of them are used."""

    name: Text
    train_file: str | None = None
    eval_file: str | None = None
    data_dir: str | None = None
    hub: str | None = None
    chat_template: str | None = None
    max_train_rows: Count | None = None
    max_eval_rows: Count | None = None


class MethodConfig(Part):
    """The way of fine-tuning, with the settings that figures have on an axis."""

    name: Annotated[str, _one_of(METHODS)]
    reversal: Text | None = None
    init_constant: float | None = None
    init_noise: float | None = None
    frozen_layers: Count | None = None


class TrainingConfig(Part):
    """The optimisation."""

    learning_rate: _Rate
    batch_size: _Factor
    gradient_accumulation: _Factor
    epochs: Positive
    max_steps: Count | None = None
    processes: _Factor | None = None
    precision: Text


class Config(Part):
    """All settings of a run."""

    backbone: BackboneConfig
    task: TaskConfig
    method: MethodConfig
    training: TrainingConfig
    seed: Count
