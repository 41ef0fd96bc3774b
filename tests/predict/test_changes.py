"""Rows of a split that are no longer those of the run are told beside their scores."""

import json

import pytest

from meft_runner import cli
from meft_runner.predict.changes import fingerprint_of
from meft_runner.predict.rows import rows_of_split
from meft_runner.tasks import load_task
from tests.helpers.commands import call
from tests.helpers.composed import settings
from tests.helpers.folders import byte_tokenizer, make_image_rows, make_squad_rows, write_lines
from tests.helpers.trained import GRADED, PAIR, TEXTS


def test_rows_of_a_split_have_the_fingerprint_of_the_record(tmp_path):
    """Rows of files of one's own, which are read otherwise than for training; SQuAD without the rows that are left out.

    `test_scores.py` holds all kinds of task.
    """
    for name, rows in (("classes", TEXTS), ("grades", [row | {"text": row["sentence1"]} for row in GRADED])):
        file = tmp_path / f"{name}.jsonl"
        write_lines(file, rows)
        check("evaluation", "task=text", f"task.train_file={file}", f"task.eval_file={file}")
    folder = make_squad_rows(tmp_path / "squad")
    rows = [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]
    bad = rows[0] | {"id": "bad", "answers": {"text": ["nowhere"], "answer_start": [0]}}
    write_lines(folder / "validation.jsonl", [bad, *rows])
    check("validation", "task=squad", f"task.data_dir={folder}", "task.skip_bad_rows=true")


def check(split, *words):
    task = settings("backbone=roberta", *words).task
    data = load_task(task, byte_tokenizer())
    rows = rows_of_split(task, split, None)
    assert fingerprint_of(task, data.classes, rows) == data.description["splits"][split]["fingerprint"]


@pytest.fixture
def predict(monkeypatch, capsys):
    """Returns what runs the command and returns the notes that it printed."""

    def run(*words):
        capsys.readouterr()  # of what trained the run
        code, printed, error = call(monkeypatch, capsys, cli.meft_predict, *map(str, words))
        assert (code, error) == (0, "")
        return [line for line in printed.splitlines() if line.startswith("note: ")]

    return run


def test_other_rows_are_told(trained, predict, tmp_path, monkeypatch):
    run, folder = trained("rte", "full"), tmp_path / "rows"
    folder.mkdir()
    write_lines(folder / "validation.jsonl", PAIR[1:])
    assert predict(f"run={run}", "split=validation", f"task.data_dir={folder}") == []
    write_lines(folder / "validation.jsonl", PAIR)
    monkeypatch.chdir(tmp_path)
    (note,) = predict(f"run={run}", "split=validation", "task.data_dir=rows")
    assert note.startswith("note: rows/validation.jsonl holds other rows than the run was made from (fingerprint ")
    assert note.endswith(f"so scores are not its record's (a relative path starts at {tmp_path})")
    write_lines(folder / "test.jsonl", PAIR)  # of which the record knows nothing
    assert predict(f"run={run}", "split=test", "task.data_dir=rows") == []


def test_other_images_are_told(trained, predict, tmp_path):
    run = trained("images", "meft1")
    rows = make_image_rows(tmp_path / "rows")
    words = [f"run={run}", "split=test", f"task.data_dir={rows}"]
    assert predict(*words) == []
    (rows / "test" / "dark" / "0.png").unlink()
    (note,) = predict(*words)
    assert note.startswith(f"note: {rows}/test holds other rows than the run was made from")
