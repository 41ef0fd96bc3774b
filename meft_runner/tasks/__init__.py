"""Tasks: rows of a data set become model inputs, and answers become scores."""

from collections.abc import Callable
from typing import Any

from meft_runner.config import (
    ChatSettings,
    ChoiceSettings,
    DemoSettings,
    GlueSettings,
    ImageSettings,
    InstructSettings,
    LmSettings,
    SquadSettings,
    TaskSettings,
    TextSettings,
)
from meft_runner.tasks import choice, demo, glue, images, language, squad, text
from meft_runner.tasks.data import AnswerFile, EvalSplit, TaskData

_LOADERS: dict[type[TaskSettings], Callable[[Any, Any], TaskData]] = {
    GlueSettings: glue.load,
    DemoSettings: demo.load,
    TextSettings: text.load,
    ChoiceSettings: choice.load,
    SquadSettings: squad.load,
    ImageSettings: images.load,
    LmSettings: language.load,
    InstructSettings: language.load,
    ChatSettings: language.load,
}


def load_task(task: TaskSettings, processor: Any) -> TaskData:
    """Reads, checks and prepares a task's rows.

    Args:
        task: what is to be done.
        processor: the backbone's tokenizer, or its image processor where the rows are images.

    Raises:
        UserError: rows are missing, unreachable or not as the task needs them.
    """
    return _LOADERS[type(task)](task, processor)


__all__ = ["AnswerFile", "EvalSplit", "TaskData", "load_task"]
