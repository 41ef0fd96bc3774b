from hydra.core.override_parser.overrides_parser import OverridesParser

from meft_runner.records.record import write_record
from meft_runner.run.folder import run_directory
from meft_runner.sweeps.outcomes import Outcome
from meft_runner.sweeps.seeds import complete_records, seed_arguments
from tests.helpers import records as made
from tests.helpers.composed import settings


def test_records_of_a_sweep_are_those_of_its_own_complete_runs(tmp_path):
    chosen = [settings(f"output_dir={tmp_path}", f"seed={seed}") for seed in (1, 2, 3)]
    for each in chosen[:2]:
        write_record(made.record(0.5, f"seed={each.seed}"), run_directory(each))
    made.write_run(chosen[2], "running")  # by a process that has died: nothing to wait for
    ended = [Outcome("", str(run_directory(each))) for each in (chosen[1], chosen[2], chosen[1])]
    assert [record.config.seed for record in complete_records([*ended, Outcome("task=tre", None, "x")])] == [2]


def test_the_seeds_of_a_sweep_are_started_as_it_was(tmp_path):
    chosen = settings(f"output_dir={tmp_path}")
    record = made.record(0.5)
    write_record(record, run_directory(chosen))
    typed = ["experiment=x", "launcher=joblib", "hydra.launcher.n_jobs=4", "task=rte", "logger=wandb"]
    overrides = OverridesParser.create().parse_overrides(typed)
    assert seed_arguments([Outcome("", str(run_directory(chosen)))], [1, 2], tmp_path, overrides) == [
        f"from_record='{record.identity}'", "seed=1,2", f"output_dir='{tmp_path}'",
        "launcher=joblib", "hydra.launcher.n_jobs=4", "logger=wandb",
    ]  # fmt: skip


def test_a_sweep_without_a_complete_run_has_no_seeds(tmp_path):
    assert seed_arguments([Outcome("task=tre", None, "no such task", 2)], [1, 2], tmp_path, []) == []
