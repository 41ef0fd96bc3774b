"""The parts of a complete record that tables and figures read, and their types; a record may have more."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError, model_validator

from meft_runner.config import METHODS


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Named(_Part):
    name: str


class _Backbone(_Named):
    attention: str
    repeat: int | None = None
    config: dict[str, Any] = {}


class _Task(_Named):
    max_train_rows: int | None = None
    max_eval_rows: int | None = None


class _Method(_Named):
    name: Literal[*METHODS]  # type: ignore[valid-type]
    init_constant: float | None = None
    init_noise: float | None = None
    frozen_layers: int = 0


class _Training(_Part):
    learning_rate: float
    batch_size: int
    gradient_accumulation: int
    epochs: int
    max_steps: int | None = None
    processes: int | None = None
    precision: str


class _Config(_Part):
    backbone: _Backbone
    task: _Task
    method: _Method
    training: _Training
    seed: int


class _Git(_Part):
    commit: str
    dirty: bool


class _Environment(_Part):
    python: str
    packages: dict[str, str | None]
    git: _Git | None
    device: str


class _Data(_Part):
    synthetic: bool


class _Epoch(_Part):
    __pydantic_extra__: dict[str, float | None]
    epoch: float
    train_loss: float | None = None


class _Scores(_Part):
    metric: str
    best: float
    history: list[_Epoch]


class _Parameters(_Part):
    total: PositiveInt
    trainable: NonNegativeInt


class _Start(_Part):
    output_distance: float | None


class _Memory(_Part):
    source: str
    batch_size: int
    length: int
    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    peak_bytes: int
    activation_paper_bytes: int
    retained_after_forward_bytes: int


class _Timing(_Part):
    median_step_seconds: float | None


class _Reversal(_Part):
    mode: str
    mismatches: int


class _LayerGradient(_Part):
    layer: str
    error: float | None
    cosine: float | None


class _CompleteRecord(_Part):
    config: _Config
    environment: _Environment
    finished: str
    data: _Data
    scores: _Scores | None
    parameters: _Parameters
    start: _Start | None = None
    memory: _Memory | None
    timing: _Timing | None
    reversal: _Reversal | None
    gradients: list[_LayerGradient] | None = None
    identity: str

    @model_validator(mode="after")
    def _gradients_have_a_reversal(self) -> Self:
        if self.gradients and self.reversal is None:
            raise ValueError("gradients without reversal")
        return self


def first_problem(record: dict[str, Any]) -> str | None:
    """Returns what keeps tables from being made of a complete record: "scores.best: ...", None where nothing does."""
    try:
        _CompleteRecord.model_validate(record)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, problem['loc'])) or 'record'}: {problem['msg']}"
    return None
