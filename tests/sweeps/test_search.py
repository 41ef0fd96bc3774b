"""Searches as a user types them, without training: a run scores by how near its learning rate is to 1e-3."""

import json
import math
import sys

import pytest

from meft_runner import cli
from meft_runner.config import identity, plain
from meft_runner.config.overrides import read_overrides
from meft_runner.errors import UserError
from meft_runner.records.record import finish, write_record
from meft_runner.records.schema import Scores
from meft_runner.records.search import read_searches
from meft_runner.run.folder import claimed, run_directory, why_not_to_run
from meft_runner.run.origin import with_origin
from meft_runner.sweeps import command
from meft_runner.sweeps.outcomes import Outcome
from tests.helpers import records as made
from tests.helpers.commands import call
from tests.helpers.composed import settings

EPOCHS = 3


class Runs:
    """Stands for training: notes each run, and can be told to fail or to be interrupted."""

    def __init__(self):
        self.seen, self.fails, self.interrupts = [], lambda chosen: False, lambda number: False
        self.template, self.lost = made.record(), lambda chosen: False

    def __call__(self, chosen):
        self.seen.append(chosen)
        if self.interrupts(len(self.seen)):
            raise KeyboardInterrupt
        changed = {"identity": identity(chosen), "config": plain(chosen), "status": "running"}
        record = made.changed(self.template, **changed)
        if self.fails(chosen):
            finish(record, "failed", "too fast")
            write_record(record, run_directory(chosen))
            raise UserError("too fast")
        best = 1 / (1 + abs(math.log10(chosen.training.learning_rate) + 3))
        scores = [best * (epoch + 1) / EPOCHS for epoch in range(EPOCHS)]
        below = chosen.hpo.trial.pruned_below[: EPOCHS - 1] if chosen.hpo else []
        pruned = [epoch for epoch, limit in enumerate(below) if limit is not None and scores[epoch] < limit]
        history = [{"epoch": i + 1.0, "accuracy": score} for i, score in enumerate(scores)][: min([*pruned, 9]) + 1]
        last = history[-1]["accuracy"]
        record.scores = Scores.model_validate({"metric": "accuracy", "best": last, "final": last, "history": history})
        finish(record, "pruned" if pruned else "complete", "too low" if pruned else None)
        write_record(record, run_directory(chosen))
        return made.changed(record)

    def sweep(self, overrides, output_dir):
        """Stands for Hydra and its launchers, which take longer than all else."""
        read, ended = read_overrides(overrides), []
        base = [text for text, one in zip(overrides, read, strict=True) if one.key_or_group != "hpo.trial"]
        trials = next((one.value().list for one in read if one.key_or_group == "hpo.trial"), None)
        if trials is None:
            self.followed = overrides
            return 0, []
        for trial in trials:
            chosen = settings(*(text.replace("=choice(", "=").removesuffix(")") for text in base))
            for key, value in trial["settings"].items():
                group, _, name = key.partition(".")
                setattr(getattr(chosen, group), name, getattr(value, "text", value))
            chosen = with_origin(chosen)
            chosen.hpo.trial.number, chosen.hpo.trial.pruned_below = trial["number"], trial["pruned_below"]
            ended.append(Outcome("", str(run_directory(chosen))))
            try:
                if self.lost(chosen):
                    self.seen.append(chosen)
                elif why_not_to_run(chosen, in_sweep=True) is None:
                    self(chosen)
            except UserError as error:
                ended[-1].error, ended[-1].code = str(error), 2
            except KeyboardInterrupt:
                return 1, []
        return 0, ended

    @property
    def identities(self):
        return [identity(chosen) for chosen in self.seen]


@pytest.fixture
def runs():
    return Runs()


@pytest.fixture
def search(runs, monkeypatch, capsys, tmp_path):
    """Types a search of five trials, and what is added to it."""

    def typed(*more, trials=5, output_dir=tmp_path / "runs"):
        words = ["-m", "hpo=optuna", f"hpo.trials={trials}", "task=demo", f"output_dir={output_dir}", *more]
        return call(monkeypatch, capsys, cli.meft_run, *words)

    monkeypatch.setattr(command, "_sweep", runs.sweep)
    return typed


def trials_in(folder):
    return [trial for search, _ in read_searches(folder).values() for trial in search.trials]


