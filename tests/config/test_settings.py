import dataclasses
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meft_runner.config import METHODS, BackboneSettings, MeftSettings, Settings, identity, plain
from meft_runner.config import TASKS as TASK_SCHEMAS
from meft_runner.config.checks import check_processes
from meft_runner.config.commands import parse_tables
from meft_runner.config.compatibility import services
from meft_runner.errors import UserError
from tests.helpers.composed import settings

BACKBONES = tuple(dict.fromkeys(name for service in services().values() for name in service.backbones))
TASKS = {name: service.backbones[0] for service in services().values() for name in service.tasks}


def test_a_bare_run_is_minilm_on_the_demo_with_meft1():
    bare = settings()
    assert (bare.backbone.name, bare.task.name, bare.method.name) == ("minilm", "demo", "meft1")


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_compose(name):
    task = next(service.tasks[0] for service in services().values() if name in service.backbones)
    assert settings(f"backbone={name}", f"task={task}").backbone.name == name


@pytest.mark.parametrize("name", TASKS)
def test_tasks_compose(name):
    assert settings(f"task={name}", f"backbone={TASKS[name]}").task.name == name


@pytest.mark.parametrize("name", METHODS)
def test_methods_compose(name):
    chosen = settings(f"method={name}")
    assert chosen.method.name == name
    assert chosen.training.learning_rate == chosen.method.learning_rate


def test_a_learning_rate_of_ones_own():
    assert settings("training.learning_rate=0.01").training.learning_rate == 0.01


@given(st.integers(1, 256), st.sampled_from([1, 2, 4, 5, 10, 20, 100, 125]))
def test_scales_read_the_same_as_fraction_and_decimal(n, m):
    method = MeftSettings(scale_1=f" 1 / {n}", scale_2=f"{1 / m:.10f}")
    assert method.scales == (Fraction(1, n), Fraction(1, m))


@pytest.mark.parametrize("text", ["0", "-1", "a", "1/0", ""])
def test_scales_that_are_none(text):
    with pytest.raises(UserError, match=r"method.scale_1=.*expected a number above 0, written as 1/10 or 0.1"):
        assert MeftSettings(scale_1=text, scale_2="1").scales


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.scale_1=0.3", r"method.scale_1=0.3: reversal=exact .* 1/3, or method.reversal=float"),
        ("method.scale_2=1/300", r"method.scale_2=1/300: .* n up to 256"),
        ("method.merge=[1]", r"method.merge=\[1.0\]: expected two weights"),
        ("method.adapter_dim=0", r"method.adapter_dim=0: expected 1 to"),
        ("method.grid_bits=30", r"method.grid_bits=30: expected 4 to 24"),
        ("training.batch_size=0", r"training.batch_size=0: expected 1 to"),
        ("training.learning_rate=0", r"training.learning_rate=0.0: expected 1e-12 to"),
        ("training.learning_rate=nan", r"training.learning_rate=nan: expected"),
        ("training.warmup=2", r"training.warmup=2.0: expected 0 to 0.99"),
        ("method.merge=[nan,1]", r"method.merge=\[nan, 1.0\]: expected two weights"),
        ("seed=-1", r"seed=-1: expected 0 to"),
        ("seeds=[1,-1]", r"seeds=-1: expected 0 to"),
    ],
)
def test_values_outside_their_range(override, message):
    with pytest.raises(UserError, match=message):
        settings(override)


@pytest.mark.parametrize("splits", ["[]", "[train]", "[validation,validation]"])
def test_splits_to_evaluate_on(splits):
    with pytest.raises(
        UserError, match=r"task.eval_splits=\[.*\]: expected at least one split, each once, other than train"
    ):
        settings("task=rte", f"task.eval_splits={splits}")


def test_float_reversal_takes_any_scale():
    assert settings("method.reversal=float", "method.scale_1=0.3").method.scale_1 == "0.3"


def test_several_processes_are_another_run(monkeypatch):
    alone = settings()
    check_processes(alone, 1)
    torchrun = {"WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    together = settings()
    assert together.training.processes == 4
    assert identity(together) != identity(alone)
    check_processes(together, 4)
    with pytest.raises(UserError, match=r"training.processes=1: 4 started. .* torchrun --nproc_per_node=1"):
        check_processes(alone, 4)


def test_plain_settings_are_json():
    content = plain(settings())
    assert content["method"]["reversal"] == "exact"
    assert content["training"]["precision"] == "fp32"


def test_every_setting_is_described():
    for schema in (Settings.__annotations__["training"], BackboneSettings, *METHODS.values(), *TASK_SCHEMAS.values()):
        for field in dataclasses.fields(schema):
            documented = "".join(base.__doc__ or "" for base in schema.__mro__)
            assert f"{field.name}:" in documented, f"{schema.__name__}.{field.name}"


def test_arguments_of_the_tables():
    assert parse_tables(["output_dir=a", "tables_dir=b"]).tables_dir == "b"
    for arguments, message in [
        (["a"], "a: expected key=value"),
        (["output_dir="], "output_dir=: expected key=value"),
        (["output_dir= "], "expected key=value"),
        (["--report"], "--report: expected key=value"),
        (["repotr=true"], "repotr: no such setting, did you mean 'report'?"),
        (["report=1"], "report=1: expected true or false"),
        (["output_dir=a", "output_dir=b"], "output_dir=b: output_dir is given twice"),
    ]:
        with pytest.raises(UserError, match=re.escape(message)):
            parse_tables(arguments)
    assert parse_tables(["output_dir=[a"]).output_dir == "[a"
