import dataclasses
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meft_runner.config import METHODS, BackboneSettings, LoraSettings, MeftSettings, Settings, identity, plain
from meft_runner.config import TASKS as TASK_SCHEMAS
from meft_runner.config.checks import check, check_processes
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
@pytest.mark.thin(3)
def test_backbones_compose(name):
    task = next(service.tasks[0] for service in services().values() if name in service.backbones)
    assert settings(f"backbone={name}", f"task={task}").backbone.name == name


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.thin(3)
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
    assert method.halves == ((Fraction(1, n), 1.0), (Fraction(1, m), 1.0))
    if n > 1:
        assert LoraSettings(scale_1=f"1/{n}").halves == ((Fraction(1, n), float(1 - Fraction(1, n))),)


@pytest.mark.parametrize("text", ["0", "-1", "a", "1/0", ""])
def test_scales_that_are_none(text):
    with pytest.raises(UserError, match=r"method.scale_1=.*expected a number above 0, written as 1/10 or 0.1"):
        assert MeftSettings(scale_1=text, scale_2="1").halves
    with pytest.raises(UserError, match=r"method.scale_1=.*expected a number above 0, written as 1/10 or 0.1"):
        assert LoraSettings(scale_1=text).halves


@pytest.mark.parametrize("text", ["0", "-1", "2e9", "nan", "inf", "abc", "1-lambda", "1 - lambda", "1/0", "", "101"])
def test_mus_that_are_none(text):
    for method in (MeftSettings(scale_1="1/10", scale_2="1", mu=text), LoraSettings(mu=text)):
        with pytest.raises(UserError, match=r"method.mu=.*expected a number above 0, at most 100, .*, or 1-scale"):
            assert method.halves


def test_a_stream_that_goes_on_whole_takes_all_of_what_is_added():
    method = MeftSettings(scale_1="1/10", scale_2="1", mu="1 - scale")
    assert method.halves == ((Fraction(1, 10), 0.9), (Fraction(1), 1.0))


@pytest.mark.parametrize(
    "merge", [[0, 0], [1], [1, 2, 3], [], ["a", "b"], ["1/2", "1/2"], 5, {"a": 1}, None, "Learned", [True, False],
              [float("nan"), 1], [float("inf"), 1], [10**400, 1]],
)  # fmt: skip
def test_merges_that_are_none(merge):
    with pytest.raises(UserError, match=r"method.merge=.*expected two weights, not both 0, .*, or learned"):
        assert MeftSettings(merge=merge).merge_weights


def test_merges():
    assert MeftSettings(merge="learned").merge_weights is None
    assert MeftSettings(merge=[0, -1]).merge_weights == (0.0, -1.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.scale_1=0.3", r"method.scale_1=0.3: reversal=exact .* 1/3, or method.reversal=float"),
        ("method.scale_2=1/300", r"method.scale_2=1/300: .* n up to 256"),
        ("method.merge=[1]", r"method.merge=\[1\]: expected two weights"),
        ("method.adapter_dim=0", r"method.adapter_dim=0: expected 1 to"),
        ("method.grid_bits=30", r"method.grid_bits=30: expected 4 to 24"),
        ("training.batch_size=0", r"training.batch_size=0: expected 1 to"),
        ("training.learning_rate=0", r"training.learning_rate=0.0: expected 1e-12 to"),
        ("training.learning_rate=nan", r"training.learning_rate=nan: expected"),
        ("training.warmup=2", r"training.warmup=2.0: expected 0 to 0.99"),
        ("method.merge=[nan,1]", r"method.merge=\[nan, 1\]: expected two weights"),
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


@pytest.mark.parametrize("name", METHODS)
def test_reversal_of_the_layers(name):
    is_meft = name.startswith("meft")
    assert settings(f"method={name}").method.reverses is is_meft
    if name != "full":
        assert settings(f"method={name}", "method.reversal=exact").method.reverses


@pytest.mark.parametrize(("kind", "typed"), [(True, "true"), ("offload", "offload")])
def test_checkpointing_together_with_reversal_wherever_it_comes_from(kind, typed):
    reversed_lora = settings("method=lora", "method.reversal=stored")
    reversed_lora.method.checkpointing = kind
    with pytest.raises(
        UserError, match=rf"method.checkpointing={typed}: with method.reversal=stored layers keep nothing"
    ):
        check(reversed_lora)


@pytest.mark.parametrize("backbone", ["bert", "roberta", "bart", "opt", "vit", "minilm"])
@pytest.mark.parametrize("name", ["meft1_start", "meft2_start", "meft3_start"])
@pytest.mark.thin(4)
def test_a_preset_is_its_variant_but_for_what_its_file_says(backbone, name):
    task = "task=" + {"opt": "piqa", "vit": "svhn"}.get(backbone, "demo")
    chosen, variant = (settings(f"backbone={backbone}", task, f"method={each}").method for each in (name, name[:5]))
    changed = {key for key, value in vars(chosen).items() if value != getattr(variant, key)}
    assert changed <= {"name", "variant", "scale_1", "scale_2", "mu", "merge", "zero_start", "adapter_factor"}
    assert chosen.merge_weights == ((1.0, 0.0) if name == "meft2_start" else (0.0, 1.0))


def test_float_reversal_takes_any_scale():
    assert settings("method=lora", "method.reversal=float", "method.scale_1=0.3").method.scale_1 == "0.3"
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
        (["overwrite=true"], "overwrite=true: has no effect without tables_dir=DIR"),
        (["report=1"], "report=1: expected true or false"),
        (["output_dir=a", "output_dir=b"], "output_dir=b: output_dir is given twice"),
    ]:
        with pytest.raises(UserError, match=re.escape(message)):
            parse_tables(arguments)
    assert parse_tables(["output_dir=[a"]).output_dir == "[a"
