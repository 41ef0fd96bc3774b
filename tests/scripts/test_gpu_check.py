import importlib.util
import json
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_check.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parts_in(folder):
    (file,) = folder.glob("*.json")
    parts = json.loads(file.read_text(), parse_constant=pytest.fail)
    sections = file.with_suffix(".md").read_text().split("## ")[1:]
    assert [section.splitlines()[0] for section in sections] == [part["title"] for part in parts.values()]
    assert sorted(folder.iterdir()) == [file, file.with_suffix(".md")]
    return parts


def check_exactness(part):
    compared = [row for row in part["rows"] if "note" not in row]
    assert {row["precision"] for row in compared} == {"fp32", "bf16", "fp16"}
    for row in compared:
        assert row["losses equal"] is True
        assert [row[f"meft{variant} mismatches"] for variant in (1, 2, 3)] == [0, 0, 0]
        assert row["largest gradient error"] < 0.02
    assert all(row["note"].startswith("not available, ") for row in part["rows"] if row not in compared)


@pytest.mark.slow
def test_every_part_on_cpu(script, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert script.main(["--output", str(tmp_path)]) == 0
    parts = parts_in(tmp_path)
    check_exactness(parts["exactness"])
    for row in parts["memory"]["rows"]:
        assert row["measured / predicted peak"] == pytest.approx(1, abs=0.01)
        assert row["measured / predicted activations"] == pytest.approx(1, abs=0.01)
    for row in parts["speed"]["rows"]:
        assert row["tokens per second"] > 0
    assert {row["note"] for row in parts["capacity"]["rows"]} == {"left out, needs a GPU"}


def test_what_would_start_too_late_is_left_out_and_other_parts_stay(script, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    script.main(["--minutes", "0", "--parts", "memory,speed", "--output", str(tmp_path)])
    monkeypatch.setitem(script.PARTS, "capacity", ("Largest batch", broken))
    assert script.main(["--parts", "capacity", "--output", str(tmp_path)]) == 1
    parts = parts_in(tmp_path)
    assert {row["note"] for name in ("memory", "speed") for row in parts[name]["rows"]} == {"left out for lack of time"}
    assert {row["note"] for row in parts["capacity"]["rows"]} == {"failed, ValueError: one"}


def broken(shape, method):
    raise ValueError("one\ntwo")


@pytest.mark.parametrize("limit", [0, 1, 37, 200, 5000])
def test_largest_batch(script, limit):
    fitted, failed = script.largest_batch(lambda rows: rows <= limit)
    if limit == 5000:
        assert (fitted, failed) == (script.LARGEST_BATCH, None)
    else:
        assert fitted <= limit < failed <= max(fitted + 1, fitted * 17 // 16)


@pytest.mark.gpu
def test_every_part_on_cuda(script, tmp_path):
    assert script.main(["--minutes", "8", "--output", str(tmp_path)]) == 0
    check_exactness(parts_in(tmp_path)["exactness"])
