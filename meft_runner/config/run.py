"""A run: its backbone, task, method and training."""

from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from meft_runner.config.fields import COUNT, notes_of, setting
from meft_runner.config.method_base import MethodSettings
from meft_runner.config.methods import METHOD_KINDS
from meft_runner.config.search import SearchSettings
from meft_runner.config.task_base import Head, TaskSettings
from meft_runner.config.tasks import TASKS

Precision = Enum("Precision", ["fp32", "bf16", "fp16"])
Attention = Enum("Attention", ["sdpa", "eager"])
WeightForm = Enum("WeightForm", ["fp32", "bf16", "fp16", "nf4", "int8"])
Norm = Enum("Norm", ["post", "pre"])
Logger = Enum("Logger", ["none", "wandb", "tensorboard"])
Study = Enum("Study", ["gradients", "start"])
DEPTH_NAMES = ("num_hidden_layers", "encoder_layers", "decoder_layers")  # of layers, in a config.json


_FROM_THE_HUB = {"backbone.path": (None,)}
_OTHER_WEIGHTS = "backbone.path=DIR loads another model."
_IN_TRAINING = {"study": (None,)}
_OF_ANY_LENGTH = {"task.head": ("classification", "lm", "span")}  # images have one size


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
        weights: the form in which its frozen weights are held; nf4 and int8 are quantised by bitsandbytes.
    """

    name: str = setting(MISSING, fixed="Choose one with backbone=NAME.")
    model_types: list[str] = setting(MISSING, fixed=_OTHER_WEIGHTS, beside=True)
    heads: list[Head] = setting(MISSING, fixed=_OTHER_WEIGHTS, beside=True)
    hub: str = setting(MISSING, only=_FROM_THE_HUB, fixed=_OTHER_WEIGHTS)
    revision: str | None = setting(None, only=_FROM_THE_HUB)
    path: str | None = setting(None, path=True)
    package: str | None = setting(None, only=_FROM_THE_HUB, fixed=_OTHER_WEIGHTS)
    sha256: str | None = setting(None, only=_FROM_THE_HUB, fixed=_OTHER_WEIGHTS)
    attention: Attention = Attention.sdpa
    norm: Norm = setting(MISSING, fixed="Set method.merge=[w1,w2].", beside=True)
    config: dict[str, Any] = setting({}, fixed=_OTHER_WEIGHTS, beside=True)
    repeat: int | None = setting(None, (1, 1000))
    weights: WeightForm = setting(WeightForm.fp32, later=True)


@dataclass
class TrainingSettings:
    """The optimisation: AdamW with a linear schedule, evaluated once an epoch.

    Attributes:
        epochs: passes over the training rows.
        max_steps: optimizer steps to train, whatever `epochs` says; None for epochs.
        batch_size: rows in one forward pass.
        eval_batch_size: rows in one forward pass of evaluation; `batch_size` unless set, so that it fits too.
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

    epochs: int = setting(5, (1, 10**6), only={"training.max_steps": (None,), **_IN_TRAINING})
    max_steps: int | None = setting(None, COUNT, only=_IN_TRAINING)
    batch_size: int = setting(16, (1, 10**6))
    eval_batch_size: int | None = setting(None, COUNT, only=_IN_TRAINING)
    learning_rate: float = setting(MISSING, (1e-12, 1e3), only=_IN_TRAINING)
    precision: Precision = Precision.fp32
    gradient_accumulation: int = setting(1, (1, 10**6), only=_IN_TRAINING)
    patience: int = setting(5, (1, 10**6), only=_IN_TRAINING)
    weight_decay: float = setting(0.1, (0, 1e3), only=_IN_TRAINING)
    warmup: float = setting(0.06, (0, 0.99), only=_IN_TRAINING)
    max_grad_norm: float = setting(1.0, (1e-12, 1e12), only=_IN_TRAINING)
    group_by_length: bool = setting(True, only={**_OF_ANY_LENGTH, **_IN_TRAINING})
    processes: int | None = None

    @property
    def rows_scored_at_once(self) -> int:
        """Rows in one forward pass of evaluation."""
        return self.eval_batch_size or self.batch_size


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
        study: what is done instead of training; `gradients` compares those of a reversal with the stored ones,
            `start` measures how far from pre-training a method starts, and its memory.
        output_dir: receives a folder for each run.
        logger: a tracker that follows the training.
        retry_failed: a sweep runs those again that failed before.
        seeds: a sweep ends with the best settings of each backbone, task and method over these seeds.
        hpo: a search over settings, and which of its trials a run is; None for none.
        from_record: identity of an earlier run in `output_dir` whose settings are taken, all but the seed.
    """

    backbone: BackboneSettings = MISSING
    task: TaskSettings = MISSING
    method: MethodSettings = MISSING
    training: TrainingSettings = field(default_factory=TrainingSettings)
    seed: int = setting(1, (0, 2**32 - 1))
    level: float = setting(0.0, beside=True)
    study: Study | None = None
    output_dir: str = setting("runs", beside=True, path=True)
    logger: Logger = setting(Logger.none, beside=True)
    retry_failed: bool = setting(False, beside=True)
    seeds: list[int] | None = setting(None, (0, 2**32 - 1), beside=True)
    hpo: SearchSettings | None = setting(None, beside=True)
    from_record: str | None = setting(None, beside=True)


# Settings of their own that do not change a run's result, or that others follow from.
BESIDE_THE_RESULT = tuple(each.name for each in fields(Settings) if notes_of(each).beside)


def register() -> None:
    """Makes the schemas known to Hydra, so that names and types are checked when a config is composed."""
    store = ConfigStore.instance()
    store.store(name="_schema", node=Settings)
    store.store(group="backbone", name="_schema", node=BackboneSettings)
    for group, schemas in (("task", TASKS), ("method", METHOD_KINDS)):
        for name, schema in schemas.items():
            store.store(group=group, name=f"_{name}_schema", node=schema)
