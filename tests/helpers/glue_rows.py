"""Rows of RTE's form, the files that hold them, and the task that reads them."""

import json

from meft_runner.config import GlueSettings

GOOD = {"sentence1": "a", "sentence2": "b", "label": 0, "idx": 0}


def task(folder=None, **kwargs):
    return GlueSettings(
        **{
            "name": "rte",
            "hub": "nyu-mll/glue",
            "hub_config": "rte",
            "text_columns": ["sentence1", "sentence2"],
            "classes": ["entailment", "not_entailment"],
            "metrics": ["accuracy"],
            "data_dir": folder and str(folder),
        }
        | kwargs
    )


def write(folder, *lines):
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "train.jsonl").write_text(text + "\n", encoding="utf-8")
