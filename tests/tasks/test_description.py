import pytest

from meft_runner.config import DemoSettings
from meft_runner.errors import UserError
from meft_runner.tasks.description import check_evaluation_labels, check_training_labels, describe, labels_text

TASK = DemoSettings("demo", max_train_rows=2, max_eval_rows=3)


def rows(*labels):
    return [{"text": "a", "label": label} for label in labels]


def numbered(first, end):
    return [{"number": number} for number in range(first, end)]


@pytest.mark.parametrize(
    ("train", "development", "said"),
    [
        (numbered(0, 10), numbered(0, 10), "10 of 10 validation rows are training rows too"),
        (numbered(0, 10), numbered(4, 14), "6 of 10 validation rows are training rows too"),
        (numbered(0, 100), numbered(95, 104), "5 of 9 validation rows are training rows too"),
        (numbered(0, 3), numbered(0, 100), "3 of 100 validation rows are training rows too"),
        (numbered(0, 10), numbered(5, 15), None),
        (numbered(0, 10), numbered(10, 20), None),
    ],
)
def test_rows_for_training_and_scoring_at_once_are_told(train, development, said, caplog):
    describe(TASK, "here", {"train": train, "validation": development})
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ([said] if said else [])


def test_what_the_record_says():
    description = describe(TASK, "here", {"train": rows(0, 1), "test": rows(1)}, revision="abc")
    assert (description["kind"], description["version"], description["source"]) == ("demo", 1, "here")
    assert (description["revision"], description["synthetic"], description["labels"]) == ("abc", False, None)
    assert {split: part["rows"] for split, part in description["splits"].items()} == {"train": 2, "test": 1}


@pytest.mark.parametrize(
    ("classes", "labels", "text"),
    [
        (["bad", "good"], [1, 0], "classes bad, good"),
        ([str(number) for number in range(10)], [1, 0], "classes 0, 1, 2, 3, 4, 5, 6, 7, ... (10)"),
        ([], [4.5, 0.5, 2], "regression over 0.5 to 4.5"),
    ],
)
def test_labels_in_words(classes, labels, text):
    assert labels_text(classes, rows(*labels)) == text


@pytest.mark.parametrize(
    ("classes", "labels", "message"),
    [
        (["bad", "good"], [1, 1], "file: all 2 rows have the label 'good'. Raise task.max_train_rows=2, or shuffle"),
        (["bad", "good"], [1, 1, 1], "file: all 3 rows have the label 'good'. Add rows of another one"),
        ([], [2.5, 2.5], "file: all 2 rows have the label '2.5'. Raise task.max_train_rows=2"),
        (["bad", "good", "bad"], [1, 0], "task.classes: 'bad' is given twice"),
    ],
)
def test_training_labels_that_teach_nothing_are_refused(classes, labels, message):
    with pytest.raises(UserError) as caught:
        check_training_labels(TASK, classes, rows(*labels), "file")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("classes", "labels", "said"),
    [
        (["a", "b", "c"], [0, 1, 0], ["file: no row has the class c. Raise task.max_eval_rows=3, or shuffle the rows"]),
        (["a", "b", "c"], [0, 0], ["file: no row has the class b, c."]),
        ([], [1.5, 1.5], ["file: all 2 grades are the same, so that no correlation is defined."]),
        (["a", "b"], [0, 1, 0], []),
        ([], [1.5, 2.5], []),
    ],
)
def test_classes_without_rows_to_score_are_told(classes, labels, said, caplog):
    check_evaluation_labels(TASK, classes, rows(*labels), "file")
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == len(said)
    assert all(line.startswith(start) for line, start in zip(told, said, strict=True))


@pytest.mark.parametrize(
    "names", [["good", "Good"], ["good", "good "], ["very  good", "very good"], ["caf\u00e9", "cafe\u0301"]]
)
def test_two_spellings_of_a_class_are_told(names, caplog):
    check_training_labels(TASK, names, rows(0, 1), "file")
    assert f"classes '{names[0]}' and '{names[1]}' differ only in spelling, and count as two" in caplog.text


def test_names_of_classes_say_nothing_to_a_terminal():
    assert labels_text(["a\x1b[31m", "schön"], []) == r"classes a\x1b[31m, schön"
