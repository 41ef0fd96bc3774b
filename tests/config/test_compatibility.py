from pathlib import Path

import pytest

from meft_runner.config.compatibility import help_text, markdown_table, services
from meft_runner.config.directory import config_directory
from meft_runner.errors import UserError
from tests.helpers.composed import settings


def names_in_conf(group):
    return {path.stem for path in Path(config_directory(), group).glob("[!_]*.yaml")}


def test_the_table_has_every_task_once_and_every_backbone():
    tasks = [task for service in services().values() for task in service.tasks]
    assert sorted(tasks) == sorted(names_in_conf("task"))
    assert {backbone for service in services().values() for backbone in service.backbones} == names_in_conf("backbone")


@pytest.mark.parametrize(
    ("backbone", "task", "fix"),
    [
        ("roberta", "piqa", "Take one of backbone=opt, opt_125m, opt_6b7."),
        ("opt", "squad", "Take one of backbone=bart, bart_base, bert,"),
        ("minilm", "cifar10", "Take one of backbone=vit."),
        ("vit", "rte", "Take one of backbone=bart, bart_base, bert, "),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_would(backbone, task, fix):
    with pytest.raises(UserError, match=f"task={task}: backbone={backbone} cannot .*{fix}"):
        settings(f"backbone={backbone}", f"task={task}")


def test_the_readme_shows_the_table():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert markdown_table() in readme


def test_the_help_shows_the_table():
    for service in services().values():
        assert all(name in help_text() for name in (*service.tasks, *service.backbones, service.example))
