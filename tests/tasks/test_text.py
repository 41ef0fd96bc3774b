import json

import numpy as np
import pandas as pd
import pytest
from transformers import EvalPrediction

from meft_runner.config import Metric, TextSettings
from meft_runner.errors import UserError
from meft_runner.tasks import load_task

GOOD = {"text": "a", "label": 0}
NUMBERED = [
    {"text": "one dog", "label": 10},
    {"text": "two dogs, one cat", "label": 9},
    {"text": 'a "cat"', "label": 9},
]
NAMED = [{"text": "1984", "label": "sad"}, {"text": "NA", "label": "glad"}, {"text": "null", "label": "None"}]
GRADED = [{"text": "a", "label": 2.5}, {"text": "b", "label": 1.0}, {"text": "c", "label": 3.0}]
WRITERS = {
    "csv": lambda rows, path: pd.DataFrame(rows).to_csv(path, index=False),
    "tsv": lambda rows, path: pd.DataFrame(rows).to_csv(path, index=False, sep="\t"),
    "jsonl": lambda rows, path: pd.DataFrame(rows).to_json(path, orient="records", lines=True),
    "json": lambda rows, path: pd.DataFrame(rows).to_json(path, orient="records"),
    "parquet": lambda rows, path: pd.DataFrame(rows, columns=None if rows else list(GOOD)).to_parquet(
        path, index=False
    ),
}


@pytest.fixture
def load(tmp_path, tokenizer):
    """Loads the task from files in the test's folder, given as rows or as their content."""

    def write(name, content):
        path = tmp_path / name
        if isinstance(content, list):
            WRITERS[name.rpartition(".")[2].lower()](content, path)
        elif content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    def load(train, evaluation=None, train_name="train.csv", eval_name="eval.csv", **settings):
        files = {
            "train_file": write(train_name, train),
            "eval_file": write(eval_name, train if evaluation is None else evaluation),
        }
        return load_task(TextSettings(**{"name": "text", "max_length": 16} | files | settings), tokenizer)

    return load


def texts(rows, tokenizer):
    return [tokenizer.decode(ids, skip_special_tokens=True) for ids in rows["input_ids"]]


@pytest.mark.parametrize("kind", [*WRITERS, "CSV"])
def test_every_format_reads_the_same(kind, load, tokenizer):
    names = {"train_name": f"train.{kind}", "eval_name": f"eval.{kind}"}
    data = load(NUMBERED, **names)
    assert texts(data.train, tokenizer) == ["one dog", "two dogs, one cat", 'a " cat "']
    assert (data.classes, data.train["labels"], data.metric) == (["9", "10"], [1, 0, 0], "accuracy")
    data = load(NAMED, **names)
    assert texts(data.train, tokenizer) == ["1984", "na", "null"]
    assert (data.classes, data.train["labels"]) == (["None", "glad", "sad"], [2, 1, 0])
    data = load(GRADED, **names)
    assert (data.classes, data.train["labels"], data.metric) == ([], [2.5, 1.0, 3.0], "pearson")


def test_pairs_in_files_of_two_formats(load, tokenizer):
    rows = [{"label": "a", "gold": True, "other": "x"}, {"label": "b", "gold": False, "other": "y"}]
    data = load(
        rows, rows[::-1], eval_name="eval.jsonl", text_columns=["other", "label"], label_column="gold", max_eval_rows=1
    )
    assert tokenizer.decode(data.train[0]["input_ids"]) == "[CLS] x [SEP] a [SEP]"
    assert (data.classes, data.train["labels"]) == (["False", "True"], [1, 0])
    assert data.evaluation["evaluation"].rows["labels"] == [0]


def test_the_classes_and_both_files_are_in_the_record(load, tmp_path):
    description = load(NAMED, NAMED[:1]).description
    assert description["classes"] == ["None", "glad", "sad"]
    assert description["source"] == f"{tmp_path / 'train.csv'}, {tmp_path / 'eval.csv'}"
    assert {split: part["rows"] for split, part in description["splits"].items()} == {"train": 3, "evaluation": 1}


