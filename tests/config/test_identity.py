"""The identity follows what settings mean, not how they were written."""

import os
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from meft_runner.config import TrainingSettings, from_plain, identity, plain, result_settings
from tests.helpers.composed import settings


@cache
def of(*overrides):
    return identity(settings(*overrides))


@pytest.mark.parametrize(
    "override", ["seed=2", "method.adapter_dim=4", "training.epochs=1", "task=rte", "backbone=bert", "method=lora",
                 "method.scale_1=1/8", "method.merge=[0.1,1]", "method.grid_bits=12", "backbone.path=a",
                 "training.precision=bf16", "study=gradients", "backbone.revision=abc", "study=start",
                 "method.mu=1-scale", "method.merge=learned", "method.zero_start=true", "method.adapter_factor=4",
                 "method=meft1_start", "method.offload=true", "method.stored_layers=2", "method.budget=8GiB",
                 "backbone.weights=nf4", "backbone.weights=int8"],
)  # fmt: skip
@pytest.mark.thin(3)
def test_it_follows_what_changes_a_result(override):
    assert of() != of(override)


@pytest.mark.parametrize(
    "override", ["method.reversal=float", "method.reversal=stored", "method.scale_1=1/10", "method.mu=1",
                 "method.chunks=2", "method.offload=true", "method.grid_bits=12", "method.strict=false",
                 "method.rank=4", "method=dora", "method.stored_layers=2", "method.budget=8GiB"],
)  # fmt: skip
@pytest.mark.thin(3)
def test_it_follows_what_changes_a_reversed_lora(override):
    reversed_lora = ("method=lora", "method.reversal=exact")
    other = dict(each.split("=", 1) for each in (*reversed_lora, override))
    assert of(*reversed_lora) != of(*("=".join(each) for each in other.items()))


# What runs were called before their methods had the settings that came later.
EARLIER = {
    "": "443d1af31f",
    "method=full": "db54bb493c",
    "method=full method.checkpointing=true": "3f8e2f165d",
    "method=lora": "2dddb8940c",
    "method=lora method.checkpointing=true": "960646ee3a",
    "method=lora method.checkpointing='true'": "960646ee3a",
    "method=lora method.checkpointing=false": "2dddb8940c",
    "method=lora method.rank=4 method.alpha=8 method.dropout=0.1": "e8fcceedab",
    "method=lora method.init_noise=0.02": "b39cb01f0c",
    "method=meft1 method.merge=[0,1]": "aff07fec27",
    "method=meft1 method.scale_1=0.05 method.reversal=stored": "4aaac3dadd",
    "method=meft2": "67c14dca8e",
    "method=meft2 method.reversal=float": "8a479dd153",
    "method=meft3": "52d7f3aae0",
    "method=meft3 method.scale_1=1/100 method.scale_2=1/100 method.merge=[0,1]": "42075fed50",
    "backbone=opt task=piqa method=meft2": "917898ab03",
    "backbone=vit task=svhn method=lora": "eb3d9e173c",
    "study=gradients method=meft3 method.reversal=float": "3d71c7235f",
}
# Of runs whose factors weight decay pulled to zero.
TRAINED_OTHERWISE = {
    "method=ia3": "09baa604c0",
    "method=ia3 method.init_noise=0.1 method.init_constant=2": "4e588e7e71",
    "backbone=bart task=squad method=ia3": "669b928581",
}
LATER_OF_ALL = ("mu", "offload", "kernels", "stored_layers", "budget")
LATER = (*LATER_OF_ALL, "reversal", "scale_1", "grid_bits", "chunks", "strict", "decomposed")  # of peft's methods
LATER_OF_MEFT = (*LATER_OF_ALL, "variant", "adapter_factor", "zero_start")


@pytest.mark.parametrize(("typed", "name"), EARLIER.items())
@pytest.mark.thin(3)
def test_earlier_runs_keep_their_identity(typed, name):
    chosen = settings(*typed.split())
    assert identity(chosen) == name
    content = plain(chosen)
    for key in LATER_OF_MEFT if chosen.method.name.startswith("meft") else LATER:
        content["method"].pop(key, None)
    assert identity(from_plain(content)) == name
    assert result_settings(content, 1) == result_settings(plain(chosen), 1)


