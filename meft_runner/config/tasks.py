"""Tasks: what a model is to do, and how each kind of data set is described."""

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import ClassVar

from omegaconf import MISSING

from meft_runner.config.fields import setting
from meft_runner.config.language_tasks import ChatSettings, InstructSettings, LmSettings
from meft_runner.config.task_base import FROM_THE_HUB, Head, Metric, SplitSettings, TaskSettings

_OTHER_COLUMNS = "task=text reads files of yours with any columns and classes."
_LEADERBOARD = "The leaderboard wants it so."
_IN_PREDICTING = {"task.predict_test": (True,)}


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

    head = Head.classification
    version: ClassVar[int] = 1
    text_columns: list[str] = setting(MISSING, fixed=_OTHER_COLUMNS)
    classes: list[str] = setting([], fixed=_OTHER_COLUMNS)
    metrics: list[str] = MISSING
    max_length: int = setting(128, (4, 10**6))
    predict_test: bool = False
    test_files: dict[str, str] = setting({}, only=_IN_PREDICTING, fixed=_LEADERBOARD)
    numeric_labels: bool = setting(True, only=_IN_PREDICTING, fixed=_LEADERBOARD)


@dataclass
class DemoSettings(TaskSettings):
    """A generated entailment task.

    Attributes:
        max_length: longest input in tokens.
    """

    head = Head.classification
    version: ClassVar[int] = 1
    max_length: int = setting(32, (4, 10**6))


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

    head = Head.classification
    version: ClassVar[int] = 1
    train_file: str | None = setting(None, path=True)
    eval_file: str | None = setting(None, path=True)
    text_columns: list[str] = field(default_factory=lambda: ["text"])
    label_column: str = "label"
    metric: Metric | None = None
    max_length: int = setting(128, (4, 10**6))


@dataclass
class ChoiceSettings(SplitSettings):
    """A question with several answers, one of them right; the model ranks them by likelihood.

    Attributes:
        max_length: longest prompt with answer in tokens.
    """

    head = Head.lm
    version: ClassVar[int] = 1
    max_length: int = setting(128, (4, 10**6))


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

    head = Head.span
    version: ClassVar[int] = 1
    unanswerable: bool = setting(False, fixed="Choose task=squad or task=squad_v2.")
    max_length: int = setting(384, (4, 10**6))
    stride: int = setting(128, (0, 10**6))
    n_best: int = setting(20, (1, 1000))
    max_answer_length: int = setting(30, (1, 10**6))
    null_threshold: float = setting(0.0, (-1e6, 1e6), only={"task.unanswerable": (True,)})
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

    head = Head.image
    version: ClassVar[int] = 1
    image_column: str = setting("image", only=FROM_THE_HUB)
    label_column: str = setting("label", only=FROM_THE_HUB)
    classes: list[str] = field(default_factory=list)


TASKS: dict[str, type[TaskSettings]] = {
    "glue": GlueSettings,
    "demo": DemoSettings,
    "text": TextSettings,
    "choice": ChoiceSettings,
    "squad": SquadSettings,
    "image": ImageSettings,
    "lm": LmSettings,
    "instruct": InstructSettings,
    "chat": ChatSettings,
}  # by the kind of task


def kind_with(settings: Collection[str]) -> str:
    """Returns the kind of task that has these settings, and fewer others than any other kind that has them.

    Raises:
        ValueError: no kind has them.
    """
    names = {kind: {field.name for field in fields(schema)} for kind, schema in TASKS.items()}
    return min((kind for kind in TASKS if set(settings) <= names[kind]), key=lambda kind: len(names[kind]))


def kind_of(task: TaskSettings) -> str:
    """Returns the kind of a task, as records and tables name it."""
    return next(kind for kind, settings in TASKS.items() if type(task) is settings)
