from pathlib import Path

import pytest

from meft_runner.config.compatibility import help_text, services
from meft_runner.config.directory import names_of
from meft_runner.errors import UserError
from tests.helpers.composed import settings


def test_the_table_has_every_task_once_and_every_backbone():
    tasks = [task for service in services().values() for task in service.tasks]
    assert sorted(tasks) == names_of("task")
    assert {backbone for service in services().values() for backbone in service.backbones} == set(names_of("backbone"))


@pytest.mark.parametrize(
    ("backbone", "task", "fix"),
    [
        ("roberta", "piqa", "Take one of backbone=llama3_1b, llama3_8b, mistral_7b, opt, "),
        ("opt", "squad", "Take one of backbone=bart, bart_base, bert,"),
        ("minilm", "cifar10", "Take one of backbone=vit."),
        ("vit", "rte", "Take one of backbone=bart, bart_base, bert, "),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_would(backbone, task, fix):
    with pytest.raises(UserError, match=f"task={task}: backbone={backbone} cannot .*{fix}"):
        settings(f"backbone={backbone}", f"task={task}")


def test_the_documentation_shows_the_table():
    page = (Path(__file__).parents[2] / "docs" / "commands" / "meft-run.md").read_text(encoding="utf-8")
    rows = ["| the model is to | `task=` | `backbone=` |", "|---|---|---|"]
    for service in services().values():
        tasks, backbones = (" ".join(f"`{name}`" for name in names) for names in (service.tasks, service.backbones))
        rows.append(f"| {service.what} | {tasks} | {backbones} |")
    assert "\n".join(rows) in page


def test_the_help_shows_the_table():
    for service in services().values():
        assert all(name in help_text() for name in (*service.tasks, *service.backbones, service.example))
