import numpy as np
import pytest
from transformers import EvalPrediction

from meft_runner.tasks import load_task
from meft_runner.tasks.classification import Classification
from meft_runner.tasks.data import metric_suffix
from meft_runner.tasks.description import fingerprint
from tests.helpers.folders import plain_tokenizer
from tests.helpers.glue_rows import GOOD, task, write


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, GOOD, GOOD | {"label": 1, "sentence1": "word " * 50})
    for split in ("validation", "validation_matched", "validation_mismatched"):
        (tmp_path / f"{split}.jsonl").write_text((tmp_path / "train.jsonl").read_text())
    return tmp_path


def test_pairs_are_tokenised_and_cut(folder, tokenizer):
    data = load_task(task(folder, max_length=20), tokenizer)
    assert data.train["length"] == [5, 20]
    assert tokenizer.decode(data.train[0]["input_ids"]) == "[CLS] a [SEP] b [SEP]"
    assert data.train["labels"] == [0, 1]
    assert data.description["splits"]["train"]["rows"] == 2


def test_rows_that_are_cut_are_counted_and_told(folder, tokenizer):
    data = load_task(task(folder, max_length=20, eval_splits=["validation_matched"]), tokenizer)
    splits = data.description["splits"]
    assert {name: (part["rows"], part["cut"]) for name, part in splits.items()} == {
        "train": (2, 1), "validation_matched": (2, 1)
    }  # fmt: skip
    assert data.description["notes"] == [
        f"1 of 2 rows of {split} cut to task.max_length=20 tokens" for split in ("train", "validation_matched")
    ]


def test_rows_that_just_fit_are_not_cut(folder, tokenizer):
    """[CLS], 50 words, [SEP], b, [SEP]."""
    description = load_task(task(folder, max_length=54), tokenizer).description
    assert ([part["cut"] for part in description["splits"].values()], description["notes"]) == ([0, 0], [])
    assert load_task(task(folder, max_length=53), tokenizer).description["splits"]["train"]["cut"] == 1


def test_an_empty_text_is_the_end_of_one_where_a_tokenizer_marks_nothing():
    form = Classification(["text"], ["no", "yes"], ["accuracy"], 20)
    rows = form.tokenised(plain_tokenizer(eos_token="</s>", pad_token="<s>"), [{"text": ""}, {"text": "ab"}])
    assert rows["input_ids"][0] == [1]
    assert rows["attention_mask"][0] == [1]
    assert rows["length"] == [1, 2]


def test_development_rows_are_predicted_longest_first(folder, tokenizer):
    data = load_task(task(folder), tokenizer)
    assert data.evaluation["validation"].rows["length"] == [54, 5]
    assert data.evaluation["validation"].rows["labels"] == [1, 0]


def test_batches_are_padded_to_the_longest_or_to_the_maximum(folder, tokenizer):
    data = load_task(task(folder, max_length=20), tokenizer)
    rows = data.train.remove_columns("length").to_list()[:1]
    assert data.collate(rows)["input_ids"].shape == (1, 5)
    assert data.collate(rows, to_maximum=True)["input_ids"].shape == (1, 20)


def test_several_development_splits(folder, tokenizer):
    data = load_task(task(folder, eval_splits=["validation_matched", "validation_mismatched"]), tokenizer)
    assert list(data.evaluation) == ["validation_matched", "validation_mismatched"]
    assert [metric_suffix(list(data.evaluation), split) for split in data.evaluation] == ["", "_mismatched"]
    assert [metric_suffix(["test", "validation"], split) for split in ("test", "validation")] == ["", "_validation"]


@pytest.mark.parametrize(
    ("splits", "suffixes"),
    [
        (["a", "validation_b", "b"], ["", "_validation_b", "_b"]),
        (["b", "validation_b", "c"], ["", "_b", "_c"]),
        (
            ["a", "b", "validation_b", "validation_validation_b"],
            ["", "_b", "_validation_b", "_validation_validation_b"],
        ),
    ],
)
def test_no_two_development_splits_name_their_metrics_alike(splits, suffixes):
    assert [metric_suffix(splits, split) for split in splits] == suffixes


def test_classes_are_scored_by_the_largest_logit(folder, tokenizer):
    data = load_task(task(folder, metrics=["accuracy", "f1"]), tokenizer)
    prediction = EvalPrediction(np.array([[1.0, 2.0], [3.0, 0.0]]), np.array([1, 1]))
    assert data.evaluation["validation"].score(prediction) == {"accuracy": 0.5, "f1": pytest.approx(2 / 3)}
    assert data.metric == "accuracy"


def test_regression_is_scored_by_its_value(folder, tokenizer):
    data = load_task(task(folder, classes=[], metrics=["pearson", "spearman"]), tokenizer)
    prediction = EvalPrediction(np.array([[1.0], [2.0], [4.0]]), np.array([0.5, 1.0, 2.0]))
    assert data.evaluation["validation"].score(prediction) == {
        "pearson": pytest.approx(1.0),
        "spearman": pytest.approx(1.0),
    }
    assert data.train["labels"] == [0.0, 1.0]


def test_the_fingerprint_follows_content_and_order():
    one, two = GOOD, GOOD | {"label": 1}
    assert fingerprint([one, two]) == fingerprint([dict(one), dict(two)])
    assert len({fingerprint([one, two]), fingerprint([two, one]), fingerprint([one])}) == 3
