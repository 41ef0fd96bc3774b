"""A trial of a search that is pruned: what it leaves, and who trains it again."""

import pytest

from meft_runner.errors import UserError
from meft_runner.records.record import read_record
from meft_runner.run import lifecycle as experiment
from meft_runner.run.finished import complete_record
from meft_runner.run.folder import run_directory, why_not_to_run
from tests.helpers.composed import tiny


def trial(rte_folder, tmp_path, pruned_below, *overrides):
    chosen = tiny(rte_folder, tmp_path, "training.epochs=3", "hpo=optuna", *overrides)
    chosen.hpo.trial.number, chosen.hpo.trial.pruned_below = 3, pruned_below
    return chosen


def test_a_trial_below_the_limit_ends_after_that_epoch(rte_folder, tmp_path):
    chosen = trial(rte_folder, tmp_path, [None, 1.01, 0.0])
    record = experiment.run(chosen)
    assert record.status == "pruned"
    assert record.error == f"best score {record.scores.best:.4f} after epoch 2, complete trials had 1.0100 (median)"
    assert len(record.scores.history) == 2
    directory = run_directory(chosen)
    assert [path.name for path in directory.iterdir()] == ["record.json"]
    assert why_not_to_run(chosen, in_sweep=True) == f"was pruned before: {record.error}."
    with pytest.raises(UserError, match=r"is pruned \(best .*\), not complete. Start it again without hpo="):
        complete_record(directory)

    alone = tiny(rte_folder, tmp_path, "training.epochs=3")
    model = rte_folder.parent / "model"
    model.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"backbone.path="):
        experiment.run(alone)
    assert read_record(directory) == record  # a run that was not opened leaves the search its trial
    (tmp_path / "elsewhere").rename(model)
    assert run_directory(alone) == directory  # a trial's number and limits are no part of what a run is
    assert why_not_to_run(alone, in_sweep=True) is None
    assert experiment.run(alone).status == "complete"
    assert experiment.run(chosen).status == "complete"


@pytest.mark.parametrize("pruned_below", [[], [None, None, 1.01], [0.0, 0.0]])
@pytest.mark.slow
def test_a_trial_that_is_not_below_a_limit_before_its_last_epoch_is_complete(pruned_below, rte_folder, tmp_path):
    record = experiment.run(trial(rte_folder, tmp_path, pruned_below, "training.max_steps=15"))
    assert record.status == "complete"
    assert len(record.scores.history) == 3
