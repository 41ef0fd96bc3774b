"""The typed, validated form of conf/: what a run is asked to do.

Nothing heavy is imported here: the command line reads this module before it knows what to do.
"""

import hashlib
import json
from dataclasses import dataclass, field, fields
from enum import Enum
from fractions import Fraction
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from meft_runner.errors import UserError

Reversal = Enum("Reversal", ["exact", "float", "stored"])
Precision = Enum("Precision", ["fp32", "bf16", "fp16"])
Attention = Enum("Attention", ["sdpa", "eager"])
Logger = Enum("Logger", ["none", "wandb", "tensorboard"])
TaskKind = Enum("TaskKind", ["glue", "demo"])


@dataclass
class BackboneSettings:
    """A pre-trained model and where its weights come from.

    Attributes:
        name: what is typed.
        model_type: the architecture, as a Hugging Face config.json names it.
        hub: repository on the model hub.
        path: a local folder that takes the hub's place.
        package: an installed Python package that carries the weights, tried before the hub.
        sha256: the digest that the package's weight file must have.
        attention: the attention implementation of transformers.
        merge: for each MEFT variant, the weights (w1, w2) of the two streams after the last block.
    """

    name: str = MISSING
    model_type: str = MISSING
    hub: str = MISSING
    path: str | None = None
    package: str | None = None
    sha256: str | None = None
    attention: Attention = Attention.sdpa
    merge: dict[str, list[float]] = field(default_factory=dict)


@dataclass
class TaskSettings:
    """A data set, how its rows become inputs, and how answers are scored.

    Attributes:
        name: what is typed.
        kind: the module under tasks/ that reads it.
        hub: repository on the data hub, None for generated data.
        hub_config: configuration of that repository.
        data_dir: folder with `<split>.jsonl` files that takes the hub's place.
        train_split: name of the training split.
        eval_splits: names of the development splits; the first gives the score.
        text_columns: one or two columns of text.
        classes: class names in label order; empty for regression.
        metrics: what is computed; the first is the score that chooses the best epoch.
        max_train_rows: rows of the training split that are used; None for all.
        max_eval_rows: rows of each development split that are used; None for all.
        max_length: longest input in tokens.
        synthetic: whether the rows are made up; said wherever the task is printed.
    """

    name: str = MISSING
    kind: TaskKind = MISSING
    hub: str | None = None
    hub_config: str | None = None
    data_dir: str | None = None
    train_split: str = "train"
    eval_splits: list[str] = field(default_factory=lambda: ["validation"])
    text_columns: list[str] = MISSING
    classes: list[str] = field(default_factory=list)
    metrics: list[str] = MISSING
    max_train_rows: int | None = None
    max_eval_rows: int | None = None
    max_length: int = 128
    synthetic: bool = False


@dataclass
class MethodSettings:
    """A way of fine-tuning.

    Attributes:
        name: what is typed.
        learning_rate: the peak learning rate it is usually trained with.
    """

    name: str = MISSING
    learning_rate: float = MISSING


@dataclass
class FullSettings(MethodSettings):
    """Every parameter trains.

    Attributes:
        checkpointing: recompute each layer's activations in backward.
    """

    checkpointing: bool = False


@dataclass
class LoraSettings(MethodSettings):
    """Low-rank updates of the query and value projections (arXiv 2106.09685), through peft.

    Attributes:
        checkpointing: recompute each layer's activations in backward.
        rank: rank of the update.
        alpha: the update is scaled by alpha / rank.
        dropout: dropout on the update's input.
    """

    checkpointing: bool = False
    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0


@dataclass
class Ia3Settings(MethodSettings):
    """Learned rescaling of keys, values and inner MLP activations (arXiv 2205.05638), through peft.

    Attributes:
        checkpointing: recompute each layer's activations in backward.
    """

    checkpointing: bool = False


@dataclass
class MeftSettings(MethodSettings):
    """Adapters that make the model reversible (arXiv 2306.00477).

    Attributes:
        reversal: `exact`, `float` (the paper's arithmetic) or `stored` (ordinary autograd).
        adapter_dim: inner width r of an adapter.
        adapter_dropout: dropout inside an adapter; None for the backbone's own.
        scale_1: lambda, as 1/10 or 0.1.
        scale_2: beta.
        merge: weights of the two streams after the last block; None for the backbone's own.
        frozen_layers: bottom layers that stay plain and frozen.
        grid_bits: the exact streams' grid has step 2^-grid_bits.
        chunks: parts in which a layer computes the rows of a batch; more take less memory.
        strict: stop when a rebuilt stream differs, instead of counting.
    """

    reversal: Reversal = Reversal.exact
    adapter_dim: int = 8
    adapter_dropout: float | None = None
    scale_1: str = MISSING
    scale_2: str = MISSING
    merge: list[float] | None = None
    frozen_layers: int = 0
    grid_bits: int = 16
    chunks: int = 1
    strict: bool = True


@dataclass
class TrainingSettings:
    """The optimisation: AdamW with a linear schedule, evaluated once an epoch.

    Attributes:
        epochs: passes over the training rows.
        max_steps: optimizer steps at the most; None for no such limit.
        batch_size: rows in one forward pass.
        eval_batch_size: rows in one forward pass of evaluation.
        learning_rate: peak learning rate; the method's own unless set.
        precision: fp32, or autocast to bf16 or fp16.
        gradient_accumulation: forward passes for one optimizer step.
        patience: epochs without a better score before training stops.
        weight_decay: AdamW's.
        warmup: fraction of the steps in which the learning rate rises.
        max_grad_norm: gradients are clipped to this norm.
        group_by_length: batches of rows of about one length.
    """

    epochs: int = 5
    max_steps: int | None = None
    batch_size: int = 16
    eval_batch_size: int = 64
    learning_rate: float = MISSING
    precision: Precision = Precision.fp32
    gradient_accumulation: int = 1
    patience: int = 5
    weight_decay: float = 0.1
    warmup: float = 0.06
    max_grad_norm: float = 1.0
    group_by_length: bool = True


