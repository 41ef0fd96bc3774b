"""What an extension costs: files that are added, and a few lines of code; anything else is found by itself.

The files stand in tests/extension/ as they would stand in the project. They are added to a copy of it, and a sweep of
the copy runs the new model on the new task and on answers, by the new methods.
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

# A further method of peft: its settings, where they are known by name, and what peft is told.
PEFT_METHOD = {
    "meft_runner/config/methods.py": {
        "@dataclass\nclass VeraSettings": '''@dataclass
class OftSettings(PeftSettings):
    """Orthogonal matrices before the weights (arXiv 2306.07280), through peft.

    Attributes:
        block_size: of the blocks on their diagonal.
    """

    block_size: int = setting(8, (2, 10**6))


''',
        '    "vera": VeraSettings,\n': '    "oft": OftSettings,\n',
    },
    "meft_runner/methods/peft_methods.py": {
        "_CONFIGS: ": """def _oft(family: Family, method: OftSettings) -> PeftConfig:
    return OFTConfig(oft_block_size=method.block_size, target_modules=family.lora_targets)


""",
        "    VeraSettings: _vera,\n": "    OftSettings: _oft,\n",
        "from peft import": "from peft import OFTConfig\nfrom meft_runner.config.methods import OftSettings\n",
    },
}


def added(*folders):
    return [file.name for folder in folders for file in (ADDED / folder).iterdir() if file.suffix in (".py", ".yaml")]


def test_the_price():
    assert len(added("families")) == len(added("conf/backbone")) == 1, "a family: a file, and one a size"
    assert (ADDED / "families" / "biogpt.py").read_text().count("\n") <= 80
    assert len(added("conf/task")) == 1, "a task like GLUE's: a file"
    assert len(added("conf/method")) == 2, "a variant: a file, and the line in the table; a method of peft: a file"
    lines = [line for lines in PEFT_METHOD.values() for text in lines.values() for line in text.splitlines()]
    assert len(list(filter(str.strip, lines))) <= 15, "a method of peft: besides, a few lines"


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
    for name, insertions in PEFT_METHOD.items():
        code = (copy / name).read_text()
        for before, text in insertions.items():
            assert code.count(before) == 1
            code = code.replace(before, text + before)
        (copy / name).write_text(code)
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_further_method_of_peft_is_reversible(project, tmp_path):
    model, rows = model_folder(tmp_path / "model"), rows_folder(tmp_path / "rows")
    runs = project / "runs_of_peft"
    call(
        project, "meft_run", "backbone=biogpt", f"backbone.path={model}", "method=oft", "method.reversal=exact",
        "task=wnli", f"task.data_dir={rows}", "task.max_length=64", f"output_dir={runs}", "training.max_steps=2",
        "training.batch_size=4",
    )  # fmt: skip
    (file,) = runs.glob("*/record.json")
    record = json.loads(file.read_text())
    assert record["status"] == "complete"
    assert (record["reversal"]["checked_steps"], record["reversal"]["mismatches"]) == (2, 0)
    assert record["plain_model"]["output_distance"] < 0.1
    assert json.loads((file.parent / "adapter" / "adapter_config.json").read_text())["peft_type"] == "OFT"
    asked = ("backbone=biogpt", "method=[lora,oft]", "method.reversal=exact", "batch=2", "length=64", "format=json")
    assert [row["method"] for row in json.loads(call(project, "meft_memory", *asked))] == ["lora", "oft"]
