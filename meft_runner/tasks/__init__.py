"""Tasks: rows of a data set become model inputs, and answers become scores."""

from meft_runner.tasks.classification import TaskData, load_task

__all__ = ["TaskData", "load_task"]
