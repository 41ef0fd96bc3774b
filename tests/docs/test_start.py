"""The start page, as a reader types it."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers.documents import ROOT, blocks

COMMANDS = ("run", "memory", "predict")
OF_THE_ENVIRONMENT = ("python3 -m venv", "source ")


@pytest.fixture
def shell(tmp_path):
    """Runs a block in bash in a folder of its own, with this checkout's commands; returns what it printed."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in COMMANDS:
        script = f"#!{sys.executable}\nfrom meft_runner.cli import meft_{name}\nmeft_{name}()\n"
        (programs / f"meft-{name}").write_text(script, encoding="utf-8")
        (programs / f"meft-{name}").chmod(0o755)
    env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def run(text):
        words = ["bash", "-euc", text]
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.slow
def test_the_start_page_does_what_it_says(shell, tmp_path):
    shown = [block.text for block in blocks(ROOT / "docs" / "index.md")]
    trained = [text for text in shown if not text.startswith(OF_THE_ENVIRONMENT) and text != "meft-run\n"]
    for text in trained:
        runs = [path.parent.name for path in tmp_path.glob("runs/*/record.json")]
        shell(text.replace("runs/NAME", f"runs/{runs[0]}" if runs else "runs/none"))
    (record,) = tmp_path.glob("runs/*/record.json")
    assert json.loads(record.read_text())["scores"]["best"] == 1.0  # by heart
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [answer["label"] for answer in answers] == ["good", "bad", "good", "bad"]
