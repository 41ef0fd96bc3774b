"""What a search may vary, as it is written."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from meft_runner.config import register
from meft_runner.config.directory import config_directory
from meft_runner.config.mistakes import explain
from meft_runner.config.space import Choice, Range, space_of
from meft_runner.run import composing


def config_of(*overrides):
    assert composing
    register()
    with initialize_config_dir(config_directory(), version_base="1.3"):
        return compose("config", overrides=["hpo=optuna", *overrides])


@pytest.fixture(scope="module")
def meft1():
    return config_of()


@pytest.fixture(scope="module")
def lora():
    return config_of("method=lora")


def searched(config, **space):
    """Returns the space with these of it typed, keys with __ in place of a dot."""
    changed, keys = config.copy(), []
    for name, content in space.items():
        keys.append(f"hpo.space.{name.replace('__', '.')}")
        OmegaConf.update(changed, keys[-1], content, merge=False, force_add=True)
    return {each.key: each for each in space_of(changed, keys)}


RATE = Range("training.learning_rate", 1e-4, 1e-2, log=True, whole=False)
BATCH = Choice("training.batch_size", ("8", "16", "32"))


def test_a_method_searches_what_it_has(meft1, lora):
    assert searched(meft1) == {
        each.key: each for each in (RATE, BATCH, Choice("method.adapter_dim", ("4", "8", "16", "32", "64")))
    }
    assert list(searched(lora)) == ["training.learning_rate", "training.batch_size", "method.rank"]


def test_values_that_are_far_from_a_methods_own_are_searched_where_they_are_typed():
    vera = config_of("method=vera")  # with a rank of 256
    assert "method.rank" not in searched(vera)
    assert "method.rank" in searched(vera, method__rank=[128, 256])
    assert "method.rank" in searched(vera, method__rank=[64, 128])


def test_what_is_typed_as_a_setting_is_not_searched(meft1):
    fixed = ["training.learning_rate", "training.batch_size"]
    assert [each.key for each in space_of(meft1, fixed)] == ["method.adapter_dim"]
    with pytest.raises(Exception, match="nothing is left to search"):
        space_of(meft1, [*fixed, "method.adapter_dim"])
    with pytest.raises(Exception, match=r"training\.batch_size is given too, and has one value then"):
        space_of(meft1, [*fixed, "hpo.space.training.batch_size"])


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("training__epochs", [2, 9, "log"], Range("training.epochs", 2, 9, log=True, whole=True)),
        ("training__warmup", [0, 0.1, "linear"], Range("training.warmup", 0, 0.1, log=False, whole=False)),
        ("training__weight_decay", [1, 2, "linear"], Range("training.weight_decay", 1, 2, log=False, whole=False)),
        ("method__scale_1", ["1/10", "1/32"], Choice("method.scale_1", ('"1/10"', '"1/32"'))),
        ("method__merge", [[0.5, 0.5], [0.1, 1]], Choice("method.merge", ("[0.5, 0.5]", "[0.1, 1]"))),
        ("method__reversal", ["exact", "float"], Choice("method.reversal", ('"exact"', '"float"'))),
        ("training__max_steps", [None, 5], Choice("training.max_steps", ("null", "5"))),
        ("training__batch_size", None, None),
    ],
)
def test_ranges_and_choices(name, content, expected, meft1):
    assert searched(meft1, **{name: content}).get(name.replace("__", ".")) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("method__nme", [1, 2], "method=meft1 has no such setting, did you mean 'merge'? expected one of"),
        ("method__name", ["lora", "full"], "method=meft1 has no such setting"),
        ("method__rank", [1, 2], "method=meft1 has no such setting"),
        ("method__kernels", ["fused", "plain"], "method=meft1 has no such setting"),
        ("method__reversal", ["exact"], "expected two values or more, each once. One value is method.reversal=VALUE"),
        ("seed", [1, 2], "hpo.space.seed: expected a setting of method or training"),
        ("task__max_train_rows", [10, 20], "expected a setting of method or training"),
        ("training__batch_size", [], "hpo.space.training.batch_size=[]: expected two values or more"),
        ("training__batch_size", [8, 8], "each once"),
        ("training__batch_size", [0, 8], "training.batch_size=0: expected 1 to 1000000"),
        ("training__batch_size", "8", "hpo.space.training.batch_size=8: expected a range, [low,high,log]"),
        ("training__batch_size", [{"low": 1}, 2], "expected a range"),
        ("training__epochs", [1.5, 3, "linear"], "expected whole numbers"),
        ("training__epochs", [1, 3, 5, "linear"], "expected a range"),
        ("training__epochs", [True, 3, "linear"], "expected a range"),
        ("training__learning_rate", [1e-3, 1e-5, "log"], "=[0.001,1e-05,log]: an empty range"),
        ("training__learning_rate", [1, 1, "linear"], "an empty range"),
        ("training__learning_rate", [0, 1, "log"], "a logarithmic range begins above 0. Write linear"),
        ("training__learning_rate", [float("nan"), 1, "log"], "an empty range"),
        ("training__learning_rate", [1, 1e9, "log"], "training.learning_rate=1000000000.0: expected 1e-12 to 1000.0"),
        ("training__learning_rate", ["x", "y"], "Value 'x' of type 'str' could not be converted to Float"),
        ("method__scale_1", [0.1, 0.5, "log"], "method.scale_1=[0.1,0.5,log]: is no number, so it has no range"),
        ("method__scale_1", ["1/10", "3/7"], "method.scale_1=3/7: reversal=exact divides integers"),
    ],
)
def test_mistakes(name, content, message, meft1):
    with pytest.raises(Exception) as found:  # noqa: PT011
        searched(meft1, **{name: content})
    said = explain(found.value)
    assert message in said
    assert "\n" not in said


def test_what_the_method_does_not_read(lora):
    with pytest.raises(Exception, match=r"has no effect with method\.reversal=off"):
        searched(lora, method__scale_1=["1/10", "1/32"])
