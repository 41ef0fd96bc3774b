from pathlib import Path

import pytest

from meft_runner.errors import UserError
from meft_runner.run.folder import run_directory
from meft_runner.sweeps.outcomes import Outcome, SweepFolder, note
from tests.helpers.composed import settings
from tests.helpers.records import write_run


def test_what_became_of_the_runs_of_a_sweep(tmp_path):
    output_dir = tmp_path / "runs"
    chosen = [settings(f"output_dir={output_dir}", f"seed={seed}") for seed in (1, 2, 3)]
    complete, failed, busy = (str(run_directory(each)) for each in chosen)
    write_run(chosen[0])
    write_run(chosen[1], "failed", "no rows")
    with SweepFolder(output_dir) as folder:
        for number, outcome in {
            10: Outcome("seed=1", complete),
            2: Outcome("task=tre", None, "task=tre: there is no such task", 2),
            3: Outcome("seed=2", failed),  # skipped: it had failed before
            4: Outcome("seed=3", busy),  # another sweep is running it
        }.items():
            note(outcome, folder.path, number)
        assert folder.outcomes() == [
            Outcome("task=tre", None, "task=tre: there is no such task", 2),
            Outcome("seed=2", failed, "no rows", 1),
            Outcome("seed=3", busy),
            Outcome("seed=1", complete),
        ]
        assert [outcome.name for outcome in folder.outcomes()][:2] == ["task=tre", Path(failed).name]
    assert sorted(path.name for path in output_dir.iterdir()) == sorted(Path(name).name for name in (complete, failed))


def test_a_sweep_removes_its_own_folder_alone(tmp_path):
    others = tmp_path / ".sweeps" / "mine"
    others.mkdir(parents=True)
    (others / "notes.txt").write_text("kept")
    with SweepFolder(tmp_path) as folder:
        (folder.path / "job").mkdir()
        (folder.path / "job" / "log").write_text("x")
    assert not folder.path.exists()
    assert (others / "notes.txt").read_text() == "kept"


def test_folders_that_were_there_stay_although_they_are_empty(tmp_path):
    (tmp_path / "runs" / ".sweeps").mkdir(parents=True)
    with SweepFolder(tmp_path / "runs"):
        pass
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [".sweeps"]
    with SweepFolder(tmp_path / "new" / "runs"):
        pass
    assert not (tmp_path / "new").exists()


def test_the_folder_of_a_sweep_with_failures_keeps_the_launchers_logs(tmp_path):
    with SweepFolder(tmp_path) as folder:
        folder.kept = True
    assert folder.path.is_dir()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"output_dir=.*file/runs: the sweep's folder cannot be written there \(Not a"):
        SweepFolder(tmp_path / "file" / "runs").__enter__()
