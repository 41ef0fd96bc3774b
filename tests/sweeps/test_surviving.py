"""Sweeps survive: killed, interrupted, run twice at once."""

import json
import random
import signal
import time

import pytest

from tests.helpers import processes as sweeps

ROWS = 160


@pytest.fixture
def arguments(tmp_path):
    rows = tmp_path / "rows"
    rows.mkdir()
    for split, count in (("train", ROWS), ("validation", 20)):
        made = [
            {
                "sentence1": f"{i} dogs were found by {i % 7}.",
                "sentence2": "A dog." if i % 3 else "A cat.",
                "label": i % 2,
            }
            for i in range(count)
        ]
        (rows / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    return sweeps.make_folders(tmp_path, rows)


@pytest.mark.slow
def test_a_sweep_killed_five_times_ends_as_if_it_had_not_been(arguments, tmp_path):
    sweeps.finish(sweeps.start(arguments, tmp_path / "whole"))
    rng, ended = random.Random(0), {}
    for _ in range(5):
        process = sweeps.start(arguments, tmp_path / "cut")
        wait = rng.uniform(6, 16)
        assert sweeps.kill_after(process, wait), "ended before it could be killed five times: make the runs longer"
        found = sweeps.records(tmp_path / "cut")
        assert ended.items() <= found.items()  # with their times: none was run to its end twice
        ended = {name: record for name, record in found.items() if record["status"] == "complete"}
    output = sweeps.finish(sweeps.start(arguments, tmp_path / "cut"))
    assert output.count("is complete already") == len(ended)
    assert ended.items() <= sweeps.records(tmp_path / "cut").items()
    expected = sweeps.results(tmp_path / "whole")
    assert sweeps.results(tmp_path / "cut") == expected
    assert len(expected) == sweeps.CELLS


@pytest.mark.slow
def test_a_search_killed_twice_ends_as_if_it_had_not_been(arguments, tmp_path):
    search = [text for text in arguments if not text.startswith(("method", "seed", "training.learning_rate"))]
    search += ["hpo=optuna", "hpo.trials=6", "hpo.startup_trials=2", "hpo.warmup_epochs=0", "method=lora"]
    sweeps.finish(sweeps.start(search, tmp_path / "whole"))
    for _ in range(2):
        process = sweeps.start(search, tmp_path / "cut")
        assert sweeps.kill_after(process, 12), "ended before it could be killed: make the runs longer"
    sweeps.finish(sweeps.start(search, tmp_path / "cut"))
    cut, whole = (sweeps.records(tmp_path / name) for name in ("cut", "whole"))
    assert {name: (one["status"], one["scores"]) for name, one in cut.items()} == {
        name: (one["status"], one["scores"]) for name, one in whole.items()
    }
    trials = [path.read_text() for path in sorted(tmp_path.glob("*/.searches/*/search.json"))]
    assert len(trials) == 2
    assert trials[0] == trials[1]


@pytest.mark.slow
def test_two_sweeps_at_once_share_the_runs(arguments, tmp_path):
    arguments = sweeps.changed(arguments, "training.max_steps=2")
    for attempt in range(10):
        both = [sweeps.start(arguments, tmp_path / f"{attempt}") for _ in range(2)]
        outputs = [sweeps.finish(process) for process in both]
        assert len(sweeps.results(tmp_path / f"{attempt}")) == sweeps.CELLS
        trained = sum(output.count("epoch 1/") for output in outputs)
        assert trained == sweeps.CELLS  # none was run twice


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "local"])
def test_launchers_run_the_same_sweep(launcher, arguments, tmp_path):
    arguments = sweeps.changed(arguments, "training.max_steps=2")
    sweeps.finish(sweeps.start(arguments, tmp_path / "basic"))
    sweeps.finish(sweeps.start([*arguments, f"launcher={launcher}"], tmp_path / launcher))
    assert sweeps.results(tmp_path / launcher) == sweeps.results(tmp_path / "basic")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("launcher", ["joblib", "local"])
