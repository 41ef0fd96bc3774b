"""Rows that are to be answered, as files and splits have them."""

import pytest

from meft_runner.errors import UserError
from meft_runner.predict.rows import rows_of_file, rows_of_split
from tests.helpers.composed import settings

CELLS = 'choices,answers,messages,label\n"{""a"": 1}","[""b""]","""yes""",1\n'
RAW = {"choices": '{"a": 1}', "answers": '["b"]', "messages": '"yes"', "label": "1"}
READ = {
    "arc_easy": {"choices": {"a": 1}, "label": 1},
    "squad": {"answers": ["b"]},
    "chat": {"messages": "yes"},
    "text": {},
    "rte": {},
    "instruct": {},
}


def task(kind):
    writes = kind in ("arc_easy", "chat", "instruct")
    return settings(f"backbone={'opt' if writes else 'roberta'}", f"task={kind}").task


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("kind", READ)
def test_cells_are_json_only_where_the_task_has_lists_or_objects_there(kind, suffix, tmp_path):
    file = tmp_path / f"new.{suffix}"
    file.write_text(CELLS.replace(",", "\t") if suffix == "tsv" else CELLS)
    (placed,) = rows_of_file(file, task(kind))
    assert placed.row == RAW | READ[kind]


def test_a_label_of_thousands_of_digits_stays_a_text(tmp_path):
    (tmp_path / "new.csv").write_text(f"label\n{'9' * 5000}\n")
    assert rows_of_file(tmp_path / "new.csv", task("arc_easy"))[0].row == {"label": "9" * 5000}


def test_a_cell_that_is_no_json_is_told_where_json_is_expected(tmp_path):
    (tmp_path / "new.csv").write_text("question,choices\na,hello\n")
    with pytest.raises(UserError, match=r"new.csv, line 2: column 'choices' is 'hello', expected JSON"):
        rows_of_file(tmp_path / "new.csv", task("arc_easy"))


def test_a_file_of_development_rows_that_was_emptied_is_told(tmp_path):
    (tmp_path / "e.jsonl").write_text("")
    task = settings("task=text", f"task.train_file={tmp_path}/t.jsonl", f"task.eval_file={tmp_path}/e.jsonl").task
    with pytest.raises(UserError, match=r"task\.eval_file=.*e\.jsonl: has no rows"):
        rows_of_split(task, "evaluation", None)
