from functools import partial

import pytest

from meft_runner.errors import UserError
from meft_runner.tasks import glue
from meft_runner.tasks import rows as rows_module
from tests.helpers.glue_rows import GOOD, task, write


def load_rows(task, split, limit):
    rows, _ = rows_module.load_rows(task, split, limit, partial(glue.check_row, task))
    return rows


def test_rows_of_a_local_file(tmp_path):
    write(tmp_path, GOOD, GOOD | {"label": 1}, "", GOOD)
    assert [row["label"] for row in load_rows(task(tmp_path), "train", None)] == [0, 1, 0]
    assert len(load_rows(task(tmp_path), "train", 2)) == 2


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], r"train.jsonl is empty"),
        ([GOOD, '{"sentence1": '], r"train.jsonl, line 2: not JSON"),
        ([GOOD, "[1, 2]"], r"line 2: expected a JSON object"),
        ([{"sentence1": "a", "label": 0}], r"column 'sentence2' is missing \(found: sentence1, label\)"),
        ([{"sentence1": "a", "sentence2": "b"}], r"column 'label' is missing"),
        ([GOOD | {"sentence2": None}], r"row 1: column 'sentence2' is None, expected text"),
        ([GOOD, GOOD | {"label": 2}], r"row 2: label 2 .* expected 0 = entailment, 1 = not_entailment"),
        ([GOOD | {"label": -1}], r"label -1 is outside"),
        ([GOOD | {"label": "entailment"}], r"label 'entailment' is outside"),
        ([GOOD, '{"label": ' + "9" * 5000 + "}"], r"line 2: not JSON"),
        ([GOOD | {"sentence1": "\ud800"}], r"column 'sentence1' is .* expected text"),
        ([GOOD | {"label": True}], r"label True is outside"),
    ],
)
def test_bad_files_are_refused(tmp_path, lines, message):
    write(tmp_path, *lines) if lines else (tmp_path / "train.jsonl").touch()
    with pytest.raises(UserError, match=message):
        load_rows(task(tmp_path), "train", None)


def test_regression_takes_any_number(tmp_path):
    write(tmp_path, GOOD | {"label": 2.5}, GOOD | {"label": 3})
    assert len(load_rows(task(tmp_path, classes=[]), "train", None)) == 2
    for label in ('"high"', "NaN", "1e400", "9" * 400):
        write(tmp_path, f'{{"sentence1": "a", "sentence2": "b", "label": {label}}}')
        with pytest.raises(UserError, match="expected a number"):
            load_rows(task(tmp_path, classes=[]), "train", None)


def test_a_file_that_is_not_utf8(tmp_path):
    (tmp_path / "train.jsonl").write_bytes(b'{"sentence1": "\xff"}\n')
    with pytest.raises(UserError, match="line 1: is not UTF-8"):
        load_rows(task(tmp_path), "train", None)


def test_a_missing_folder_and_a_missing_split(tmp_path):
    with pytest.raises(UserError, match=r"task.data_dir=.*nowhere: no such folder"):
        load_rows(task(tmp_path / "nowhere"), "train", None)
    write(tmp_path, GOOD)
    with pytest.raises(UserError, match=r"validation.jsonl is missing \(found: train.jsonl\)"):
        load_rows(task(tmp_path), "validation", None)


def test_a_revision_is_of_the_hub(tmp_path):
    write(tmp_path, GOOD)
    with pytest.raises(UserError, match=r"task.revision=main: is of the hub, not of task.data_dir"):
        load_rows(task(tmp_path, revision="main"), "train", None)
