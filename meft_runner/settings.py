"""The typed form of conf/: what a run is asked to do.

Nothing heavy is imported here: the command line reads this module before it knows what to do.
"""

import hashlib
import json
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

Reversal = Enum("Reversal", ["exact", "float", "stored"])
Precision = Enum("Precision", ["fp32", "bf16", "fp16"])
Attention = Enum("Attention", ["sdpa", "eager"])
Logger = Enum("Logger", ["none", "wandb", "tensorboard"])
Kernel = Enum("Kernel", ["materialised", "flash"])  # of attention, on the machine whose memory is asked about
Format = Enum("Format", ["table", "json", "csv", "markdown"])
Sweep = Enum("Sweep", ["length", "depth", "batch"])
Study = Enum("Study", ["gradients"])
Head = Enum("Head", ["classification", "answers", "span", "image"])  # what a model is to do for a task
Metric = Enum("Metric", ["accuracy", "f1", "matthews", "pearson", "spearman"])


@dataclass
class BackboneSettings:
    """A pre-trained model and where its weights come from.

    Attributes:
        name: what is typed.
        model_types: the architectures it may be, as a Hugging Face config.json names them.
        hub: repository on the model hub.
        path: a local folder that takes the hub's place.
        package: an installed Python package that carries the weights, tried before the hub.
        sha256: the digest that the package's weight file must have.
        attention: the attention implementation of transformers.
        merge: for each MEFT variant, the weights (w1, w2) of the two streams after the last block.
        config: the sizes that make it what it is, as its config.json names them; memory is predicted from them.
        repeat: how many times the pre-trained layers are stacked on each other; None for once.
    """

    name: str = MISSING
    model_types: list[str] = MISSING
    hub: str = MISSING
    path: str | None = None
    package: str | None = None
    sha256: str | None = None
    attention: Attention = Attention.sdpa
    merge: dict[str, list[float]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    repeat: int | None = None


@dataclass
class TaskSettings:
    """A data set, how its rows become inputs, and how answers are scored.

    Attributes:
        name: what is typed.
        max_train_rows: rows of the training split that are used; None for all.
        max_eval_rows: rows of each development split that are used; None for all.
    """

    name: str = MISSING
    max_train_rows: int | None = None
    max_eval_rows: int | None = None


@dataclass
class SplitSettings(TaskSettings):
    """A published data set, which comes in splits.

    Attributes:
        hub: repository on the data hub.
        hub_config: configuration of that repository.
        data_dir: folder with `<split>.jsonl` files that takes the hub's place.
        train_split: name of the training split.
        eval_splits: names of the development splits; the first gives the score.
    """

    hub: str = MISSING
    hub_config: str | None = None
    data_dir: str | None = None
    train_split: str = "train"
    eval_splits: list[str] = field(default_factory=lambda: ["validation"])


@dataclass
class GlueSettings(SplitSettings):
    """One of the GLUE tasks (arXiv 1804.07461): one or two sentences get a class or a grade.

    Attributes:
        text_columns: one or two columns of text.
        classes: class names in label order; empty for regression.
        metrics: what is computed; the first is the score that chooses the best epoch.
        max_length: longest input in tokens.
        predict_test: write the test set's predictions as the leaderboard wants them.
        test_files: for each file of the leaderboard's, the split that it is about.
        numeric_labels: the leaderboard wants class numbers instead of names.
    """

    text_columns: list[str] = MISSING
    classes: list[str] = field(default_factory=list)
    metrics: list[str] = MISSING
    max_length: int = 128
    predict_test: bool = False
    test_files: dict[str, str] = field(default_factory=dict)
    numeric_labels: bool = True


@dataclass
class DemoSettings(TaskSettings):
    """A generated entailment task.

    Attributes:
        max_length: longest input in tokens.
    """

    max_length: int = 32


@dataclass
class TextSettings(TaskSettings):
    """The user's own files: one or two texts get a class or a grade.

    Attributes:
        train_file: CSV, TSV, JSON Lines or Parquet; must be given.
        eval_file: likewise.
        text_columns: one or two columns of text.
        label_column: strings and whole numbers are classes, other numbers are grades.
        metric: the score; None for accuracy of classes and Pearson correlation of grades.
        max_length: longest input in tokens.
    """

    train_file: str | None = None
    eval_file: str | None = None
    text_columns: list[str] = field(default_factory=lambda: ["text"])
    label_column: str = "label"
    metric: Metric | None = None
    max_length: int = 128


@dataclass
class ChoiceSettings(SplitSettings):
    """A question with several answers, one of them right; the model ranks them by likelihood.

    Attributes:
        max_length: longest prompt with answer in tokens.
    """

    max_length: int = 128


@dataclass
class SquadSettings(SplitSettings):
    """A question whose answer is a span of a given text (arXiv 1606.05250, arXiv 1806.03822).

    Attributes:
        unanswerable: whether some questions have no answer in the text (version 2).
        max_length: longest window in tokens, question included.
        stride: tokens that neighbouring windows of a long text share.
        n_best: best starts and ends that are combined.
        max_answer_length: longest answer in tokens.
        null_threshold: no answer is given where its score exceeds the best span's by more than this.
        skip_bad_rows: leave out rows whose answer is not where they say, instead of stopping.
    """

    unanswerable: bool = False
    max_length: int = 384
    stride: int = 128
    n_best: int = 20
    max_answer_length: int = 30
    null_threshold: float = 0.0
    skip_bad_rows: bool = False


@dataclass
class ImageSettings(SplitSettings):
    """Images with a class each.

    With `data_dir`, the images are in `<split>.npz` or in `<split>/<class>/`. Where `max_train_rows` or
    `max_eval_rows` cuts such a folder, images at even distances are taken, since files are sorted by class.

    Attributes:
        image_column: the hub's name of the image column.
        label_column: the hub's name of the label column.
        classes: class names in label order; empty for the names of the folders or the hub, or numbers from an npz.
    """

    image_column: str = "image"
    label_column: str = "label"
    classes: list[str] = field(default_factory=list)


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
        init_constant: value at which the update's zero matrix starts; None for 0.
        init_noise: standard deviation of noise that is added to it; None for none.
    """

    checkpointing: bool = False
    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    init_constant: float | None = None
    init_noise: float | None = None


@dataclass
class Ia3Settings(MethodSettings):
    """Learned rescaling of keys, values and inner MLP activations (arXiv 2205.05638), through peft.

    Attributes:
        checkpointing: recompute each layer's activations in backward.
        init_constant: value at which the factors start; None for 1.
        init_noise: standard deviation of noise that is added to them; None for none.
    """

    checkpointing: bool = False
    init_constant: float | None = None
    init_noise: float | None = None


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
        chunks: pieces in which a layer computes a batch, more take less memory; None for pieces of about 1,024 tokens.
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
    chunks: int | None = None
    strict: bool = True


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
    seed: int = 1
    level: float = 0.0
    study: Study | None = None
    output_dir: str = "runs"
    logger: Logger = Logger.none
    retry_failed: bool = False
    seeds: list[int] | None = None
    from_record: str | None = None


@dataclass
class TablesSettings:
    """What `meft-tables` reads and writes.

    Attributes:
        output_dir: the folder of the runs.
        tables_dir: receives tables and figures as files; None to print tables only.
        report: write all of them as one page too; `tables_dir` is then `tables` unless set.
    """

    output_dir: str = "runs"
    tables_dir: str | None = None
    report: bool = False


@dataclass
class MemorySettings:
    """What `meft-memory` predicts: every combination of the lists.

    Attributes:
        backbone: models.
        method: fine-tuning methods.
        checkpointing: with and without gradient checkpointing (full, lora, ia3).
        batch: rows in one forward pass.
        length: tokens a row; images have their own.
        precision: fp32, or autocast to bf16 or fp16.
        attention: scores in memory, or a fused kernel.
        accumulating: predict a step that adds to the gradients of an earlier pass.
        format: of what is printed.
        sweep: draw the curve over lengths, depths or batches.
        fit: a budget such as 24GiB; answers the largest batch and the largest length that it holds.
        timeline: draw the live bytes over one step.
        measure: measure the same steps on this machine, beside the prediction.
        output_dir: receives the figures.
    """

    backbone: list[str] = field(default_factory=lambda: ["roberta"])
    method: list[str] = field(default_factory=lambda: list(METHODS))
    checkpointing: list[bool] = field(default_factory=lambda: [False])
    batch: list[int] = field(default_factory=lambda: [32])
    length: list[int] = field(default_factory=lambda: [128])
    precision: list[Precision] = field(default_factory=lambda: [Precision.fp32])
    attention: list[Kernel] = field(default_factory=lambda: [Kernel.materialised])
    accumulating: bool = False
    format: Format = Format.table
    sweep: Sweep | None = None
    fit: str | None = None
    timeline: bool = False
    measure: bool = False
    output_dir: str = "memory"


METHODS: dict[str, type[MethodSettings]] = {
    "full": FullSettings,
    "lora": LoraSettings,
    "ia3": Ia3Settings,
    "meft1": MeftSettings,
    "meft2": MeftSettings,
    "meft3": MeftSettings,
}


PUBLISHED_SCALES = {  # lambda and beta (arXiv 2306.00477), the values in conf/method/
    "meft1": ("1/10", "1"),
    "meft2": ("1", "1/10"),
    "meft3": ("1/10", "1/10"),
}

TASKS: dict[str, type[TaskSettings]] = {
    "glue": GlueSettings,
    "demo": DemoSettings,
    "text": TextSettings,
    "choice": ChoiceSettings,
    "squad": SquadSettings,
    "image": ImageSettings,
}  # by the module under tasks/ that reads them


def register() -> None:
    """Makes the schemas known to Hydra, so that names and types are checked when a config is composed."""
    store = ConfigStore.instance()
    store.store(name="_schema", node=Settings)
    store.store(group="backbone", name="_schema", node=BackboneSettings)
    for group, schemas in (("task", TASKS), ("method", METHODS)):
        for name, schema in schemas.items():
            store.store(group=group, name=f"_{name}_schema", node=schema)


# Settings that do not change it, or that others follow from.
BESIDE_THE_RESULT = ("output_dir", "logger", "retry_failed", "seeds", "from_record", "level")


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
