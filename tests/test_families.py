"""One run of each family on each kind of task, from a local folder to the record."""

import json

import pytest

from meft_runner.run import lifecycle as experiment
from tests.helpers.composed import settings
from tests.helpers.folders import make_image_rows, make_model_folder, make_squad_rows

METHODS = ("full", "lora", "ia3", "meft1", "meft2", "meft3")
QUICK = ("training.epochs=1", "training.batch_size=4", "training.eval_batch_size=4")


def mostly_slow(methods, *quick):
    """Returns methods as parameters, of which a few are in the default run."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in methods]


def slow(*values):
    """Returns a parameter of the longer tests."""
    return pytest.param(*values, marks=pytest.mark.slow)


def run(tmp_path, backbone, kind, *overrides):
    """Runs and returns the settings and the record."""
    model = make_model_folder(tmp_path / "model", kind)
    where = (f"backbone={backbone}", f"backbone.path={model}", f"output_dir={tmp_path / 'runs'}")
    chosen = settings(*where, *QUICK, *overrides)
    return chosen, experiment.run(chosen)


def check(record, method, metric):
    assert record.status == "complete"
    assert record.scores.metric == metric
    assert record.scores.history[0].train_loss > 0
    if method.startswith("meft"):
        assert record.reversal.checked_steps > 0
        assert record.reversal.mismatches == 0


@pytest.mark.parametrize("method", mostly_slow(METHODS, "lora", "meft3"))
@pytest.mark.parametrize(("backbone", "kind"), [("bart", "bart"), ("opt_125m", "opt"), ("opt_125m", "opt-postln"),
                                                ("deberta_v3_base", "deberta"), ("smollm2_135m", "llama"),
                                                slow("qwen3_0b6", "qwen3"), slow("mistral_7b", "qwen2")])  # fmt: skip
@pytest.mark.thin(4)
def test_classification(tmp_path, rte_folder, backbone, kind, method):
    task = ("task=rte", f"task.data_dir={rte_folder}", "task.max_length=100", f"method={method}")
    _, record = run(tmp_path, backbone, kind, *task, "training.max_steps=2")
    check(record, method, "accuracy")


@pytest.mark.parametrize("method", mostly_slow(("full", "lora", "meft1", "meft3"), "meft1"))
@pytest.mark.parametrize(("backbone", "kind"), [("bart_base", "bart-span"), ("roberta", "roberta"),
                                                ("deberta_v3_large", "deberta-span")])  # fmt: skip
@pytest.mark.thin(2)
def test_squad(tmp_path, backbone, kind, method):
    rows = make_squad_rows(tmp_path / "rows")
    windows = ("task.max_length=90", "task.stride=20", f"method={method}")
    chosen, record = run(tmp_path, backbone, kind, "task=squad", f"task.data_dir={rows}", *windows)
    check(record, method, "f1")
    assert record.scores.history[0].metrics.keys() >= {"f1", "exact_match", "loss"}
    answers = json.loads((experiment.run_directory(chosen) / "predictions" / "predictions_validation.json").read_text())
    assert list(answers) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("method", mostly_slow(METHODS, "ia3", "meft2"))
@pytest.mark.parametrize("kind", ["vit", "deit"])
@pytest.mark.thin(4)
def test_images(tmp_path, kind, method):
    rows = make_image_rows(tmp_path / "rows")
    _, record = run(tmp_path, "vit", kind, "task=images", f"task.data_dir={rows}", f"method={method}")
    check(record, method, "accuracy")
    assert record.data.plain()["classes"] == ["dark", "light"]
    # sixteen patches, the class token and, in a DeiT, the distillation token
    assert record.memory.length == {"vit": 17, "deit": 18}[kind]
    assert record.timing.tokens_per_second is None


def test_test_set_predictions_of_glue(tmp_path, rte_folder):
    rows = [json.loads(line) for line in (rte_folder / "validation.jsonl").read_text().splitlines()]
    unlabelled = [{key: row[key] for key in ("sentence1", "sentence2")} for row in rows]
    (rte_folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in unlabelled))
    task = ("task=rte", f"task.data_dir={rte_folder}", "task.max_length=100", "task.predict_test=true")
    chosen, _ = run(tmp_path, "bart", "bart", *task)
    lines = (experiment.run_directory(chosen) / "predictions" / "RTE.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction"
    assert len(lines) == 21
    assert {line.split("\t")[1] for line in lines[1:]} <= {"entailment", "not_entailment"}
