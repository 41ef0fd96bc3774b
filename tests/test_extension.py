"""What an extension costs: files that are added, and one line of code that changes; anything else is found by itself.

The files stand in tests/extension/ as they would stand in the project. They are added to a copy of it, and a sweep of
the copy runs the new model on the new task and on answers, by the new method.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import BioGptConfig, BioGptForCausalLM

from tests.helpers.folders import save_byte_tokenizer, write_lines

ROOT = Path(__file__).parents[1]
ADDED = Path(__file__).parent / "extension"
PLACES = {"families": "meft_runner/backbones/families", "conf": "conf"}
VARIANT = '    "meft4": Variant(Branch.mlp, Branch.attention, "1/8", "1/8", swap=False, merge=_FIRST_SMALL),\n'


def added(*folders):
    return [file.name for folder in folders for file in (ADDED / folder).iterdir() if file.suffix in (".py", ".yaml")]


def test_the_price():
    assert len(added("families")) == len(added("conf/backbone")) == 1, "a family: a file, and one a size"
    assert (ADDED / "families" / "biogpt.py").read_text().count("\n") <= 80
    assert len(added("conf/task")) == 1, "a task like GLUE's: a file"
    assert len(added("conf/method")) == 1, "a variant: a file, and the line in the table"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with the extensions."""
    copy = tmp_path_factory.mktemp("project")
    for folder in ("meft_runner", "conf"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for source, place in PLACES.items():
        shutil.copytree(ADDED / source, copy / place, dirs_exist_ok=True)
    table = copy / "meft_runner" / "methods" / "variants.py"
    lines = table.read_text().splitlines(keepends=True)
    last = next(number for number, line in enumerate(lines) if line.startswith('    "meft3"'))
    table.write_text("".join([*lines[: last + 1], VARIANT, *lines[last + 1 :]]))
    return copy


def call(project, command, *arguments):
    """Runs a command of the copy, such as meft_run, and returns what it printed."""
    program = f"from meft_runner.cli import {command}; {command}()"
    environment = os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    typed = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(typed, check=False, capture_output=True, text=True, env=environment, cwd=project)
    assert done.returncode == 0, done.stderr
    return done.stdout


def model_folder(folder):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BioGptForCausalLM(BioGptConfig(vocab_size=300, max_position_embeddings=130, **sizes)).save_pretrained(folder)
    save_byte_tokenizer(folder)
    return folder


def rows_folder(folder):
    """Rows that both tasks read, each its own columns."""
    folder.mkdir()
    rows = [
        {"sentence1": f"It has {i} legs.", "sentence2": "It walks.", "label": i % 2}
        | {"goal": f"Walk on {i} legs.", "sol1": "Slowly.", "sol2": "Not at all."}
        for i in range(12)
    ]
    for split in ("train", "validation"):
        write_lines(folder / f"{split}.jsonl", rows)
    return folder


def test_the_extensions_run_together(project, tmp_path):
    model, rows = model_folder(tmp_path / "model"), rows_folder(tmp_path / "rows")
    runs = project / "runs"
    call(
        project, "meft_run", "-m", "backbone=biogpt", f"backbone.path={model}", "method=meft4",
        "task=wnli,piqa", f"task.data_dir={rows}", "task.max_length=64", f"output_dir={runs}",
        "training.max_steps=2", "training.batch_size=4",
    )  # fmt: skip
    records = [json.loads(file.read_text()) for file in runs.glob("*/record.json")]
    assert {record["config"]["task"]["name"]: record["scores"]["metric"] for record in records} == {
        "wnli": "accuracy",
        "piqa": "acc",
    }
    for record in records:
        assert record["status"] == "complete"
        assert record["config"]["method"]["merge"] == [0.1, 1.0]
        assert (record["reversal"]["checked_steps"], record["reversal"]["mismatches"]) == (2, 0)
    call(project, "meft_tables", f"output_dir={runs}", "tables_dir=tables")
    scores = "".join(file.read_text() for file in (project / "tables").glob("*.md"))
    assert all(name in scores for name in ("biogpt", "meft4", "wnli", "piqa"))
    table = call(project, "meft_memory", "backbone=biogpt", "method=meft4", "batch=2", "length=64", "format=json")
    assert json.loads(table)[0]["activations_bytes"] > 0
    assert "biogpt" in call(project, "meft_run", "--help")
