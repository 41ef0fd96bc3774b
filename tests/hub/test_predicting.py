"""A run made from the hub answers with the weights and rows of its own commits, whatever the hub has since."""

import torch

from meft_runner.config import PredictSettings
from meft_runner.predict.command import answer
from meft_runner.run.folder import run_directory
from meft_runner.run.lifecycle import run
from tests.helpers import hub_files
from tests.helpers.composed import settings
from tests.helpers.hub_reads import forget

SMALL = ("training.max_steps=2", "training.batch_size=4", "task.max_length=64", "task.max_eval_rows=6")


def test_a_run_answers_with_its_own_commits(hub, cache, tmp_path):
    chosen = settings("backbone=roberta", "task=rte", "method=lora", *SMALL, f"output_dir={tmp_path / 'runs'}")
    record = run(chosen)
    asked = PredictSettings(run=str(run_directory(chosen)), split="validation")
    before = answer(asked, {})
    assert before.scores == {"accuracy": record.scores.best}
    torch.manual_seed(1)
    (tmp_path / "other").mkdir()
    hub.repositories["models", "FacebookAI/roberta-large"].commit(hub_files.roberta(tmp_path / "other"))
    hub.repositories["datasets", "nyu-mll/glue"].commit(hub_files.glue_rte(8))
    forget()
    assert answer(asked, {}) == before
