"""Every command that a page shows is one: its own command reads it, and what it trains is composed."""

import tomllib
from collections import defaultdict

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import open_dict

from meft_runner import cli
from meft_runner.config import register
from meft_runner.config.checks import parse
from meft_runner.config.commands import parse_tables
from meft_runner.config.directory import config_directory
from meft_runner.config.overrides import typed_keys
from meft_runner.memory_report import asked as memory
from meft_runner.memory_report.cases import cases
from meft_runner.predict import asked as prediction
from meft_runner.run import composing  # noqa: F401  # resolvers that conf/ reads
from meft_runner.sharing import asked as sharing
from meft_runner.sweeps.asked import for_the_sweeper, read_arguments, whole, with_space
from meft_runner.sweeps.study import studies_of
from tests.helpers.documents import PAGES, ROOT, blocks, shown_commands

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SHOWN = defaultdict(list)  # places by command: what stands in several places is checked once
for place, words in shown_commands():
    SHOWN[words].append(place)
LANGUAGES = {"bash", "python", "yaml"}


def check_run(words, whole_sweep=False):
    """Composes the run; of a sweep the first, or all of them."""
    line = read_arguments(with_space(words))
    if line.informs:
        return
    config = whole(line)
    HydraConfig.instance().set_config(config)  # scale=smoke reads which experiment it is
    params = config.hydra.sweeper.params or {}
    if config.hydra.mode is not RunMode.MULTIRUN:
        with open_dict(config):
            del config["hydra"]
        parse(config, typed_keys([str(override.input_line) for override in line.overrides], {}))
        return
    if config.hpo is not None:
        assert all(study.space for study in studies_of(line.overrides))
        return
    swept = [*(f"{key}={value}" for key, value in params.items()), *for_the_sweeper(line.overrides)]
    (found,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(swept), None)
    with initialize_config_dir(config_directory(), version_base="1.3"):
        for cell in found[:: max(1, len(found) // 5)] if whole_sweep else found[:1]:
            parse(compose("config", overrides=cell), typed_keys(cell, params))


def check_install(words):
    """Makes sure that the extras of meft-runner exist."""
    for word in words:
        name, bracket, rest = word.partition("[")
        if bracket:
            assert name in ("meft-runner", "."), word
            assert set(rest.rstrip("]").split(",")) <= set(PROJECT["optional-dependencies"]), word


def check_python(words):
    """Makes sure that files exist, and that a script knows the options."""
    for word in words:
        assert not word.startswith(("scripts/", "examples/", "tests/")) or (ROOT / word).exists(), word
    if words[0].endswith(".py"):
        text = (ROOT / words[0]).read_text(encoding="utf-8")
        assert all(f'"{word}"' in text for word in words if word.startswith("--")), words


def check_torchrun(words):
    check_run(words[words.index("meft_runner") + 1 :])


def check_accelerate(words):
    assert words[0] == "launch"
    if words[1:3] == ["-m", "meft_runner"]:
        check_run(words[3:])
    else:
        check_python(words[1:])


def check_make(words):
    targets = {line.partition(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if ":" in line}
    assert set(words) <= targets


CHECKS = {
    "meft-run": check_run, "meft-memory": memory.read_arguments, "meft-tables": parse_tables,
    "meft-predict": prediction.read_arguments, "meft-share": sharing.read_arguments, "torchrun": check_torchrun,
    "accelerate": check_accelerate, "python": check_python, "pip": check_install, "make": check_make,
}  # fmt: skip
OF_A_SHELL = {"source", "cat", "mkdocs"}


def test_every_command_of_the_project_is_known_here():
    assert set(PROJECT["scripts"]) <= set(CHECKS)


@pytest.fixture(autouse=True)
def as_typed(monkeypatch):
    """In the folder of the project, and with what Hydra knows of a command forgotten afterwards."""
    register()
    monkeypatch.chdir(ROOT)
    yield
    HydraConfig.instance().cfg = None


def of(command):
    """Returns the arguments of a command wherever it is shown."""
    return [words[1:] for words in SHOWN if words[0] == command and words[1:] not in (("--help",), ("-v",))]


@pytest.mark.parametrize("words", SHOWN, ids=lambda words: f"{SHOWN[words][0]} {words[0]}")
@pytest.mark.thin(2)
def test_a_shown_command_is_read_by_its_own_command(words):
    name, arguments = words[0].removeprefix(".venv/bin/"), [*words[1:]]
    if arguments in (["--help"], ["--version"]):
        assert hasattr(cli, name.replace("-", "_"))
    elif name == "python3":
        assert arguments == ["-m", "venv", ".venv"]
    elif name not in OF_A_SHELL:
        CHECKS[name](arguments)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", of("meft-memory"), ids=" ".join)
def test_every_row_that_a_shown_command_asks_for_is_a_case(arguments):
    asked, overrides = memory.read_arguments(arguments)
    assert cases(asked, overrides)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", of("meft-run"), ids=" ".join)
def test_runs_of_a_shown_sweep_are_composed(arguments):
    check_run([*arguments], whole_sweep=True)


def test_every_block_says_its_language():
    assert [block.place for page in PAGES for block in blocks(page) if block.language not in LANGUAGES] == []


def test_shown_settings_files_are_real_ones():
    real = [path.read_text(encoding="utf-8") for folder in ("conf", "tests/extension/conf")
            for path in (ROOT / folder).rglob("*.yaml")]  # fmt: skip
    for block in (block for page in PAGES for block in blocks(page) if block.language == "yaml"):
        assert yaml.safe_load(block.text)
        assert block.text in real, block.place
