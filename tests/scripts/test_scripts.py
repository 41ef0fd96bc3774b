"""Every script can be imported, so that a move of what it uses is seen at once."""

import runpy
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "scripts").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_is_imported(script):
    assert "main" in runpy.run_path(str(script), run_name=script.stem)


def test_a_small_benchmark_of_steps(monkeypatch, tmp_path):
    small = "--hidden 64 --layers 1 --batch 1 --length 8 --rounds 1"
    monkeypatch.setattr("sys.argv", ["benchmark_step.py", *small.split(), "--output", str(tmp_path)])
    (script,) = (script for script in SCRIPTS if script.stem == "benchmark_step")
    runpy.run_path(str(script), run_name="__main__")
    table = (tmp_path / "hidden64-batch1x8.csv").read_text()
    assert all(f"\n{method}" in table for method in ("full", "lora", "meft1 exact", "meft3 float"))
