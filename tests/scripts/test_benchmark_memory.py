import runpy
from pathlib import Path

import pandas as pd
import pytest

from meft_runner.memory_report.prediction import predict

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "scripts" / "benchmark_memory.py"
KEY = ["method", "checkpointing", "precision"]


def regenerated(name, **kwargs):
    made = runpy.run_path(str(SCRIPT), run_name="benchmark_memory")["shape_table"](name, **kwargs)
    return pd.DataFrame(made).set_index(KEY).sort_index()


def committed(name):
    table = pd.read_csv(ROOT / "results" / "memory" / f"{name}.csv", dtype={"checkpointing": str})
    return table.set_index(KEY).sort_index()


def assert_same(found, expected):
    columns = [column for column in found if column.endswith(("_bytes", "parameters"))]
    pd.testing.assert_frame_equal(found[columns], expected.loc[found.index, columns])


@pytest.mark.slow
def test_two_methods_of_a_table_regenerate_to_the_same_figures():
    assert_same(regenerated("bert-32x128", methods=["lora", "meft3"]), committed("bert-32x128"))


@pytest.mark.slow
def test_a_long_row_regenerates_to_the_same_figures():
    script = runpy.run_path(str(SCRIPT), run_name="benchmark_memory")
    method = "lora (reversal=exact, 4 bits)"
    (case,) = (case for label, case in script["contenders"]("nf4", [131072]) if label == method)
    table = committed("llama3_8b-nf4").set_index(["label", "length"])
    found = {key: value for key, value in predict(case).items() if key.endswith("_bytes")}
    assert found == {key: table.loc[(method, 131072), key] for key in found}


@pytest.mark.slow
def test_a_whole_table_regenerates_to_the_same_figures():
    assert_same(regenerated("vit-64"), committed("vit-64"))


@pytest.mark.parametrize("file", sorted((ROOT / "results" / "memory").glob("*.md")), ids=lambda file: file.stem)
def test_every_table_says_what_it_is_and_how_it_was_made(file):
    first = file.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("Predicted from shapes alone, torch ")
    assert first.endswith(f"`python scripts/benchmark_memory.py --only {file.stem}`")
