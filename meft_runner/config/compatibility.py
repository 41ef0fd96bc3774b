"""Which backbone serves which task: what a file of conf/backbone declares, held against the task's kind."""

from dataclasses import dataclass
from functools import cache

from meft_runner.config.directory import read_group
from meft_runner.config.run import BackboneSettings
from meft_runner.config.task_base import Head, TaskSettings
from meft_runner.config.tasks import TASKS
from meft_runner.errors import UserError

_WORDS = {  # what a model does with a head, and a command line
    Head.classification: ("classify one or two texts", "meft-run backbone=roberta task=rte"),
    Head.lm: ("write texts, or rank answers by likelihood", "meft-run backbone=opt task=piqa"),
    Head.span: ("mark an answer in a text", "meft-run backbone=bart task=squad"),
    Head.image: ("classify images", "meft-run backbone=vit task=svhn"),
}


@dataclass(frozen=True)
class Service:
    """Tasks of one kind and the backbones that can do them.

    Attributes:
        what: what the model does.
        tasks: values of `task=`.
        backbones: values of `backbone=`.
        example: a command line.
    """

    what: str
    tasks: tuple[str, ...]
    backbones: tuple[str, ...]
    example: str


def check_compatible(backbone: BackboneSettings, task: TaskSettings) -> None:
    """Makes sure that a backbone can do a task.

    Raises:
        UserError: it cannot; the message names those that can.
    """
    if task.head not in backbone.heads:
        service = services()[task.head]
        raise UserError(
            f"task={task.name}: backbone={backbone.name} cannot {service.what}. "
            f"Take one of backbone={', '.join(service.backbones)}."
        )


@cache
def services() -> dict[Head, Service]:
    """Returns what there is to do, with the tasks and backbones of conf/."""
    task_heads = {name: TASKS[content["kind"]].head for name, content in read_group("task").items()}
    backbone_heads = {name: content["heads"] for name, content in read_group("backbone").items()}
    return {
        head: Service(
            what,
            tuple(name for name, needed in task_heads.items() if needed is head),
            tuple(name for name, heads in backbone_heads.items() if head.name in heads),
            example,
        )
        for head, (what, example) in _WORDS.items()
    }


def help_text() -> str:
    """Returns the table as lines for a terminal."""
    lines = []
    for service in services().values():
        lines += [
            f"  to {service.what}, for instance {service.example}",
            f"    task=       {' '.join(service.tasks)}",
            f"    backbone=   {' '.join(service.backbones)}",
        ]
    return "\n".join(lines)
