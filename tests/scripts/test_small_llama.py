"""The script that trains a small Llama from nothing, and the experiment that fine-tunes it."""

import runpy
from pathlib import Path

import pytest

from tests.helpers import processes as sweeps
from tests.helpers.folders import write_lines

SCRIPT = Path(__file__).parents[2] / "scripts" / "small_llama.py"


def make_rows(folder):
    for name in ("squad", "sciq"):
        (folder / name).mkdir(parents=True)
    words = [f"The number {i} comes after {i - 1} and before {i + 1}, as everybody knows." for i in range(120)]
    asked = [{"question": f"What comes after {i}?", "correct_answer": str(i + 1)} for i in range(12)]
    for split in ("train", "validation"):
        write_lines(folder / "squad" / f"{split}.jsonl", [{"context": text} for text in words])
        write_lines(folder / "sciq" / f"{split}.jsonl", asked)
    return folder


@pytest.mark.slow
def test_what_it_makes_is_fine_tuned_by_the_experiment(monkeypatch, tmp_path, capsys):
    sizes = ["--steps", "4", "--layers", "2", "--hidden", "64", "--vocabulary", "300"]
    model = tmp_path / "model"
    monkeypatch.setattr("sys.argv", [SCRIPT.name, str(model), str(make_rows(tmp_path / "rows")), *sizes])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "perplexity of held-out paragraphs" in capsys.readouterr().out
    command = [
        "experiment=small_llama",
        f"backbone.path={model}",
        "method=lora,meft1",
        "level=1",
        "training.max_steps=2",
    ]
    sweeps.finish(sweeps.start(command, tmp_path / "runs"))
    found = sweeps.records(tmp_path / "runs").values()
    assert [record["status"] for record in found] == ["complete", "complete"]
    assert all(record["scores"]["best"] > 0 for record in found)
