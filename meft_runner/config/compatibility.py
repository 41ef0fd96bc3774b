"""Which backbone serves which task: the one table behind the check, the help text and the README."""

from dataclasses import dataclass

from meft_runner.errors import UserError


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


_ENCODERS = ("minilm", "bert", "bert_large", "roberta", "roberta_base")
_BART = ("bart", "bart_base")
_OPT = ("opt", "opt_125m", "opt_6b7")

COMPATIBILITY = (
    Service(
        "classify one or two texts",
        ("demo", "cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "text"),
        (*_ENCODERS, *_BART, *_OPT),
        "meft-run backbone=roberta task=rte",
    ),
    Service(
        "rank answers by likelihood",
        ("openbookqa", "piqa", "arc_easy", "arc_challenge", "sciq"),
        _OPT,
        "meft-run backbone=opt task=piqa",
    ),
    Service(
        "mark an answer in a text",
        ("squad", "squad_v2"),
        (*_ENCODERS, *_BART),
        "meft-run backbone=bart task=squad",
    ),
    Service("classify images", ("cifar10", "cifar100", "svhn", "images"), ("vit",), "meft-run backbone=vit task=svhn"),
)


def check_compatible(backbone: str, task: str) -> None:
    """Makes sure that a backbone can do a task.

    Raises:
        UserError: it cannot; the message names those that can.
    """
    for service in COMPATIBILITY:
        if task in service.tasks and backbone not in service.backbones:
            raise UserError(
                f"task={task}: backbone={backbone} cannot {service.what}. "
                f"Take one of backbone={', '.join(service.backbones)}."
            )


def help_text() -> str:
    """Returns the table as lines for a terminal."""
    lines = []
    for service in COMPATIBILITY:
        lines += [
            f"  to {service.what}, for instance {service.example}",
            f"    task=       {' '.join(service.tasks)}",
            f"    backbone=   {' '.join(service.backbones)}",
        ]
    return "\n".join(lines)


def markdown_table() -> str:
    """Returns the table as the README shows it."""
    rows = ["| the model is to | `task=` | `backbone=` |", "|---|---|---|"]
    for service in COMPATIBILITY:
        tasks, backbones = (" ".join(f"`{name}`" for name in names) for names in (service.tasks, service.backbones))
        rows.append(f"| {service.what} | {tasks} | {backbones} |")
    return "\n".join(rows)
