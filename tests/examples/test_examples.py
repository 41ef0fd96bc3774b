"""The examples run as they stand, each with a few steps."""

import re
import runpy
from pathlib import Path

import pytest

from tests.helpers.loops import forget_accelerators

EXAMPLES = Path(__file__).parents[2] / "examples"
WORDS = {
    "trainer": "loss on new rows",
    "torch_loop": "the same logits: True",
    "accelerate_loop": "pass",
    "trl_sft": "loss",
}


def call(name, monkeypatch, capsys, *words):
    """Runs an example as it would be typed, and returns what it printed."""
    monkeypatch.setattr("sys.argv", [f"{name}.py", *words])
    forget_accelerators()
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    forget_accelerators()
    return capsys.readouterr().out


def test_every_example_is_run():
    assert {file.stem for file in EXAMPLES.glob("*.py")} == set(WORDS)


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.thin(2)
def test_an_example_trains(name, monkeypatch, capsys, tmp_path):
    own = ["--output", str(tmp_path / "adapter")] if name == "trainer" else []
    printed = call(name, monkeypatch, capsys, "--steps", "2", *own)
    passes = 4 if name == "accelerate_loop" else 2
    assert re.search(rf"backward passes +{passes} checked, 0 mismatches", printed)
    if own:
        assert {file.name for file in (tmp_path / "adapter").iterdir()} >= {"adapter_config.json"}