def test_a_signal_to_a_sweep_stops_its_processes_after_checkpoints(launcher, number, arguments, tmp_path):
    arguments = sweeps.changed(
        arguments, "method=lora", "training.learning_rate=1e-3", "training.batch_size=1"
    )  # long epochs
    process = sweeps.start([*arguments, f"launcher={launcher}"], tmp_path / "cut")
    while len(list((tmp_path / "cut").glob(f"*/checkpoint-{ROWS}/trainer_state.json"))) < 2:
        time.sleep(0.1)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "interrupted: the same command goes on" in output
    saved = [int(path.name.rpartition("-")[2]) for path in (tmp_path / "cut").glob("*/checkpoint-*")]
    assert len([step for step in saved if step % ROWS]) == 2
    assert not list((tmp_path / "cut").glob("*/adapter"))
    sweeps.finish(sweeps.start(arguments, tmp_path / "cut"))
    sweeps.finish(sweeps.start(arguments, tmp_path / "whole"))
    cut, whole = (sweeps.results(tmp_path / name) for name in ("cut", "whole"))
    assert cut.keys() == whole.keys()
    assert all(cut[name][1] == whole[name][1] for name in whole)  # weights; losses were summed in two parts


@pytest.mark.slow
def test_two_processes_train_one_model_and_one_of_them_writes(arguments, tmp_path):
    single = [text.replace("method=lora,meft1", "method=meft1").split(",")[0] for text in arguments[1:]]
    together = sweeps.changed(single, "training.batch_size=4", "training.max_steps=4")
    output = sweeps.finish(sweeps.start(together, tmp_path / "two", ("torch.distributed.run", "--nproc_per_node=2")))
    assert output.count("best accuracy") == 1
    sweeps.finish(sweeps.start(sweeps.changed(single, "training.max_steps=4"), tmp_path / "one"))
    (two,), (one,) = (sweeps.records(tmp_path / name).values() for name in ("two", "one"))
    assert two["status"] == one["status"] == "complete"
    assert two["reversal"]["mismatches"] == 0
    losses = [record["scores"]["history"][0]["loss"] for record in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)  # other dropout draws, the same rows a step


@pytest.mark.slow
def test_a_finished_sweep_trains_nothing_and_changes_no_file(arguments, tmp_path):
    arguments = sweeps.changed(arguments, "training.max_steps=1", "seed=1", "training.learning_rate=1e-3")
    sweeps.finish(sweeps.start(arguments, tmp_path / "runs"))
    before = sweeps.files(tmp_path / "runs")
    output = sweeps.finish(sweeps.start(arguments, tmp_path / "runs"))
    assert output.count("is complete already") == 2
    assert sweeps.files(tmp_path / "runs") == before


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], ["launcher=joblib"], ["launcher=local"]])
def test_a_failing_run_leaves_the_others_and_is_told_at_the_end(launcher, arguments, tmp_path):
    arguments = sweeps.changed(arguments, "training.max_steps=1", "seed=1", "training.learning_rate=1e-3")
    broken = [*arguments, "task.train_split=train,tarin", *launcher]
    process = sweeps.start(broken, tmp_path / "runs")
    output, _ = process.communicate()
    assert process.returncode == 2, output
    told = output[output.index("2 of 4 runs failed") :]
    assert told.count("tarin.jsonl is missing") == 1  # for both
    assert "\n  2 runs: " in told
    assert sum(record["status"] == "complete" for record in sweeps.records(tmp_path / "runs").values()) == 2
    again = sweeps.start(broken, tmp_path / "runs")
    output, _ = again.communicate()
    assert again.returncode == 1
    assert "2 of 4 runs failed" in output
    retried = sweeps.start([*broken, "retry_failed=true"], tmp_path / "runs")
    output, _ = retried.communicate()
    assert retried.returncode == 2
    assert "failed before" not in output
