import json

import numpy as np
import pytest
from datasets import Dataset

from meft_runner.errors import UserError
from meft_runner.tasks import load_task
from meft_runner.tasks import rows as rows_module
from tests.helpers.composed import settings

# For each task: the logits of three rows, and what each of its files says of them.
TWO_CLASSES = [[2.0, 1.0], [0.0, 3.0], [0.5, 0.0]]
FORMS = {
    "cola": (TWO_CLASSES, {"CoLA.tsv": "0 1 0"}),
    "sst2": (TWO_CLASSES, {"SST-2.tsv": "0 1 0"}),
    "mrpc": (TWO_CLASSES, {"MRPC.tsv": "0 1 0"}),
    "qqp": (TWO_CLASSES, {"QQP.tsv": "0 1 0"}),
    "stsb": ([[-0.2], [2.71828], [5.3]], {"STS-B.tsv": "0.000 2.718 5.000"}),
    "qnli": (TWO_CLASSES, {"QNLI.tsv": "entailment not_entailment entailment"}),
    "rte": (TWO_CLASSES, {"RTE.tsv": "entailment not_entailment entailment"}),
    "mnli": (
        [[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [0.0, 0.0, 1.0]],
        dict.fromkeys(("MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"), "entailment neutral contradiction"),
    ),
}


def task(name, folder=None, *overrides):
    data_dir = [f"task.data_dir={folder}"] if folder else []
    return settings(f"task={name}", "task.predict_test=true", *data_dir, *overrides).task


def rows(chosen, split):
    """Three rows, the longest in the middle; a test set's labels are hidden or not there at all."""
    labelled = split in (chosen.train_split, *chosen.eval_splits)
    labels = [{} if split == "ax" else {"label": label if labelled else -1} for label in (1, 0, 1)]
    texts = [dict.fromkeys(chosen.text_columns, text) for text in ("a", "b b b", "c c")]
    return [text | label for text, label in zip(texts, labels, strict=True)]


def write(chosen, folder):
    for split in (chosen.train_split, *chosen.eval_splits, *chosen.test_files.values()):
        text = "".join(json.dumps(row) + "\n" for row in rows(chosen, split))
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("name", FORMS)
def test_every_tasks_files_have_the_leaderboards_form(name, tmp_path, tokenizer):
    chosen = task(name, tmp_path, "task.max_eval_rows=1", "task.max_train_rows=2")
    write(chosen, tmp_path)
    logits, expected = FORMS[name]
    files = {file.name: file for file in load_task(chosen, tokenizer).answer_files}
    assert files.keys() == expected.keys()
    for file_name, file in files.items():
        lines = file.text(np.array(logits, dtype=np.float32)).splitlines()
        assert lines == ["index\tprediction", *(f"{i}\t{a}" for i, a in enumerate(expected[file_name].split()))]


def test_all_test_rows_keep_their_order_and_lose_their_labels(tmp_path, tokenizer):
    chosen = task("mnli", tmp_path, "task.max_eval_rows=1")
    write(chosen, tmp_path)
    for file in load_task(chosen, tokenizer).answer_files:
        assert "labels" not in file.rows.column_names
        assert file.rows["length"] == [5, 9, 7]


def test_cut_test_rows_are_told(tmp_path, tokenizer):
    chosen = task("mnli", tmp_path, "task.max_length=8")
    write(chosen, tmp_path)
    notes = load_task(chosen, tokenizer).description["notes"]
    for split in chosen.test_files.values():
        assert f"1 of 3 rows of {split} cut to task.max_length=8 tokens" in notes


def test_no_files_unless_they_are_asked_for(tmp_path, tokenizer):
    chosen = task("rte", tmp_path, "task.predict_test=false")
    write(chosen, tmp_path)
    (tmp_path / "test.jsonl").unlink()
    assert load_task(chosen, tokenizer).answer_files == []
    with pytest.raises(UserError, match=r"test.jsonl is missing .* Add the test split"):
        load_task(task("rte", tmp_path), tokenizer)


def test_a_test_row_without_text_is_refused(tmp_path, tokenizer):
    chosen = task("sst2", tmp_path)
    write(chosen, tmp_path)
    (tmp_path / "test.jsonl").write_text('{"sentence": "a"}\n{"sentence": null}\n')
    with pytest.raises(UserError, match=r"test.jsonl, row 2: column 'sentence' is None, expected text"):
        load_task(chosen, tokenizer)


def test_a_test_set_s_hidden_labels_are_no_classes(tmp_path, tokenizer):
    chosen = task("rte", tmp_path, "task.eval_splits=[test]")
    write(chosen, tmp_path)
    (tmp_path / "test.jsonl").write_text(json.dumps(rows(chosen, "test")[0] | {"label": -1}) + "\n")
    with pytest.raises(UserError, match=r"row 1: label -1 .* -1 hides a test set's label: choose other splits"):
        load_task(chosen, tokenizer)


def test_on_the_hub_the_diagnostics_are_a_configuration(monkeypatch, tokenizer):
    chosen, asked = task("mnli"), []

    def load_hub_split(task, split, limit):
        asked.append((task.hub, task.hub_config, split))
        return Dataset.from_list(rows(chosen, split)), "commit"

    monkeypatch.setattr(rows_module, "load_hub_split", load_hub_split)
    load_task(chosen, tokenizer)
    assert asked[-3:] == [
        ("nyu-mll/glue", "mnli", "test_matched"),
        ("nyu-mll/glue", "mnli", "test_mismatched"),
        ("nyu-mll/glue", "ax", "test"),
    ]