def test_a_chosen_metric_is_computed(load):
    data = load(NUMBERED, metric=Metric.f1)
    prediction = EvalPrediction(np.array([[0.0, 1.0], [0.0, 1.0]]), np.array([1, 0]))
    assert (data.metric, data.evaluation["evaluation"].score(prediction)) == ("f1", {"f1": pytest.approx(2 / 3)})


def test_limits(load):
    data = load(NUMBERED, max_train_rows=2, max_eval_rows=1)
    assert (len(data.train), len(data.evaluation["evaluation"].rows)) == (2, 1)


def test_a_file_that_changed_is_read_again_and_nothing_is_printed(load, tokenizer, capfd):
    load(NUMBERED)
    data = load([row | {"text": "new"} for row in NUMBERED])
    assert texts(data.train, tokenizer) == ["new"] * 3
    assert capfd.readouterr() == ("", "")


def test_a_name_that_looks_like_a_pattern(load, tokenizer):
    load(NUMBERED, train_name="a1.csv")
    data = load(NAMED, train_name="a[1].csv", eval_name="a*.csv")
    assert len(data.classes) == 3


def test_a_large_csv_file_has_one_type(load):
    rows = [{"text": f"{i}" if i > 10_000 else "word", "label": i % 2} for i in range(10_050)]
    data = load(rows, rows[:2], max_length=4)
    assert (data.classes, len(data.train)) == (["0", "1"], 10_050)


