"""Sweeps as a user types them, without training."""

import pytest

from meft_runner import cli
from meft_runner.config import identity, plain
from meft_runner.errors import UserError
from meft_runner.records.record import write_record
from meft_runner.run.folder import run_directory
from meft_runner.sweeps import cell, command
from meft_runner.sweeps.asked import for_the_sweeper, read_arguments
from tests.helpers import records as made
from tests.helpers.commands import call


@pytest.fixture
def trained(monkeypatch):
    """Runs train nothing, and score as their learning rate is; returns method, learning rate and seed of each."""
    found, template = [], made.record()

    def train(chosen):
        rate = chosen.training.learning_rate
        found.append((chosen.method.name, rate, chosen.seed))
        if rate > 1:
            raise UserError("too fast")
        scores = template.scores.plain() | {"best": rate}
        record = made.changed(template, identity=identity(chosen), config=plain(chosen), scores=scores,
                              method_version=chosen.method.version)  # fmt: skip
        write_record(record, run_directory(chosen))
        return record

    monkeypatch.setattr("meft_runner.run.lifecycle.run", train)
    return found


@pytest.mark.slow
def test_a_sweep_ends_with_the_best_of_its_own_settings_over_seeds(trained, monkeypatch, capsys, tmp_path):
    common = ["-m", f"output_dir={tmp_path}"]
    lora = [*common, "method=lora"]
    call(monkeypatch, capsys, cli.meft_run, *lora, "training.learning_rate=0.1,0.2", "seeds=[1,2,3]")
    assert trained == [("lora", 0.1, 1), ("lora", 0.2, 1), ("lora", 0.2, 2), ("lora", 0.2, 3)]
    trained.clear()
    call(monkeypatch, capsys, cli.meft_run, *common, "method=ia3", "training.learning_rate=0.5,0.4", "seeds=[1,2]")
    assert trained == [("ia3", 0.5, 1), ("ia3", 0.4, 1), ("ia3", 0.5, 2)]  # and nothing of LoRA's
    trained.clear()
    wider = [*lora, "training.learning_rate=0.1,0.2,0.3", "seeds=[1,2]"]
    code, printed, error = call(monkeypatch, capsys, cli.meft_run, *wider)
    assert trained == [("lora", 0.3, 1), ("lora", 0.3, 2)]  # better than what has more seeds
    assert (code, error) == (0, "")
    assert printed.count("is complete already") == 3
    assert not list(tmp_path.glob(".sweeps*"))


def test_each_folder_of_a_sweep_has_seeds_of_its_best(trained, monkeypatch, capsys, tmp_path):
    folders = f"output_dir={tmp_path / 'a'},{tmp_path / 'b'}"
    code, _, error = call(monkeypatch, capsys, cli.meft_run, "-m", folders, "method=lora", "seeds=[1,2]")
    assert (code, error, len(trained)) == (0, "", 4)
    assert [len(list((tmp_path / name).glob("*/record.json"))) for name in "ab"] == [2, 2]


@pytest.mark.slow
def test_a_sweep_tells_of_its_own_failures_alone(trained, monkeypatch, capsys, tmp_path):
    broken = ["-m", "training.learning_rate=0.1,2", "method=lora", f"output_dir={tmp_path}"]
    code, _, error = call(monkeypatch, capsys, cli.meft_run, *broken, "seeds=[1,2]")
    assert code == 2
    assert "1 of 2 runs failed; retry_failed=true runs them again:\n  minilm-demo-lora-s1-" in error
    assert error.count("too fast") == 2  # as it happened, and at the end
    assert trained == [("lora", 0.1, 1), ("lora", 2.0, 1), ("lora", 0.1, 2)]
    code, _, error = call(monkeypatch, capsys, cli.meft_run, "-m", "seed=1,2", f"output_dir={tmp_path}")
    assert (code, error) == (0, "")


def test_a_mistake_in_one_run_of_a_sweep_is_told_at_its_end(trained, monkeypatch, capsys, tmp_path):
    arguments = ["-m", "task=demo,piqa", "method=lora", f"output_dir={tmp_path}"]
    code, _, error = call(monkeypatch, capsys, cli.meft_run, *arguments)
    assert (code, len(trained)) == (2, 1)
    assert "1 of 2 runs failed" in error
    assert error.count("backbone=minilm") == 2


