"""A run: its backbone, task, method and training, and the identity that follows from them."""

import hashlib
import json
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from meft_runner.config.fields import COUNT, setting
from meft_runner.config.methods import METHODS, MethodSettings
from meft_runner.config.tasks import TASKS, Head, TaskSettings

Precision = Enum("Precision", ["fp32", "bf16", "fp16"])
Attention = Enum("Attention", ["sdpa", "eager"])
Norm = Enum("Norm", ["post", "pre"])
Logger = Enum("Logger", ["none", "wandb", "tensorboard"])
Study = Enum("Study", ["gradients"])
DEPTH_NAMES = (
    "num_hidden_layers",
    "encoder_layers",
    "decoder_layers",
)  # of layers, in a config.json


@dataclass
class BackboneSettings:
    """A pre-trained model and where its weights come from.

    Attributes:
        name: what is typed.
        model_types: the architectures it may be, as a Hugging Face config.json names them.
        heads: what it can do; the task says which of them it needs.
        hub: repository on the model hub.
        revision: commit, branch or tag of that repository; None for the newest.
        path: a local folder that takes the hub's place.
        package: an installed Python package that carries the weights, tried before the hub.
        sha256: the digest that the package's weight file must have.
        attention: the attention implementation of transformers.
        norm: whether its layers' LayerNorm stands after or before the blocks; the streams are merged by it.
        config: the sizes that make it what it is, as its config.json names them; memory is predicted from them.
        repeat: how many times the pre-trained layers are stacked on each other; None for once.
    """

    name: str = MISSING
    model_types: list[str] = MISSING
    heads: list[Head] = MISSING
    hub: str = MISSING
    revision: str | None = None
    path: str | None = None
    package: str | None = None
    sha256: str | None = None
    attention: Attention = Attention.sdpa
    norm: Norm = MISSING
    config: dict[str, Any] = field(default_factory=dict)
    repeat: int | None = setting(None, (1, 1000))


@dataclass
class TrainingSettings:
    """The optimisation: AdamW with a linear schedule, evaluated once an epoch.

    Attributes:
        epochs: passes over the training rows.
        max_steps: optimizer steps to train, whatever `epochs` says; None for epochs.
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
        processes: how many train together, each with `batch_size`; torchrun sets it, None for one.
    """

    epochs: int = setting(5, (1, 10**6))
    max_steps: int | None = setting(None, COUNT)
    batch_size: int = setting(16, (1, 10**6))
    eval_batch_size: int = setting(64, (1, 10**6))
    learning_rate: float = setting(MISSING, (1e-12, 1e3))
    precision: Precision = Precision.fp32
    gradient_accumulation: int = setting(1, (1, 10**6))
    patience: int = setting(5, (1, 10**6))
    weight_decay: float = setting(0.1, (0, 1e3))
    warmup: float = setting(0.06, (0, 0.99))
    max_grad_norm: float = setting(1.0, (1e-12, 1e12))
    group_by_length: bool = True
    processes: int | None = None


@dataclass
class Settings:
    """One run.

    Attributes:
        backbone: the pre-trained model.
        task: data and score.
        method: the way of fine-tuning.
        training: the optimisation.
        seed: fixes everything random.
        level: what an experiment sweeps over; its file says what follows from it.
        study: what is done instead of training; `gradients` compares those of a reversal with the stored ones.
        output_dir: receives a folder for each run.
        logger: a tracker that follows the training.
        retry_failed: a sweep runs those again that failed before.
        seeds: a sweep ends with the best settings of each backbone, task and method over these seeds.
        from_record: identity of an earlier run in `output_dir` whose settings are taken, all but the seed.
    """

    backbone: BackboneSettings = MISSING
    task: TaskSettings = MISSING
    method: MethodSettings = MISSING
    training: TrainingSettings = field(default_factory=TrainingSettings)
    seed: int = setting(1, (0, 2**32 - 1))
    level: float = 0.0
    study: Study | None = None
    output_dir: str = "runs"
    logger: Logger = Logger.none
    retry_failed: bool = False
    seeds: list[int] | None = setting(None, (0, 2**32 - 1))
    from_record: str | None = None


# Settings that do not change a run's result, or that others follow from.
BESIDE_THE_RESULT = ("output_dir", "logger", "retry_failed", "seeds", "from_record", "level")


def register() -> None:
    """Makes the schemas known to Hydra, so that names and types are checked when a config is composed."""
    store = ConfigStore.instance()
    store.store(name="_schema", node=Settings)
    store.store(group="backbone", name="_schema", node=BackboneSettings)
    for group, schemas in (("task", TASKS), ("method", METHODS)):
        for name, schema in schemas.items():
            store.store(group=group, name=f"_{name}_schema", node=schema)


def identity(settings: Settings) -> str:
    """Returns a hash of everything that can change a run's result: not output paths, not the logger."""
    content = result_settings(plain(settings))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]


def result_settings(content: dict[str, Any]) -> dict[str, Any]:
    """Returns, of plain settings, those that can change a result.

    A setting that is None says nothing and is left out, so that a new optional setting leaves earlier runs their name.
    """
    return _said({key: value for key, value in content.items() if key not in BESIDE_THE_RESULT})


def _said(content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    return {key: _said(value) for key, value in content.items() if value is not None}


def plain(settings: Settings) -> dict[str, Any]:
    """Returns the settings as dictionaries, lists, strings and numbers."""
    return OmegaConf.to_container(OmegaConf.structured(settings), enum_to_str=True)  # type: ignore[return-value]
