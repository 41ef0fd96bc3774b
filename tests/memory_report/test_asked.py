"""What may be typed after `meft-memory`: obeyed, or refused in one line."""

import dataclasses

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meft_runner import cli
from meft_runner.config import Format, MemorySettings, Precision, Settings
from meft_runner.errors import UserError
from meft_runner.memory_report.asked import read_arguments
from tests.helpers.commands import call

MISTAKES = {
    # settings that mean nothing here
    "training.batch_size=3": "is a setting of meft-run alone, did you mean 'batch'?",
    "task.max_length=9": "is a setting of meft-run alone, did you mean 'length'?",
    "task=rte": "is a setting of meft-run alone",
    "seed=1": "is a setting of meft-run alone",
    "logger=none": "is a setting of meft-run alone",
    "seeds=[1]": "is a setting of meft-run alone",
    "launcher=local": "launcher: no such setting",
    "hydra.run.dir=x": "hydra.run.dir: no such setting",
    "-m": "no such option. Expected key=value, for instance batch=[8,16]",
    "bach=3": "bach: no such setting, did you mean 'batch'?",
    "method.chunkz=3": "method.chunkz: no such setting, did you mean 'chunks'?",
    "method.chunks=3 method=full": "method=full has no such setting (dora, lora, ia3, vera, meft1, meft1_start, meft2,",
    "method.reversal=exact method=full": "method=full has no such setting (dora, lora, ia3, vera, meft1, meft1_start,",
    "method.mu=1": "has no effect on memory",
    "method.zero_start=true": "has no effect on memory",
    "method=p_tuning": "method=p_tuning: adds tokens to a row",
    "method.learning_rate=1": "has no effect on memory",
    "method.checkpointing=true": "is asked for with checkpointing=[false,true,offload,every_4]",
    "method=lora backbone.weights=nf4": "backbone.weights=nf4: is asked for with weights=[fp32,bf16,nf4,int8]",
    "checkpointing=maybe": "checkpointing=maybe: expected false or true or offload or every_4",
    "checkpointing=[true,1]": "checkpointing=1: expected false or true or offload or every_4",
    "checkpointing=[true,'true']": "names a value twice",
    "weights=nf5": "weights=nf5: did you mean 'nf4'? expected fp32 or bf16 or fp16 or nf4 or int8",
    "head=ranking": "head=ranking: expected classification or lm or span or image",
    "sweep=batch weights=[fp32,nf4]": "draws a line a method, for one weights",
    "backbone.attention=eager": "is asked for with attention=materialised or attention=flash",
    "backbone.hub=x": "has no effect on memory",
    "backbone.config=3": "no such setting, did you mean 'config.NAME'?",
    "backbone.pat=3": "no such setting, did you mean 'path'?",
    # forms
    "+x=1": "settings cannot be added",
    "~x=1": "settings cannot be taken away",
    "batch": "batch: expected key=value, for instance batch=32",
    "bach": "for instance batch=32 (did you mean 'batch'?",
    "output_dir=": "expected key=value, for instance output_dir=memory",
    "batch=8 batch=9": "batch: given twice. Leave one of them out; several values are batch=[A,B]",
    "batch=8,16": "expected one value, or for a setting of meft-memory itself a list: batch=[8,16]",
    "method.chunks=1,2": "expected one value",
    "backbone@x=bert": "expected key=value",
    "batch=${oc.env:HOME}": "nothing is read from the environment",
    "backbone=bert backbone.path=${oc.env:HOME}": "nothing is read from the environment",
    "output_dir=${x} sweep=batch": "expected a text",
    # values
    "batch=[]": "is empty",
    "batch=[1,": "cannot be read as key=value or key=[value,value]",
    "batch=[[1]]": "expected a whole number, for instance batch=32",
    "batch=many": "expected a whole number",
    "batch=1e400": "expected a whole number",
    "batch=nan": "expected a whole number",
    "batch=1.5": "expected a whole number",
    "batch=true": "expected a whole number",
    "batch=null": "expected a whole number",
    "batch=0": "expected 1 to 1000000000",
    "batch=-1": "expected 1 to 1000000000",
    "length=[128,0]": "length=0: expected 1 to",
    "batch=99999999999999999999": "expected 1 to 1000000000",
    "batch=" + 5000 * "9": "cannot be read",
    "batch=[8,8]": "names a value twice",
    "method=[lora,lora]": "names a value twice",
    "measure=2": "expected true or false",
    "precision=fp17": "did you mean 'fp16'? expected fp32 or bf16 or fp16",
    "precision=1": "expected fp32 or bf16 or fp16",
    "attention=flesh": "did you mean 'flash'?",
    "format=null": "expected table or json or csv or markdown",
    "backbone=rob": "there is no such backbone, did you mean 'roberta'? expected bart, ",
    "backbone=_postln": "there is no such backbone",
    "backbone=../x": "there is no such backbone",
    "method=meft9": "there is no such method, did you mean 'meft",
    "fit=24": "expected a number with a unit, as in 24GiB",
    "fit=0GiB": "expected a number with a unit",
    "fit=1e99GiB": "expected a number with a unit",
    "fit=8gb": "expected a number with a unit",
    "fit=-1GiB": "expected a number with a unit",
    "fit=99999999999999999999TiB": "expected a number with a unit, as in 24GiB or 512MiB, up to",
    # what leaves something else without effect
    "timeline=true fit=1GiB": "fit and timeline: fit answers with the largest batch and length alone",
    "sweep=depth fit=1GiB": "fit and sweep",
    "fit=1GiB measure=true": "fit and measure",
    "sweep=batch timeline=true": "timeline and sweep: timeline draws one step and prints no table",
    "format=json timeline=true": "timeline and format",
    "measure=true timeline=true": "timeline and measure",
    "output_dir=x": "receives figures alone",
    "output_dir=x fit=1GiB": "receives figures alone",
    "attention=flash measure=true": "attention=flash: is predicted for a GPU",
    "checkpointing=[true] method=meft1": "method=meft1 has no such setting (full, dora, lora, ia3, vera have)",
    "sweep=length length=64": "sweep=length and length: a sweep has values of its own",
    "sweep=batch batch=8": "sweep=batch and batch",
    "sweep=depth backbone.repeat=2": "sweep=depth and backbone.repeat",
    "sweep=depth backbone.config.num_hidden_layers=2": "sweep=depth and backbone.config.num_hidden_layers",
    "sweep=length batch=[8,16]": "draws a line a method, for one batch",
    "method=meft1 method.budget=8GiB": "plans a run of meft-run. Take method.stored_layers=N",
    "backbone.path=/x backbone=[bert,roberta]": "one model's folder, but backbone=bert,roberta are several",
    "backbone=bert backbone.path=/x backbone.config.hidden_size=8": "has no effect with backbone.path",
}


