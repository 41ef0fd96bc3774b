import importlib.util
import json
import time
from pathlib import Path

import pytest
import torch
from gpu import exact, needs, report, shapes
from gpu.report import rows_of
from steps.models import build_repeated, case_of

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_check.py"
REVERSED = ["meft1", "meft2", "meft3", "lora reversed"]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def parts_in(folder):
    (file,) = folder.glob("*.json")
    parts = json.loads(file.read_text(), parse_constant=pytest.fail)
    sections = file.with_suffix(".md").read_text().split("## ")[1:]
    assert [section.splitlines()[0] for section in sections] == [part["title"] for part in parts.values()]
    assert sorted(folder.iterdir()) == [file, file.with_suffix(".md")]
    return parts


def check_exactness(part, kernels=tuple(exact.KERNELS)):
    compared = [row for row in part["rows"] if "note" not in row]
    assert {row["precision"] for row in compared} >= {"fp32", "bf16"}
    for row in compared:
        assert row["losses equal"] is True
        assert [row[f"{method} mismatches"] for method in REVERSED] == [0, 0, 0, 0]
        assert row["largest gradient error"] < 0.02
    assert all(row["note"].startswith("not available, ") for row in part["rows"] if row not in compared)


def check_settings(part):
    compared = [row for row in part["rows"] if "note" not in row]
    assert {row["method"] for row in compared} >= set(REVERSED)
    for row in compared:
        assert row["losses equal"] is True
        assert row["mismatches"] == 0
        assert row["largest gradient error"] < 0.02
    assert {row["note"] for row in part["rows"] if row not in compared} <= {"left out, needs a GPU"}


@pytest.mark.slow
def test_every_part_on_cpu(script, tmp_path, no_gpu):
    assert script.main(["--minutes", "60", "--output", str(tmp_path)]) == 0
    parts = parts_in(tmp_path)
    assert list(parts) == list(script.PARTS)
    for name in ("exactness", "families", "weights"):
        check_exactness(parts[name])
    check_settings(parts["settings"])
    for row in parts["memory"]["rows"]:
        off = 0.01 if row["attention"] == "materialised" else 0.1  # a fused kernel is a GPU's
        assert row["measured / predicted peak"] == pytest.approx(1, abs=off)
    for row in parts["speed"]["rows"]:
        assert row["tokens per second"] > 0
    for row in parts["longest"]["rows"]:
        assert row["longest row"] < row["did not fit"] <= 1.3 * row["longest row"]
    assert {row["note"] for row in parts["capacity"]["rows"]} == {"left out, needs a GPU"}


@pytest.mark.slow
def test_a_kernel_that_is_there_and_one_that_is_not(no_gpu):
    found = {kernel: exact.exactness(shapes.decoder(), "bf16", kernel, True) for kernel in ("default", "cuDNN")}
    check_exactness({"rows": [{"precision": precision, **found["default"][0]} for precision in ("fp32", "bf16")]})
    assert found["cuDNN"][0]["note"].startswith("not available, ")


def test_a_mismatch_is_a_failure(no_gpu, monkeypatch):
    one_pass = exact.one_pass
    monkeypatch.setattr(exact, "REVERSED", ["meft3"])
    monkeypatch.setattr(exact, "one_pass", lambda *args, **kwargs: off_by_one(one_pass(*args, **kwargs)))
    (row,) = exact.exactness(shapes.encoder(), "fp32", "default", False)
    assert (row["note"], row["meft3 mismatches"]) == ("failed, the reversal is not exact", 1)


def off_by_one(found):
    return exact.Pass(found.loss, found.gradients, found.mismatches + 1, found.checked)


def test_what_would_start_too_late_is_left_out_and_other_parts_stay(script, tmp_path, no_gpu, monkeypatch):
    script.main(["--minutes", "0", "--parts", "memory,speed", "--output", str(tmp_path)])
    broken_part = script.Part("Largest batch", broken, lambda: [{"shape": "one", "method": "two"}])
    monkeypatch.setitem(script.PARTS, "capacity", broken_part)
    assert script.main(["--parts", "capacity", "--output", str(tmp_path)]) == 1
    parts = parts_in(tmp_path)
    assert {row["note"] for name in ("memory", "speed") for row in parts[name]["rows"]} == {"left out for lack of time"}
    assert parts["capacity"]["rows"] == [{"shape": "one", "method": "two", "note": "failed, ValueError: one"}]


