"""Tasks that train a language model to write: texts, answers to prompts, conversations."""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from meft_runner.config.fields import COUNT, setting
from meft_runner.config.task_base import Head, TaskSettings

TooLong = Enum("TooLong", ["cut", "refuse"])
PLAIN_TEMPLATE = "plain"  # names a chat template that needs no file

_NO_FILE = {"task.train_file": (None,)}
_GENERATES = {"task.generate": (True,)}


@dataclass
class LanguageSettings(TaskSettings):
    """Rows that a model learns to write, from the user's files or from the data hub.

    Attributes:
        train_file: CSV, TSV, JSON Lines or Parquet; the hub takes its place.
        eval_file: likewise; without it rows of the training data are held out.
        hub: repository on the data hub.
        hub_config: configuration of that repository.
        revision: commit, branch or tag of that repository; None for the newest.
        train_split: name of the hub's training split.
        eval_split: name of the hub's development split; without it rows of the training split are held out.
        eval_fraction: share of the training rows that is held out; the same rows whatever the seed.
        max_length: longest row in tokens.
        too_long: longer rows are cut at their end, or refused.
        pack: several rows become one of up to `max_length` tokens, in which they do not see each other.
    """

    head = Head.lm
    version: ClassVar[int] = 1
    train_file: str | None = setting(None, path=True)
    eval_file: str | None = setting(None, path=True)
    hub: str | None = setting(None, only=_NO_FILE)
    hub_config: str | None = setting(None, only=_NO_FILE)
    revision: str | None = setting(None, only=_NO_FILE)
    train_split: str = setting("train", only=_NO_FILE)
    eval_split: str | None = setting(None, only={**_NO_FILE, "task.eval_file": (None,)})
    eval_fraction: float = setting(0.1, (1e-4, 0.9), only={"task.eval_file": (None,), "task.eval_split": (None,)})
    max_length: int = setting(1024, (4, 10**6))
    too_long: TooLong = TooLong.cut
    pack: bool = False


@dataclass
class LmSettings(LanguageSettings):
    """Texts, in a column `text`; every token is learnt."""


@dataclass
class AnswerSettings(LanguageSettings):
    """Answers, of whose rows everything else is read but not learnt.

    Attributes:
        generate: after each epoch the model answers the development rows, and exact matches are counted.
        max_new_tokens: longest answer that it gives.
    """

    generate: bool = False
    max_new_tokens: int = setting(64, COUNT, only=_GENERATES)


@dataclass
class InstructSettings(AnswerSettings):
    """Prompts with their completions, in columns `prompt` and `completion`."""


@dataclass
class ChatSettings(AnswerSettings):
    """Conversations, in a column `messages` of roles and contents; what the assistant says is learnt.

    Attributes:
        chat_template: a file with a Jinja template that takes the place of the tokenizer's own; or `plain`, a line
            "User: ..." or "Assistant: ..." for each message, for models that have none.
    """

    chat_template: str | None = setting(None, path=True, named=(PLAIN_TEMPLATE,))