@pytest.mark.parametrize("typed", MISTAKES, ids=lambda typed: typed[:40])
def test_mistakes_are_one_line_before_anything_heavy_is_imported(monkeypatch, capsys, typed):
    monkeypatch.setitem(__import__("sys").modules, "meft_runner.memory_report.report", None)
    code, out, error = call(monkeypatch, capsys, cli.meft_memory, *typed.split(" "))
    assert (code, out) == (2, "")
    assert MISTAKES[typed] in error
    assert len(error.strip().splitlines()) == 1


def test_single_values_are_lists_of_one():
    asked, overrides = read_arguments(["batch=4", "method=meft1", "method.chunks=2", "precision=fp16", "sweep=null"])
    assert asked == MemorySettings(batch=[4], method=["meft1"], precision=[Precision.fp16])
    assert overrides == ["method.chunks=2"]


def test_a_setting_that_one_of_the_methods_has():
    _, overrides = read_arguments(["method=[full,meft1]", "method.chunks=2", "checkpointing=[true]"])
    assert overrides == ["method.chunks=2"]


def test_a_folder_may_be_called_as_a_number():
    assert read_arguments(["output_dir=1", "sweep=depth"])[0].output_dir == "1"


KEYS = [*(each.name for schema in (MemorySettings, Settings) for each in dataclasses.fields(schema)), "method.chunks"]
VALUES = st.one_of(
    st.text(max_size=12), st.integers().map(str), st.floats().map(str), st.lists(st.integers(0, 3), max_size=3).map(str)
)
ARGUMENTS = st.one_of(st.text(max_size=20), st.tuples(st.sampled_from(KEYS), VALUES).map("=".join))


@given(st.lists(ARGUMENTS, max_size=4))
@example(["batch=" + 3000 * "[" + 3000 * "]"])
@example(["fit=1GiB\ud800"])
@example(["a\nb=1\nc"])
def test_whatever_is_typed_is_read_or_refused_in_a_line(arguments):
    try:
        asked, overrides = read_arguments(arguments)
    except UserError as error:
        refusal = str(error)
        assert len(refusal.splitlines()) == 1
    else:
        assert isinstance(asked.format, Format)
        assert all(1 <= batch <= 10**9 for batch in asked.batch)
        assert len(overrides) <= len(arguments)