@pytest.mark.parametrize(("typed", "name"), TRAINED_OTHERWISE.items())
@pytest.mark.thin(1)
def test_runs_that_train_otherwise_now_have_another_identity(typed, name):
    chosen = settings(*typed.split())
    assert identity(chosen) != name
    now, then = (result_settings(plain(chosen), version) for version in (2, 1))
    assert now == then | {"method.version": 2}
    assert now != result_settings(plain(chosen), 3)


def test_of_low_rank_updates_those_with_magnitudes_train_otherwise():
    assert [settings(f"method={name}").method.version for name in ("lora", "dora", "ia3", "meft1")] == [1, 2, 2, 1]


SAME = [
    ((), ("output_dir=elsewhere", "logger=wandb", "retry_failed=true", "seeds=[1,2]")),
    ((), ("method.scale_1=0.1",)),
    ((), ("method.scale_1=0.10",)),
    ((), ("method.scale_1=' 1 / 10'", "method.scale_2=1.0")),
    ((), ("method.scale_1=1e-1",)),
    ((), ("method.merge=[0.5,0.5]",)),
    (("method.merge=[1,0]",), ("method.merge=[1.0,0.0]",)),
    (("method.merge=learned",), ('method.merge="learned"',)),
    ((), ("method.mu=1",)),
    ((), ("method.mu=1.0",)),
    ((), ("method.mu=4/4",)),
    ((), ("method.adapter_factor=1", "method.zero_start=false")),
    (("method.mu=1-scale",), ("method.mu=0.9",)),
    (("method.mu=1-scale",), ("method.mu=1\\ -\\ scale",)),
    (("method=meft3", "method.mu=9/10"), ("method=meft3", "method.mu=1-scale")),
    (("method=lora",), ("method=lora", "method.reversal=off")),
    (
        ("method=lora", "method.reversal=exact"),
        ("method=lora", "method.reversal=exact", "method.scale_1=0.00390625", "method.mu=255/256"),
    ),
    (("method=ia3", "method.reversal=float"), ("method=ia3", "method.reversal=float", "method.mu=1-scale")),
    ((), ("training.learning_rate=1e-3",)),
    (("training.learning_rate=1e-2",), ("training.learning_rate=0.0100",)),
    ((), ("training.processes=1",)),
    ((), ("method.chunks=null",)),
    ((), ("method.kernels=plain",)),
    ((), ("method.stored_layers=0", "method.budget=null")),
    (("method.budget=8GiB",), ("method.budget=8192MiB",)),
    (("method.budget=1.5MiB",), ("method.budget='1.50 MiB'",)),
    (("method.reversal=stored",), ("method.reversal=stored", "method.strict=false")),
    (("method.reversal=float",), ("method.reversal=float", "method.grid_bits=12", "method.strict=false")),
    (("training.max_steps=3",), ("training.max_steps=3", "training.epochs=9")),
    (("study=gradients",), ("study=gradients", "training.epochs=9", "training.learning_rate=1")),
    (("task=rte", "task.data_dir=a"), ("task=rte", "task.data_dir=a", "task.revision=b")),
    (("task=squad",), ("task=squad", "task.null_threshold=1")),
    (("backbone.path=a",), ("backbone.path=a", "backbone.revision=b")),
]


@pytest.mark.parametrize(("first", "second"), SAME)
@pytest.mark.thin(5)
def test_one_run_written_in_two_ways(first, second):
    assert of(*first) == of(*second)


@pytest.mark.parametrize(("name", "same"), [("hub", True), ("package", True), ("sha256", True), ("name", False)])
def test_what_the_name_stands_for_is_not_read_where_a_folder_is_given(name, same):
    local = settings("backbone.path=a")
    other = replace(local, backbone=replace(local.backbone, **{name: "else"}))
    assert (identity(local) == identity(other)) is same


@pytest.mark.parametrize("setting", ["task.data_dir", "backbone.path"])
@pytest.mark.thin(2)
def test_a_folder_is_one_however_it_is_reached(setting, tmp_path, monkeypatch):
    (tmp_path / "data" / "rte").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    spellings = [
        "data/rte",
        "./data/rte",
        "data/rte/",
        "data/../data/rte",
        "link/rte",
        "'~/data/rte'",
        f"{tmp_path}/data/rte",
    ]
    found = {identity(settings("task=rte", f"{setting}={text}")) for text in spellings}
    assert len(found) == 1
    assert found != {identity(settings("task=rte", f"{setting}=data"))}


