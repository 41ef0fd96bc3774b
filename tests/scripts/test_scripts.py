"""Every script can be imported, so that a move of what it uses is seen at once."""

import runpy
from pathlib import Path

import pandas as pd
import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "scripts").glob("*.py"))
STEP = next(script for script in SCRIPTS if script.stem == "benchmark_step")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_is_imported(script):
    assert "main" in runpy.run_path(str(script), run_name=script.stem)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["bert", "llama"])
def test_a_small_benchmark_of_steps(model, monkeypatch, tmp_path):
    small = f"--model {model} --hidden 64 --layers 1 --tokens 16 --length 8 --rounds 1 --output {tmp_path}"
    methods = ["full", "lora", "lora + checkpointing", "lora + checkpointing (every_4)", "meft1 exact", "meft3 float"]
    monkeypatch.setattr("sys.argv", ["benchmark_step.py", *small.split(), "--only", *methods])
    runpy.run_path(str(STEP), run_name="__main__")
    name = f"{model}-hidden64-2x8"
    table = pd.read_csv(tmp_path / f"{name}.csv").set_index("method")
    assert list(table.index) == methods
    assert table.loc["lora + checkpointing", ["time / lora + checkpointing", "activations (MiB)"]].tolist()[0] == 1
    assert table.loc["meft1 exact", "time / full"] > 0
    assert list(table.columns[table.loc["full"].isna()]) == ["layers kept"]  # by a method that reverses nothing
    assert {file.suffix for file in tmp_path.iterdir()} == {".md", ".csv", ".tex", ".png", ".svg"}


def test_a_benchmark_says_how_methods_stand_to_their_limits():
    script = runpy.run_path(str(STEP), run_name="benchmark_step")
    times = {"time / lora": [1.2, 1.1, 1.0], "time / lora + checkpointing": [1.004, 0.8, 0.7]}
    table = pd.DataFrame({"method": "meft1 exact", "layers kept": [0, 6, 12], **times})
    assert script["summary"](table, 12) == [
        "meft1 exact, 0 of 12 layers kept: 1.004 x lora + checkpointing, ABOVE the limit of 1.00",
        "meft1 exact, 6 of 12 layers kept: 0.800 x lora + checkpointing, within the limit of 0.87",
        "meft1 exact, 12 of 12 layers kept: 1.000 x lora, within the limit of 1.10",
    ]


def test_contenders_of_a_benchmark_have_names_of_their_own():
    from steps.contenders import chosen, contenders

    found = contenders(12, on_gpu=True)
    assert len({each.name for each in found}) == len(found)
    assert [each.name for each in chosen(found, ["*offload*", "meft2 exact*"])] == [
        "lora + checkpointing (offload)", "meft2 exact", *(f"meft2 exact, {kept} kept" for kept in (3, 6, 9, 12))
    ]  # fmt: skip
    assert not chosen(contenders(12, on_gpu=False), ["*offload*"])