@pytest.mark.slow
def test_runs_that_fail_for_one_reason_are_told_in_one_line(trained, monkeypatch, capsys, tmp_path):
    broken = ["-m", "training.learning_rate=2,3", "method=lora,full", "seed=1", f"output_dir={tmp_path}"]
    code, _, error = call(monkeypatch, capsys, cli.meft_run, *broken)
    assert code == 2
    assert error.endswith("4 of 4 runs failed; retry_failed=true runs them again:\n  4 runs: too fast\n")


def test_nothing_follows_an_interrupted_sweep(monkeypatch, capsys, tmp_path):
    def interrupted(settings, in_sweep):
        raise KeyboardInterrupt

    monkeypatch.setattr(cell, "run_one", interrupted)
    monkeypatch.setattr(command, "seed_arguments", lambda *args: pytest.fail("went on with the seeds"))
    code, _, error = call(monkeypatch, capsys, cli.meft_run, "-m", "seed=1,2", "seeds=[1,2]", f"output_dir={tmp_path}")
    assert code == 1
    assert "interrupted: the same command goes on" in error
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("typed", ["hydra.sweep.dir={}", "hydra.run.dir={}", "hydra.sweep.subdir=x hydra.sweep.dir={}"])
@pytest.mark.thin(3)
def test_a_folder_of_the_user_is_never_removed(typed, trained, monkeypatch, capsys, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    runs = tmp_path / "runs"
    call(monkeypatch, capsys, cli.meft_run, "-m", "seed=1,2", f"output_dir={runs}")
    before = sorted(runs.iterdir())
    for folder in (tmp_path / "mine", runs):
        call(monkeypatch, capsys, cli.meft_run, "-m", "seed=1", f"output_dir={runs}", *typed.format(folder).split())
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert sorted(runs.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-dir", "/tmp"], "--config-dir: settings come from the program's own conf/"),
        (["--config-path=/tmp"], "--config-path: settings come from"),
        (["--config-name", "x"], "--config-name: settings come from"),
        (["--experimental-rerun", "x.pickle"], "--experimental-rerun: settings come from"),
        (["--verbos"], "--verbos: no such option"),
        (["--cfg", "jobs"], "argument --cfg/-c: invalid choice: 'jobs'"),
        (["-m", "experiment=scores,init_lora"], "expected one experiment at a time"),
        (["-m", "launcher=joblib,slurm"], "expected one launcher at a time"),
        (["seeds=[1,2]"], "seeds=[1,2]: has an effect on a sweep alone"),
    ],
)
def test_mistakes_of_a_command_as_a_whole(arguments, message, trained, monkeypatch, capsys, tmp_path):
    code, _, error = call(monkeypatch, capsys, cli.meft_run, *arguments, f"output_dir={tmp_path}")
    assert (code, trained) == (2, [])
    assert message in error
    assert len(error.splitlines()) == 1


def test_flags_may_stand_anywhere(trained, monkeypatch, capsys, tmp_path):
    call(monkeypatch, capsys, cli.meft_run, "seed=1,2", "-m", "method=lora", f"output_dir={tmp_path}")
    assert [seed for _, _, seed in trained] == [1, 2]


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        ("method.rank=4", "method.rank=choice(4)"),
        ("backbone.merge={meft1:[0.1,1]}", "backbone.merge=choice({meft1:[0.1,1]})"),
        ("task.text_columns=[a,b]", "task.text_columns=choice([a,b])"),
        ("task.train_file='a b,c(1).csv'", "task.train_file=choice('a b,c(1).csv')"),
        ("method.rank=4,8", "method.rank=4,8"),
        ("training.epochs=3", "training.epochs=3"),
        ("method=lora", "method=lora"),
    ],
)
def test_settings_of_a_group_are_part_of_a_sweep(typed, given):
    assert for_the_sweeper(read_arguments([typed]).overrides) == [given]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["launcher=slurm"], 'launcher=slurm: its runs could not be started, or one was lost (Could not detect "srun"'),
        (["launcher=joblib", "hydra.launcher.n_jobs=0"], "(n_jobs == 0 in Parallel has no meaning)"),
        (["launcher=joblib", "hydra.launcher.pre_dispatch=x"], "('x' is not a valid or supported arithmetic"),
    ],
)
@pytest.mark.thin(2)
def test_a_launcher_that_cannot_start_its_runs(arguments, message, trained, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", "")
    code, _, error = call(monkeypatch, capsys, cli.meft_run, "-m", "seed=1", *arguments, f"output_dir={tmp_path}")
    assert (code, trained) == (2, [])
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.rglob("*"))