@dataclass
class Settings:
    """One run."""

    backbone: BackboneSettings = MISSING
    task: TaskSettings = MISSING
    method: MethodSettings = MISSING
    training: TrainingSettings = field(default_factory=TrainingSettings)
    seed: int = 1
    output_dir: str = "runs"
    logger: Logger = Logger.none


@dataclass
class TablesSettings:
    """What `meft-tables` reads and writes.

    Attributes:
        output_dir: the folder of the runs.
        tables_dir: receives the tables as files; None to print them only.
    """

    output_dir: str = "runs"
    tables_dir: str | None = None


METHODS: dict[str, type[MethodSettings]] = {
    "full": FullSettings,
    "lora": LoraSettings,
    "ia3": Ia3Settings,
    "meft1": MeftSettings,
    "meft2": MeftSettings,
    "meft3": MeftSettings,
}


def register() -> None:
    """Makes the schemas known to Hydra, so that names and types are checked when a config is composed."""
    store = ConfigStore.instance()
    store.store(name="_schema", node=Settings)
    store.store(group="backbone", name="_schema", node=BackboneSettings)
    store.store(group="task", name="_schema", node=TaskSettings)
    for name, schema in METHODS.items():
        store.store(group="method", name=f"_{name}_schema", node=schema)


def parse(config: Any) -> Settings:
    """Turns a composed config into checked settings.

    Args:
        config: what Hydra composed, an OmegaConf node of the registered schema.

    Raises:
        UserError: a value is outside its range, or two values do not go together.
    """
    settings: Settings = OmegaConf.to_object(config)  # type: ignore[assignment]
    _check_ranges(settings)
    if isinstance(settings.method, MeftSettings):
        _check_meft(settings.method)
    return settings


def parse_tables(overrides: list[str]) -> TablesSettings:
    """Reads the arguments of `meft-tables`, written as key=value.

    Raises:
        UserError: an argument has another form.
    """
    for override in overrides:
        if "=" not in override:
            raise UserError(f"{override}: expected key=value with one of output_dir, tables_dir.")
    defaults = OmegaConf.structured(TablesSettings)
    return OmegaConf.to_object(OmegaConf.merge(defaults, OmegaConf.from_dotlist(overrides)))  # type: ignore[return-value]


def parse_scale(key: str, text: str) -> Fraction:
    """Reads a scale such as "1/10" or "0.1".

    Raises:
        UserError: it is no number above 0.
    """
    try:
        scale = Fraction(text.replace(" ", ""))
    except (ValueError, ZeroDivisionError):
        scale = Fraction(0)
    if scale <= 0:
        raise UserError(f"{key}={text}: expected a number above 0, written as 1/10 or 0.1.")
    return scale


def identity(settings: Settings) -> str:
    """Returns a hash of everything that can change a run's result: not output paths, not the logger."""
    content = plain(settings)
    for key in ("output_dir", "logger"):
        del content[key]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]


def plain(settings: Settings) -> dict[str, Any]:
    """Returns the settings as dictionaries, lists, strings and numbers."""
    return OmegaConf.to_container(OmegaConf.structured(settings), enum_to_str=True)  # type: ignore[return-value]


_SMALLEST = {
    "backbone": {},
    "task": {"max_train_rows": 1, "max_eval_rows": 1, "max_length": 4},
    "method": {"adapter_dim": 1, "frozen_layers": 0, "grid_bits": 4, "chunks": 1, "rank": 1, "alpha": 1},
    "training": {
        "epochs": 1,
        "max_steps": 1,
        "batch_size": 1,
        "eval_batch_size": 1,
        "gradient_accumulation": 1,
        "patience": 1,
    },
}


def _check_ranges(settings: Settings) -> None:
    for group, limits in _SMALLEST.items():
        section = getattr(settings, group)
        for name in {f.name for f in fields(section)} & limits.keys():
            value = getattr(section, name)
            if value is not None and value < limits[name]:
                raise UserError(f"{group}.{name}={value}: expected {limits[name]} or more.")
    if settings.training.learning_rate <= 0:
        raise UserError(f"training.learning_rate={settings.training.learning_rate}: expected a number above 0.")
    if not 0 <= settings.seed < 2**32:
        raise UserError(f"seed={settings.seed}: expected 0 to 4294967295.")


def _check_meft(method: MeftSettings) -> None:
    for name in ("scale_1", "scale_2"):
        text = getattr(method, name)
        scale = parse_scale(f"method.{name}", text)
        unit = scale.numerator == 1 and scale.denominator <= 256
        if method.reversal is not Reversal.float and not unit:
            raise UserError(
                f"method.{name}={text}: reversal={method.reversal.name} divides integers: expected 1/n, n up to 256. "
                f"Take for instance 1/{max(1, min(256, round(1 / scale)))}, or method.reversal=float."
            )
    if method.merge is not None and len(method.merge) != 2:
        raise UserError(f"method.merge={method.merge}: expected two weights, for instance [0.5,0.5].")
    if method.grid_bits > 24:
        raise UserError(f"method.grid_bits={method.grid_bits}: expected 4 to 24.")
