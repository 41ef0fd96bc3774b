import math

from meft_runner.run.results import split_metrics


def test_metrics_of_a_split_are_not_those_of_one_whose_name_begins_alike():
    entry = {
        "eval_validation_accuracy": 0.5, "eval_validation_runtime": 3.0, "eval_validation_late_accuracy": 0.25,
        "eval_validation_late_f1": math.nan, "loss": 1.0,
    }  # fmt: skip
    splits = ["validation", "validation_late"]
    assert split_metrics(entry, splits) == {"accuracy": 0.5, "accuracy_late": 0.25, "f1_late": None}
