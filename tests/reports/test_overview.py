import errno
import json
import time
from pathlib import Path

import pytest

from meft_runner.config import TablesSettings
from meft_runner.errors import UserError
from meft_runner.records.record import write_record
from meft_runner.reports.overview import FIGURES, TABLES, make_figures, make_overview, make_tables
from tests.helpers.records import of_texts, record, started, study

TWO = ("rte", "cola")


def everything():
    begun = {"start": {"output_distance": 0.5, "hidden_distance": 0.5}, "history": [(0.5, 0.5)]}
    coupled = {"plain_model": {"output_distance": 0.1, "score": 0.5, "coupled_score": 0.6}}
    long = record(0.5)
    long.memory.length = 512
    return [
        record(0.5, history=[(0.5, 0.5)]), record(0.6, "method.frozen_layers=2"), long,
        record(0.6, "backbone.repeat=2"), record(0.6, "backbone=opt", "task=piqa", metric="acc"),
        record(0.6, "method=ia3", "method.init_noise=0.1", **begun), of_texts(2.0, "task=lm"),
        *(record(0.6, "method=lora", "method.reversal=exact", f"task={task}", **begun, **coupled) for task in TWO),
        study([0.1, 0.1]), study([0.1] * 4, "backbone.repeat=2"),
    ]  # fmt: skip


@pytest.mark.slow  # `test_files_of_a_folder` draws them too
def test_records_of_everything_give_everything():
    assert list(make_tables(everything())) == list(TABLES)
    assert list(make_figures(everything())) == list(FIGURES)


def test_studies_alone_have_no_scores():
    records = [study([0.1])]
    assert list(make_tables(records)) == ["reversal", "gradients_by_layer"]
    assert list(make_figures(records)) == ["reversal_by_layer"]


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.thin(2)
def test_records_of_starting_points_alone_and_beside_others(beside, tmp_path, capsys):
    starts = [
        started(0.1, 0.2, "method=lora", "method.reversal=exact"), started(None, None), started(0.1, 0.1, memory=None)
    ]  # fmt: skip
    others = [record(0.5, history=[(0.5, 0.5)]), study([0.1])] if beside else []
    call(tmp_path, *starts, *others, tables_dir=str(tmp_path / "tables"), report=True)
    names = {path.name for path in (tmp_path / "tables").iterdir()}
    assert {"starting_point.md", "memory.md", "report.html"} <= names
    assert ("scores.md" in names) == beside
    assert TABLES["starting_point"].title in capsys.readouterr().out


def test_files_of_a_folder(tmp_path, capsys):
    for i, one in enumerate(everything()):
        write_record(one, tmp_path / "runs" / str(i))
    folder = tmp_path / "tables"
    make_overview(TablesSettings(output_dir=str(tmp_path / "runs"), tables_dir=str(folder), report=True))
    expected = {f"{name}.{form}" for name in TABLES for form in ("md", "csv", "tex")}
    expected |= {f"{name}.{form}" for name in FIGURES for form in ("png", "svg")}
    assert {path.name for path in folder.iterdir()} == expected | {"report.html", ".meft-tables.json"}
    printed = capsys.readouterr().out
    titles = [printed.index(TABLES[name].title) for name in ("scores", "qa", "memory", "reversal")]
    assert titles == sorted(titles)
    assert TABLES["training_loss"].title not in printed

    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(part.title in page for part in TABLES.values())
    assert all(part.caption in page for part in FIGURES.values())


def call(tmp_path, *records, **asked):
    for i, one in enumerate(records):
        write_record(one, tmp_path / "runs" / str(i))
    make_overview(TablesSettings(output_dir=str(tmp_path / "runs"), **asked))


def test_files_of_an_earlier_call_stay_and_are_named(tmp_path, capsys):
    folder = tmp_path / "tables"
    call(tmp_path, record(0.6, "backbone=opt", "task=piqa", metric="acc"), tables_dir=str(folder))
    (folder / "notes.md").write_text("mine")
    capsys.readouterr()
    call(tmp_path, record(), tables_dir=str(folder))
    assert (folder / "notes.md").read_text() == "mine"
    assert "minilm" in (folder / "memory.md").read_text()
    expected = f"tables_dir={folder}: of an earlier call and not of these runs: qa.md, qa.csv, qa.tex.\n"
    assert capsys.readouterr().err == expected


def test_files_of_the_user_are_not_replaced_unasked(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    for name in ("memory.md", "report.html"):
        (folder / name).write_text("mine")
    with pytest.raises(UserError) as raised:
        call(tmp_path, record(), tables_dir=str(folder), report=True)
    assert str(raised.value) == (
        f"tables_dir={folder}: would replace memory.md, report.html (2 in all), which no finished call of this version "
        "has made, or which changed since. Choose another folder, or add overwrite=true to replace them."
    )
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"memory.md": "mine", "report.html": "mine"}
    call(tmp_path, tables_dir=str(folder), report=True, overwrite=True)
    assert "mine" not in (folder / "memory.md").read_text() + (folder / "report.html").read_text()
    call(tmp_path, tables_dir=str(folder), report=True)  # they are its own now


def test_nothing_half_written_is_left(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "tables"
    call(tmp_path, record(), record(0.9), tables_dir=str(folder))
    (tmp_path / "runs" / "1" / "record.json").unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(self, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match=r"tables_dir=.*: .*scores.md cannot be written \(No space left on device\)"):
        call(tmp_path, tables_dir=str(folder))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("report", [False, True])
def test_folders_that_cannot_be_written(report, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "tables" / "scores.md").mkdir(parents=True)
    for folder, reason in (("file", "File exists"), ("file/inside", "Not a directory"), ("tables", "Is a directory")):
        with pytest.raises(UserError, match=rf"tables_dir=.*[a-z] cannot be written \({reason}\)") as raised:
            call(tmp_path, record(), tables_dir=str(tmp_path / folder), report=report, overwrite=True)
        assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_many_records_are_read(tmp_path, capsys):
    text = json.dumps(record(history=[(0.5, 0.5)] * 3).plain())
    for number in range(1000):
        (tmp_path / "runs" / str(number)).mkdir(parents=True)
        own = text.replace('"identity": "x', f'"identity": "{number}x').replace('"seed": 1,', f'"seed": {number},')
        (tmp_path / "runs" / str(number) / "record.json").write_text(own)
    started = time.perf_counter()
    call(tmp_path)
    assert "(n=1000)" in capsys.readouterr().out
    assert time.perf_counter() - started < 60  # the goal is 5 s; a busy machine is no failure
