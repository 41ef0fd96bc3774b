"""Development rows answered by a trained run: the scores are those of its record, bit for bit."""

import json

import pytest

from meft_runner.config import PredictSettings
from meft_runner.predict.command import answer
from meft_runner.predict.rows import rows_of_split
from meft_runner.run.folder import run_directory
from meft_runner.run.lifecycle import run
from tests.helpers.folders import write_lines
from tests.helpers.trained import KINDS, METHODS, run_settings, split_of

QUICK = {
    ("rte", "full"), ("stsb", "meft1"), ("demo", "meft3"), ("text", "lora"), ("arc_easy", "meft3"),
    ("squad", "lora reversed"), ("images", "meft1"), ("lm", "full"), ("instruct", "meft1"), ("chat", "lora"),
}  # fmt: skip
CASES = [
    pytest.param(kind, method, marks=() if (kind, method) in QUICK else pytest.mark.slow)
    for kind in KINDS for method in METHODS
]  # fmt: skip


def best(record):
    """Returns the metrics of the epoch whose weights a run keeps."""
    return record.scores.best_epoch.metrics


def file_of(chosen, kind, tmp_path):
    """Returns a file of the development rows, without what tells that they are those."""
    file = tmp_path / "new.jsonl"
    if kind == "images":
        paths = sorted((tmp_path / "rows" / "test").glob("*/*.png"))
        rows = [{"image": str(path.relative_to(tmp_path)), "label": path.parent.name} for path in paths]
    elif kind in ("lm", "instruct", "chat"):
        return tmp_path / "dev.jsonl"
    else:
        rows = [each.row for each in rows_of_split(chosen.task, split_of(kind), None)]
    write_lines(file, rows)
    return file


@pytest.mark.parametrize(("kind", "method"), CASES)
@pytest.mark.thin(6)
def test_scores_of_development_rows_are_the_records(kind, method, tmp_path):
    chosen = run_settings(kind, method, tmp_path)
    record = run(chosen)
    folder = str(run_directory(chosen))
    by_split = answer(PredictSettings(run=folder, split=split_of(kind)), {})
    rows = record.data.splits[split_of(kind)].rows
    assert by_split.scores == {name: best(record)[name] for name in by_split.scores}
    of_tokens = "perplexity" in by_split.scores  # otherwise the loss is no score
    assert by_split.scores.keys() | (set() if of_tokens else {"loss"}) == best(record).keys()
    assert by_split.note is None
    assert by_split.scored == len(by_split.rows) == rows

    file = file_of(chosen, kind, tmp_path)
    by_file = answer(PredictSettings(run=folder, input=str(file)), {})
    assert by_file.scores == by_split.scores
    assert by_file.rows == by_split.rows
    json.dumps(by_file.rows, allow_nan=False)
