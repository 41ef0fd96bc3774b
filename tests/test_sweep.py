import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from meft_runner import resolvers, sweep
from meft_runner.errors import UserError
from meft_runner.records.record import finish, new_record, write_record
from meft_runner.runs import run_directory
from meft_runner.settings import METHODS, identity, plain
from tests.test_settings import settings

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


def test_why_runs_failed(tmp_path):
    chosen = [settings(f"output_dir={tmp_path}", f"seed={seed}") for seed in (1, 2, 3)]
    write_run(chosen[0])
    write_run(chosen[1], "failed", "no rows")
    write_run(chosen[2], "running")
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "record.json").write_text("{}")
    assert sweep.failures(tmp_path) == {run_directory(chosen[1]).name: "no rows"}


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