def test_a_search_prunes_and_prints_its_best_settings_as_a_command(runs, search, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("meft_runner.run.lifecycle.run", runs)
    code, printed, error = search("hpo.startup_trials=3", trials=12)
    assert (code, error, len(runs.seen)) == (0, "", 12)
    first = runs.seen[0]
    assert (first.training.learning_rate, first.training.batch_size, first.method.adapter_dim) == (1e-3, 16, 8)
    assert len({chosen.training.learning_rate for chosen in runs.seen}) > 8
    statuses = [record.status for _, records in read_searches(tmp_path / "runs").values() for record in records]
    assert {"complete", "pruned"} == set(statuses)
    assert f"12 trials, {statuses.count('complete')} complete, {statuses.count('pruned')} pruned" in printed

    command = next(line for line in printed.splitlines() if line.startswith("its settings:"))
    words = command.split("meft-run ")[1].split()
    assert identity(settings(*words)) == runs.identities[0]  # the method's own rate is the best one
    runs.seen.clear()
    code, printed, _ = call(monkeypatch, capsys, cli.meft_run, *words)
    assert (code, runs.seen) == (0, [])
    assert "is complete already" in printed


def test_a_search_goes_on_where_it_was_and_to_more_trials(runs, search, tmp_path):
    search("hpo.startup_trials=2", output_dir=tmp_path / "whole", trials=9)
    whole = runs.identities
    runs.seen.clear()
    runs.interrupts = lambda number: number == 4
    code, _, _ = search("hpo.startup_trials=2", "seeds=[1,2]")
    assert (code, len(runs.seen)) == (1, 4)
    runs.interrupts = lambda number: False
    assert search("hpo.startup_trials=2")[0] == 0
    assert search("hpo.startup_trials=2", trials=9)[0] == 0
    assert runs.identities == [*whole[:4], *whole[3:]]  # the one that was interrupted is begun again, and no other
    assert len(trials_in(tmp_path / "runs")) == 9
    runs.seen.clear()
    assert search("hpo.startup_trials=2", trials=9)[0] == 0
    assert runs.seen == []


def test_equal_settings_are_one_run(runs, search, tmp_path):
    space = ("hpo.space.training.learning_rate=[1e-4,1e-3]", "training.batch_size=8", "method.adapter_dim=4")
    code, printed, _ = search(*space, trials=6)
    assert (code, len(runs.seen), len(trials_in(tmp_path / "runs"))) == (0, 2, 6)
    assert printed.count("complete, accuracy") == 2


@pytest.mark.slow
def test_a_failing_trial_is_told_at_the_end_and_run_again_where_asked(runs, search):
    runs.fails = lambda chosen: len(runs.seen) == 2
    code, printed, error = search()
    assert code == 2
    assert "5 trials, 4 complete, 1 failed" in printed
    assert "1 of 5 runs failed; retry_failed=true runs them again:\n  minilm-demo-meft1-s1-" in error
    assert search()[0] == 1  # as of a sweep: it had failed before
    assert len(runs.seen) == 5
    assert search("retry_failed=true")[0] == 0
    assert len(runs.seen) == 6
    assert runs.identities[5] == runs.identities[1]


def test_a_search_whose_first_trials_all_fail_ends(runs, search):
    runs.fails = lambda chosen: True
    code, _, error = search("seeds=[1,2]", trials=20)
    assert (code, len(runs.seen)) == (2, 3)
    assert "hpo: the first 3 trials failed, so the search ends here" in error
    assert "3 runs: too fast" in error


@pytest.mark.slow
def test_searches_of_other_methods_and_spaces_stand_beside_each_other(runs, search, tmp_path):
    common = ("training.batch_size=16", "training.learning_rate=1e-3")
    assert search("method=lora,meft1", *common, "seeds=[1,2]", trials=2)[0] == 0
    found = read_searches(tmp_path / "runs")
    assert {search.method: list(search.space) for search, _ in found.values()} == {
        "lora": ["method.rank"], "meft1": ["method.adapter_dim"]
    }  # fmt: skip
    lora, _, meft1, _ = runs.identities  # all have one score, of which the first is the best
    assert runs.followed[:2] == [f"from_record='{lora}','{meft1}'", "seed=1,2"]
    assert search(*common, "hpo.space.method.adapter_dim=[8,9,log]", trials=2)[0] == 0
    assert len(read_searches(tmp_path / "runs")) == 3


def test_trials_that_are_asked_for_together(runs, search, tmp_path):
    code, _, error = search("hpo.at_once=3", "hpo.space.method.scale_1=[1/10,1/32]")
    assert (code, error, len(runs.seen)) == (0, "", 5)
    assert {chosen.method.scale_1 for chosen in runs.seen} == {"1/10", "1/32"}
    assert [chosen.hpo.trial.number for chosen in runs.seen] == [0, 1, 2, 3, 4]
    assert [trial.run for trial in trials_in(tmp_path / "runs")] == [run_directory(one).name for one in runs.seen]


def test_settings_that_do_not_go_together_are_a_trial_that_failed(runs, search):
    fixed = ("training.batch_size=16", "training.learning_rate=1e-3", "method.adapter_dim=8")
    space = ("hpo.space.method.scale_1=[1/10,1/1]", "hpo.space.method.scale_2=[1/10,1/1]")
    code, printed, error = search(*fixed, *space, "method.offload=true", "method=meft3", trials=10)
    assert (code, len(runs.seen)) == (2, 3)
    assert " failed" in printed
    assert "method.offload=true: a half with a scale of 1 keeps nothing" in error


@pytest.mark.slow
def test_a_trial_is_told_to_its_run_through_hydra(runs, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("meft_runner.run.lifecycle.run", runs)
    words = ["-m", "hpo=optuna", "hpo.trials=3", "hpo.at_once=2", f"output_dir={tmp_path}", "hpo.startup_trials=2"]
    space = ["hpo.space.method.merge=[[0.5,0.5],[0.1,1]]", "hpo.space.method.scale_1=[1/10,1/32]"]
    code, _, error = call(monkeypatch, capsys, cli.meft_run, *words, *space)
    assert (code, error) == (0, "")
    assert [chosen.hpo.trial.number for chosen in runs.seen] == [0, 1, 2]
    assert len(runs.seen[2].hpo.trial.pruned_below) == EPOCHS
    for trial, chosen in zip(trials_in(tmp_path), runs.seen, strict=True):
        assert trial.run == run_directory(chosen).name
        assert trial.settings["training.learning_rate"] == chosen.training.learning_rate
        assert trial.settings["method.merge"] == list(chosen.method.merge)
        assert trial.settings["method.scale_1"] == chosen.method.scale_1
    assert not (tmp_path / ".sweeps").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hpo=optuna"], "hpo=optuna: has an effect on a sweep alone. Start one with -m"),
        (["-m", "hpo=optun"], "hpo=optun: there is no such hpo, did you mean 'optuna'?"),
        (["-m", "hpo.trials=3"], "hpo.trials: needs hpo=optuna."),
        (["-m", "hpo=optuna", "hpo.trials=0"], "hpo.trials=0: expected 1 to 10000."),
        (["-m", "hpo=optuna", "hpo.trials=3,4"], "hpo.trials=3,4: a search has one value of it"),
        (["-m", "hpo=optuna", "hpo.trial={number:3}"], "hpo.trial={number:3}: comes from the file"),
        (["-m", "hpo=optuna", "hpo.space.method.rnk=[1,2]"], "hpo.space.method.rnk: method=meft1 has no such setting"),
        (["-m", "hpo=optuna", "hpo.space.training.batch_size=interval(1,2)"], "In hpo.space write a list"),
        (["-m", "hpo=optuna", "experiment=scores"], "experiment=scores: has settings of its own"),
        (["-m", "hpo=optuna", "from_record=x"], "from_record=x: has settings of its own"),
        (["-m", "hpo=optuna", "study=start"], "study=start: has no scores to search by"),
    ],
)
def test_mistakes(words, message, monkeypatch, capsys, tmp_path):
    code, _, error = call(monkeypatch, capsys, cli.meft_run, *words, f"output_dir={tmp_path / 'runs'}")
    assert code == 2
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_without_optuna(runs, search, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, error = search()
    assert (code, error) == (2, "error: hpo=optuna: not installed. pip install 'meft-runner[hpo]'.\n")


@pytest.mark.slow
def test_two_at_once_over_one_search(runs, search, tmp_path):
    search(trials=1)
    (folder,) = (path for path in (tmp_path / "runs" / ".searches").iterdir() if not path.name.startswith("."))
    with claimed(folder):
        code, _, error = search(trials=2)
    assert (code, len(runs.seen)) == (2, 1)
    assert "another process is running it" in error


@pytest.mark.slow
def test_a_search_whose_runs_begin_with_an_earlier_one(runs, search, tmp_path):
    earlier = settings("task=demo", "seed=2", f"output_dir={tmp_path / 'runs'}")
    runs(earlier)
    weights = run_directory(earlier) / "adapter" / "adapter_model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"trained")
    start = f"method.start_from={run_directory(earlier)}"
    code, _, error = search(start, trials=3)
    assert (code, error, len(runs.seen)) == (0, "", 4)
    assert all("method.adapter_dim" not in trial.settings for trial in trials_in(tmp_path / "runs"))
    code, _, error = search(start, "hpo.space.method.adapter_dim=[4,8]")
    assert (code, len(runs.seen)) == (2, 4)
    assert f"hpo.space.method.adapter_dim: {start}: trained with method.adapter_dim=" in error


@pytest.mark.parametrize("content", ["", "[1]"])
@pytest.mark.thin(4)
def test_a_damaged_file_of_a_search(content, runs, search, tmp_path):
    search(trials=1)
    (file,) = (tmp_path / "runs" / ".searches").glob("*/search.json")
    whole = json.loads(file.read_text())
    file.write_text(content)
    code, _, error = search(trials=2)
    assert (code, len(runs.seen)) == (2, 1)
    assert "search.json: not a search of this program" in error
    assert "to search anew" in error
    for elsewhere in ("../other/run", ".."):
        file.write_text(json.dumps(whole | {"trials": [whole["trials"][0] | {"run": elsewhere}]}))
        assert "search.json: not a search of this program (trials.0.run" in search(trials=2)[2]
    whole["trials"][0]["settings"]["method.adapter_dim"] = 7
    file.write_text(json.dumps(whole))
    assert "its trial 1 is none of this search" in search(trials=2)[2]


@pytest.mark.slow
def test_a_trial_that_another_process_leaves_unfinished_is_begun_once_more(runs, search):
    runs.lost = lambda chosen: len(runs.seen) == 0
    assert search(trials=2)[0] == 0
    assert [chosen.hpo.trial.number for chosen in runs.seen] == [0, 0, 1]
    runs.lost = lambda chosen: chosen.hpo.trial.number == 2
    code, _, error = search(trials=4)
    assert code == 1
    assert "was left unfinished by another process" in error
    assert [chosen.hpo.trial.number for chosen in runs.seen][3:] == [2, 2, 3]


def test_a_trial_is_held_against_the_run_that_its_settings_make(runs, search):
    """The folders of both searches are one, as both mean the same at the scale that they begin with."""
    lora = ("method=lora", "method.reversal=exact", "hpo.space.method.scale_1=[1/256,1/16]")
    search(*lora, trials=5)
    code, _, error = search(*lora, "method.mu=255/256", trials=5)
    assert (code, len(runs.seen)) == (2, 5)
    assert "is of other settings than this search has" in error


def test_a_trial_whose_folder_holds_another_run_is_refused(runs, search):
    search(trials=2)
    first, second = map(run_directory, runs.seen)
    (second / "record.json").replace(first / "record.json")
    code, _, error = search(trials=3)
    assert (code, len(runs.seen)) == (2, 2)
    assert f"{first}: holds the record of another run, {runs.identities[1]}. " in error


@pytest.mark.slow
@pytest.mark.parametrize("status", ["complete", "pruned"])
def test_trials_of_other_rows_do_not_stand_beside_new_ones(status, runs, search, tmp_path):
    search(trials=1)
    (path,) = (tmp_path / "runs").glob("*/record.json")
    content = json.loads(path.read_text()) | {"status": status}
    content["data"]["version"] = 99
    path.write_text(json.dumps(content))
    code, _, error = search(trials=2)
    assert (code, len(runs.seen)) == (2, 1)
    assert "made from other prompts or preprocessing" in error
    path.write_text("{")
    code, _, error = search(trials=2)
    assert (code, len(runs.seen)) == (2, 1)
    assert "record.json: not a run record of this program" in error
    if status == "pruned":  # a search that does not prune trains it anew, on the present rows
        path.write_text(json.dumps(content))
        assert search("hpo.pruner=false", trials=1)[0] == 0
        assert len(runs.seen) == 2


def test_a_search_is_not_for_torchrun(runs, search, monkeypatch):
    torchrun = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    code, _, error = search()
    assert (code, runs.seen) == (2, [])
    assert "hpo: cannot search under torchrun" in error
