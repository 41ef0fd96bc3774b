import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from meft_runner.config import METHODS, identity, plain, resolvers
from meft_runner.errors import UserError
from meft_runner.records.record import finish, new_record, write_record
from meft_runner.run.folder import run_directory
from meft_runner.sweeps import outcomes as sweep
from tests.helpers import records as made
from tests.helpers.composed import settings

TASKS = {"rte": "minilm", "demo": "minilm", "text": "minilm", "piqa": "opt", "squad": "minilm", "svhn": "vit"}


def write_run(chosen, status="complete", error=None):
    record = new_record(identity(chosen), plain(chosen), "cpu")
    finish(record, status, error)
    write_record(record, run_directory(chosen))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", TASKS)
def test_settings_come_back_from_a_record(task, method):
    chosen = settings(f"backbone={TASKS[task]}", f"task={task}", f"method={method}", "training.precision=bf16")
    assert sweep.from_plain(plain(chosen)) == chosen


def test_a_setting_that_an_older_record_lacks_has_its_default():
    content = plain(settings("method=lora"))
    del content["method"]["init_noise"], content["backbone"]["repeat"], content["study"]
    assert sweep.from_plain(content) == settings("method=lora")


def test_a_run_is_repeated_with_another_seed(tmp_path):
    earlier = settings(f"output_dir={tmp_path}", "method=lora", "training.learning_rate=0.01")
    write_run(earlier)
    again = settings(f"output_dir={tmp_path}", f"from_record={identity(earlier)}", "seed=7", "logger=tensorboard")
    found = sweep.repeated(again, ["seed=7", "from_record=x", "launcher=joblib", "logger=tensorboard"])
    assert (found.seed, found.logger.name, found.method, found.training) == (
        7, "tensorboard", earlier.method, earlier.training,
    )  # fmt: skip
    assert identity(found) == identity(settings("method=lora", "training.learning_rate=0.01", "seed=7"))


def test_settings_that_name_no_run_are_their_own():
    assert sweep.repeated(settings(), ["method=meft1"]) == settings()


def test_nothing_else_can_be_set_beside_a_run_to_repeat():
    with pytest.raises(UserError, match=r"training.epochs=3: from_record takes all settings"):
        sweep.repeated(settings("from_record=abc"), ["from_record=abc", "training.epochs=3"])


def test_a_run_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"from_record=abc: no run in .* has this identity"):
        sweep.repeated(settings(f"output_dir={tmp_path}", "from_record=abc"), [])


def test_what_became_of_the_runs_of_a_sweep(tmp_path):
    output_dir, sweep_dir = tmp_path / "runs", tmp_path / "runs" / ".sweeps" / "now"
    sweep_dir.mkdir(parents=True)
    chosen = [settings(f"output_dir={output_dir}", f"seed={seed}") for seed in (1, 2, 3)]
    names = [run_directory(each).name for each in chosen]
    write_run(chosen[0])
    write_run(chosen[1], "failed", "no rows")
    for number, outcome in {
        10: sweep.Outcome(names[0]),
        2: sweep.Outcome("task=tre", "task=tre: there is no such task", 2),
        3: sweep.Outcome(names[1]),  # skipped: it had failed before
        4: sweep.Outcome(names[2]),  # another sweep is running it
    }.items():
        sweep.note(outcome, sweep_dir, number)
    assert sweep.outcomes(sweep_dir, output_dir) == [
        sweep.Outcome("task=tre", "task=tre: there is no such task", 2),
        sweep.Outcome(names[1], "no rows", 1),
        sweep.Outcome(names[2]),
        sweep.Outcome(names[0]),
    ]
    sweep.forget(sweep_dir)
    assert not (output_dir / ".sweeps").exists()


def test_records_of_a_sweep_are_those_of_its_own_complete_runs(tmp_path):
    chosen = [settings(f"output_dir={tmp_path}", f"seed={seed}") for seed in (1, 2, 3)]
    for each in chosen[:2]:
        write_record(made.record(0.5, f"seed={each.seed}"), run_directory(each))
    write_run(chosen[2], "running")  # by a process that has died: nothing to wait for
    ended = [sweep.Outcome(run_directory(each).name) for each in (chosen[1], chosen[2], chosen[1])]
    assert [record["config"]["seed"] for record in sweep.complete_records(ended, tmp_path)] == [2]


def test_the_seeds_of_a_sweep_are_started_as_it_was(tmp_path):
    records = [{"identity": "12e3456789"}, {"identity": "abc"}]
    arguments = ["experiment=x", "launcher=joblib", "hydra.launcher.n_jobs=4", "task=rte", "logger=wandb"]
    assert sweep.seed_arguments(records, [1, 2], tmp_path, arguments) == [
        "-m", "from_record='12e3456789','abc'", "seed=1,2", f"output_dir='{tmp_path}'",
        "launcher=joblib", "hydra.launcher.n_jobs=4", "logger=wandb",
    ]  # fmt: skip


@pytest.mark.parametrize("config", [{}, [1], {"task": {"nothing": 1}, "method": {"name": "lora"}}])
def test_a_record_without_settings_cannot_be_repeated(config, tmp_path):
    (tmp_path / "run-abc").mkdir()
    write_record(new_record("abc", config, "cpu"), tmp_path / "run-abc")
    with pytest.raises(UserError, match="from_record=abc: its record has no settings of this program"):
        sweep.repeated(settings(f"output_dir={tmp_path}", "from_record=abc"), [])


@pytest.mark.parametrize("name", ["12e3456789", "0123456789", "1036d2a3b7", "a folder, it's mine"])
def test_names_are_read_as_names(name):
    override = OverridesParser.create().parse_override(f"from_record={sweep._quoted(name)}")
    assert override.value() == name


@pytest.mark.parametrize(("factor", "value", "product"), [(3, 1e-4, 3e-4), (0.7, 1e-3, 7e-4), (3, 5e-5, 1.5e-4)])
def test_products_are_those_of_decimal_numbers(factor, value, product):
    assert resolvers.times(factor, value) == product


def test_parts_of_a_model_and_sizes_of_tasks():
    assert [resolvers.share(part, 24) for part in (0.25, 0.5, 0.92)] == [6, 12, 22]
    assert [resolvers.by_size(task, 20, 10) for task in ("rte", "mnli")] == [20, 10]