def broken(shape, method):
    raise ValueError("one\ntwo")


def test_a_check_that_takes_too_long_is_cut_off_and_what_it_found_stays():
    def slow(kind):
        yield {"found": 1}
        time.sleep(60)

    started = time.monotonic()
    rows = rows_of(slow, {"kind": "slow"}, 0.2, started + 60)
    assert rows == [{"kind": "slow", "found": 1}, {"kind": "slow", "note": "cut off after 0 s"}]
    assert time.monotonic() - started < 30
    assert rows_of(lambda kind: [{"found": 2}], {"kind": "quick"}, 60, started + 60) == [{"kind": "quick", "found": 2}]


def test_a_lost_device_leaves_the_other_parts_to_a_new_process(script, tmp_path, no_gpu, monkeypatch):
    called = []
    monkeypatch.setattr(script, "is_lost", lambda: True)
    monkeypatch.setattr(script.os, "execv", lambda *command: called.append(command))
    for part in ("memory", "speed", "capacity"):
        monkeypatch.setitem(script.PARTS, part, script.Part(part, broken, lambda: 2 * [{"shape": 1, "method": 2}]))
    assert script.main(["--minutes", "9", "--parts", "memory,speed,capacity", "--output", str(tmp_path)]) == 1
    left = [arguments[arguments.index("--parts") + 1] for _, arguments in called]
    assert left == ["speed,capacity", "capacity"]  # here the first process goes on
    assert [len(part["rows"]) for part in parts_in(tmp_path).values()] == [1, 1, 1]


def test_an_error_of_the_device_tells_that_it_is_lost(monkeypatch):
    def broken_device():
        raise torch.AcceleratorError("an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", broken_device)
    assert report.is_lost()
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert not report.is_lost()


@pytest.mark.parametrize("limit", [0, 1, 37, 200, 5000])
def test_largest_batch(limit):
    fitted, failed = needs.largest_batch(lambda rows: rows <= limit)
    if limit == 5000:
        assert (fitted, failed) == (needs.LARGEST_BATCH, None)
    else:
        assert fitted <= limit < failed <= max(fitted + 1, fitted * 17 // 16)


@pytest.mark.parametrize(("guess", "limit"), [(1000, 1010), (1000, 900), (1000, 1100), (40, 10), (500, 10**6)])
def test_longest_row(guess, limit):
    fitted, failed = needs.longest_row(lambda tokens: tokens <= limit, guess, 512 if limit == 10**6 else 131072)
    if limit in (10, 10**6):
        assert (fitted, failed) == ((0, 64) if limit == 10 else (512, None))
    else:
        assert fitted <= limit < failed <= 1.13 * fitted
        assert fitted % 64 == 0


@pytest.mark.slow
def test_the_longest_row_of_a_model_of_one_layer_again_and_again(no_gpu):
    shape = shapes.long_rows()
    method = ("method=meft1",)
    (row,) = needs.longest(shape, "meft1", method, (0.004,))
    assert row["longest row"] < row["did not fit"] <= 1.3 * row["longest row"]
    model = build_repeated(case_of(shape, "bf16", *method))
    first, second = (block.f.first.layer.mlp.up_proj for block in model.model.layers[0].stack.blocks)
    assert torch.equal(first.weight, second.weight)
    assert first.weight.data_ptr() != second.weight.data_ptr()
    assert first.weight.quant_state.absmax.data_ptr() != second.weight.quant_state.absmax.data_ptr()


@pytest.mark.gpu
def test_every_part_on_cuda(script, tmp_path):
    assert script.main(["--minutes", "9", "--output", str(tmp_path)]) == 0
    check_exactness(parts_in(tmp_path)["exactness"])