def test_files_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    near, far = (
        settings("task=text", f"task.train_file={at}a.csv", f"task.eval_file={at}b.csv") for at in ("", f"{tmp_path}/")
    )
    assert identity(near) == identity(far)
    assert plain(near)["task"]["train_file"] == "a.csv"  # the record keeps what was typed


def test_a_folder_in_the_home_is_found_there(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    chosen = settings("task=rte", "task.data_dir='~/rte'", "output_dir='~/runs'")
    assert (chosen.task.data_dir, chosen.output_dir) == ("/somewhere/rte", "/somewhere/runs")


@given(st.integers(1, 256), st.sampled_from(["{}/{}", " {} / {}", "0{}/{}"]))
def test_scales(n, form):
    base = settings_once()
    written = replace(base, method=replace(base.method, scale_1=form.format(1, n)))
    doubled = replace(base, method=replace(base.method, scale_1=f"2/{2 * n}"))
    assert identity(written) == identity(doubled)
    assert (identity(written) == identity(base)) is (Fraction(1, n) == Fraction(1, 10))


@example_settings(max_examples=10, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "reversal": st.sampled_from(["exact", "float", "stored"]),
            "scale_1": st.integers(1, 256).map("1/{}".format),
            "merge": st.lists(st.floats(-9, 9), min_size=2, max_size=2).filter(any) | st.just("learned"),
            "mu": st.just("1-scale") | st.floats(1e-3, 9).map(str),
            "adapter_factor": st.floats(0.5, 9),
            "zero_start": st.booleans(),
            "chunks": st.none() | st.integers(1, 99),
            "adapter_dropout": st.none() | st.floats(0, 0.9),
            "strict": st.booleans(),
        }
    )
)
def test_it_survives_a_record(method):
    content = plain(settings_once())
    content["method"] |= method
    assert_survives(content)


@example_settings(max_examples=25, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "reversal": st.sampled_from(["off", "exact", "float", "stored"]),
            "scale_1": st.integers(2, 256).map("1/{}".format),
            "mu": st.just("1-scale") | st.floats(1e-3, 9).map(str),
            "chunks": st.none() | st.integers(1, 99),
            "strict": st.booleans(),
        }
    )
)
@pytest.mark.slow
def test_that_of_a_reversed_lora_survives_a_record(method):
    content = plain(lora_once())
    content["method"] |= method
    assert_survives(content)
    if method["reversal"] == "off":
        assert identity(from_plain(content)) == identity(lora_once())


@given(st.integers(2, 256), st.sampled_from(["exact", "float", "stored"]))
def test_the_mean_of_a_stream_is_kept_however_that_is_written(n, mode):
    written = [{"scale_1": f"1/{n}", "mu": mu} for mu in ("1-scale", f"{n - 1}/{n}", " 1 - scale")]
    for base in (settings_once(), lora_once()):
        kind = type(base.method.reversal)[mode]
        found = {identity(replace(base, method=replace(base.method, reversal=kind, **each))) for each in written}
        assert len(found) == 1


def assert_survives(content):
    chosen = from_plain(content)
    again = from_plain(plain(chosen))
    assert again == chosen
    assert identity(again) == identity(chosen)
    assert result_settings(content, "") == result_settings(plain(again), "")


@cache
def settings_once():
    return settings()


@cache
def lora_once():
    return settings("method=lora")


@pytest.mark.parametrize(("value", "same"), [(None, True), (1, False)])
def test_a_new_setting_that_says_nothing_leaves_earlier_runs_their_identity(value, same):
    @dataclass
    class Newer(TrainingSettings):
        new: int | None = None

    chosen = settings_once()
    newer = replace(chosen, training=Newer(**vars(chosen.training), new=value))
    assert (identity(newer) == identity(chosen)) is same


def test_settings_of_another_program_are_compared_as_they_are():
    assert result_settings({"task": {"other": 1}}, "") == {"task": {"other": 1}}


def test_it_does_not_depend_on_the_folder_where_the_command_is_typed(tmp_path, monkeypatch):
    before = identity(settings())
    monkeypatch.chdir(tmp_path)
    assert os.getcwd() == str(tmp_path)
    assert identity(settings()) == before