def test_labels_of_the_evaluation_file_follow_those_of_training(load):
    grades = [{"text": "a", "label": 1}, {"text": "b", "label": 2}]
    for name in ("eval.csv", "eval.jsonl"):
        assert sorted(load(GRADED, grades, eval_name=name).evaluation["evaluation"].rows["labels"]) == [1.0, 2.0]
    classes = [{"text": "a", "label": "9"}]
    assert load(NUMBERED, classes, eval_name="eval.jsonl").evaluation["evaluation"].rows["labels"] == [0]


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", "", r"task.train_file=.*t.txt: expected a name that ends in .csv, .tsv, .jsonl, .json, .parquet"),
        ("t.csv", None, r"task.train_file=.*t.csv: no such file"),
        ("t.csv", "", r"has no rows"),
        ("t.csv", "text,label\n", r"has no rows"),
        ("t.jsonl", "", r"has no rows"),
        ("t.jsonl", "\n", r"has no rows"),
        ("t.json", "[]", r"has no rows"),
        ("t.parquet", [], r"has no rows"),
        ("t.csv", b"text,label\n\xff,1\n", r"t.csv, line 2: is not UTF-8 \(invalid start byte\). Save it as UTF-8"),
        (
            "t.csv",
            'text,label\n"a,1\n',
            r"t.csv, line 2: a quote has no partner, .* \(unexpected end of data\). Write .* each quote in it twice",
        ),
        ("t.csv", "text,label\na,1\na,1,2\n", r"t.csv, line 3: has 3 cells, the header has 2. Put a text"),
        ("t.csv", "text,label\na,b,1\nc,d,1\n", r"t.csv, line 2: has 3 cells, the header has 2"),
        (
            "t.jsonl",
            '{"text": "a", "label": 1}\n{"text": \n',
            r"t.jsonl, line 2: not JSON \(Expecting value, column 9\)",
        ),
        ("t.json", '[{"text": "a", "label": 1}, 5]', r"t.json, row 2: expected a JSON object"),
        ("t.parquet", b"PAR1 or not", r"cannot be read as Parquet \(Parquet magic bytes"),
        (
            "t.csv",
            "txt,label\na,1\n",
            r"'text' is missing, did you mean 'txt'\? found txt, label. Set task.text_columns",
        ),
        ("t.csv", "text;label\na;1\n", r"separated by semicolons, expected commas"),
        ("t.csv", "text,class\na,1\n", r"column 'label' is missing, .*found text, class. Set task.label_column"),
        ("t.jsonl", lines({"text": "a"}), r"column 'label' is missing"),
        ("t.csv", "text,label\na,1\n,0\n", r"line 3: column 'text' is None, expected text. Mend or remove"),
        ("t.jsonl", lines(GOOD, GOOD | {"text": None}), r"line 2: column 'text' is None, expected text"),
        ("t.jsonl", lines(GOOD, {"label": 1}), r"line 2: column 'text' is None, expected text"),
        ("t.jsonl", lines(GOOD | {"text": 1984}), r"line 1: column 'text' is 1984, expected text"),
        ("t.parquet", [GOOD | {"text": b"a"}], r"row 1: column 'text' is b'a', expected text"),
        (
            "t.csv",
            "text,label\na,1\nb,\nc,0\n",
            r"line 3: column 'label' is None, expected a class or a grade. Fill it in",
        ),
        ("t.csv", "text,label\na,1\nb, \n", r"line 3: column 'label' is ' ', expected a class"),
        ("t.jsonl", lines(GOOD, GOOD | {"label": None}), r"line 2: column 'label' is None, expected a class"),
        ("t.jsonl", lines(GOOD | {"label": [1]}), r"line 1: column 'label' is \[1\], expected a class"),
        ("t.csv", "text,label\na,1\nc,0\nb,nan\n", r"line 4: label 'nan' is no plain number, as 2 of 3 labels are"),
        ("t.csv", f"text,label\na,1.5\nb,{'9' * 40}\n", r"line 3: label '9+, expected a plain finite number"),
        (
            "t.csv",
            "text,label\na,1\na,1\n",
            r"task.train_file=.*t.csv: all 2 rows have the label '1'. Add rows of another one",
        ),
        ("t.parquet", [GOOD, GOOD | {"label": float("inf")}], r"row 2: column 'label' is inf, expected a class"),
        (
            "t.jsonl",
            lines(GOOD | {"label": "a"}, GOOD | {"label": "b"}, GOOD | {"label": float("nan")}),
            r"line 3: column 'label' is nan, expected a class or a grade. Fill it in, or remove that row",
        ),
    ],
)
def test_files_that_do_not_fit(name, content, message, load):
    with pytest.raises(UserError, match=message) as caught:
        load(content, NUMBERED, train_name=name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("train", "evaluation", "message"),
    [
        (
            NUMBERED,
            [GOOD],
            r"task.eval_file=.*eval.csv, line 2: label '0' does not occur in training, .* are 9, 10. Mend",
        ),
        (
            NAMED,
            [*NAMED, GOOD | {"label": "Sad"}],
            r"line 5: label 'Sad' does not occur in training, .* None, glad, sad",
        ),
        (
            GRADED,
            [GOOD | {"label": "high"}],
            r"task.eval_file=.*, line 2: label 'high', expected a plain finite number",
        ),
        (GRADED, "", r"task.eval_file=.*eval.csv: has no rows"),
        (
            [GOOD | {"label": i} for i in range(99)],
            [GOOD | {"label": -1}],
            r"the classes are 0, 1, .*, 7, \.\.\.\. Mend",
        ),
    ],
)
def test_evaluation_files_that_do_not_fit_training(train, evaluation, message, load):
    with pytest.raises(UserError, match=message):
        load(train, evaluation)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_file": None}, r"task=text needs task.train_file=FILE and task.eval_file=FILE"),
        ({"eval_file": None}, r"task=text needs task.train_file=FILE and task.eval_file=FILE"),
        ({"text_columns": []}, r"task.text_columns=\[\]: expected one or two columns"),
        ({"text_columns": ["a", "b", "c"]}, r"task.text_columns=\[a,b,c\]: expected one or two columns"),
        ({"label_column": "text"}, r"task.label_column=text: is one of task.text_columns too"),
        ({"metric": Metric.pearson}, r"task.metric=pearson: 'pearson' does not score classes, expected accuracy"),
    ],
)
def test_settings_that_do_not_fit(settings, message, load):
    with pytest.raises(UserError, match=message):
        load(NUMBERED, **settings)


def test_a_metric_of_classes_does_not_score_grades(load):
    with pytest.raises(
        UserError, match=r"task.metric=accuracy: 'accuracy' does not score grades, expected pearson, spear"
    ):
        load(GRADED, metric=Metric.accuracy)
