"""A run that begins with the trained weights of an earlier one: what is taken, what is refused, what it is called."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from meft_runner import cli
from meft_runner.config import PredictSettings, from_plain, identity, plain
from meft_runner.errors import UserError
from meft_runner.methods.weights import save_trained
from meft_runner.predict.command import answer
from meft_runner.records.record import read_record
from meft_runner.reports.labels import method_label
from meft_runner.run import lifecycle
from meft_runner.run.earlier import repeated
from meft_runner.run.folder import run_directory
from meft_runner.run.interruption import Interruption
from meft_runner.run.lifecycle import run
from meft_runner.run.origin import with_origin
from tests.helpers.commands import call
from tests.helpers.composed import settings
from tests.helpers.folders import make_model_folder, write_lines
from tests.helpers.interrupted import SignalAt, run_with
from tests.helpers.records import record as made_record
from tests.helpers.records import write_run

WEIGHTS = "adapter/adapter_model.safetensors"
METHODS = {
    "full": ["method=full"],
    "lora": ["method=lora"],
    "dora": ["method=dora"],
    "vera": ["method=vera", "method.rank=4"],
    "ia3 reversed": ["method=ia3", "method.reversal=exact"],
    "meft1": ["method=meft1", "method.merge=learned"],
    "meft3": ["method=meft3"],
}
QUICK = ("lora",)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder with a model and rows of two tasks: two classes, and the same rows graded."""
    folder = tmp_path_factory.mktemp("places")
    make_model_folder(folder / "model", "roberta")
    rows = [
        {"sentence1": f"Number {i} was a {word}.", "sentence2": f"A {word}.", "label": i % 2}
        for i, word in zip(range(8), ["dog", "coin"] * 4, strict=True)
    ]
    for name, labels in (("classes", lambda label: label), ("grades", lambda label: 0.5 + label)):
        (folder / name).mkdir()
        for split in ("train", "validation"):
            write_lines(folder / name / f"{split}.jsonl", [row | {"label": labels(row["label"])} for row in rows])
    return folder


def chosen(places, task, *words):
    rows = "grades" if task == "stsb" else "classes"
    return settings(
        f"task={task}", f"task.data_dir={places / rows}", "backbone=roberta", f"backbone.path={places / 'model'}",
        f"output_dir={places / 'runs'}", "training.epochs=1", "training.batch_size=4", "task.max_length=24",
        "training.learning_rate=0.01", *words,
    )  # fmt: skip


def begun_from(folder, *given):
    """Returns settings that begin with an earlier run, as the command line makes them of what was typed."""
    begun = chosen(*given)
    begun.method.start_from = str(folder)
    return with_origin(begun)


@pytest.fixture(scope="module")
def earlier(places):
    """Returns what trains the earlier run of a method, once, and returns its folder."""

    def of(*words):
        first = chosen(places, "rte", *words)
        run(first)
        return run_directory(first)

    return of


def first_weights(monkeypatch, begun):
    """Returns the weights with which training would begin, under the names of an adapter's file."""
    found = {}

    def see(_, model, *args):
        save_trained(model, run_directory(begun) / "first", {})
        found.update(load_file(run_directory(begun) / "first" / "adapter_model.safetensors"))
        raise UserError("seen")

    monkeypatch.setattr(lifecycle, "measure_memory", see)
    with pytest.raises(UserError, match="seen"):
        run(begun)
    monkeypatch.undo()
    return found


@pytest.mark.parametrize(
    "method", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_adapters_are_taken_and_a_head_for_other_labels_begins_anew(method, places, earlier, monkeypatch, capsys):
    words = METHODS[method]
    folder = earlier(*words)
    begun = begun_from(folder, places, "mrpc", *words)
    found, there = first_weights(monkeypatch, begun), load_file(folder / WEIGHTS)
    fresh = first_weights(monkeypatch, chosen(places, "mrpc", *words))
    head = {name for name in found if "classifier" in name}
    assert head
    assert all(torch.equal(found[name], there[name]) for name in found.keys() - head)
    assert all(torch.equal(found[name], fresh[name]) for name in head)
    assert any(not torch.equal(fresh[name], there[name]) for name in found.keys() - head)
    origin = read_record(run_directory(begun)).origin
    assert (origin.run, origin.taken, set(origin.anew)) == (folder.name, len(found) - len(head), head)
    shown = capsys.readouterr().out
    assert f"trained tensors of {folder.name}, {len(head)} of its task head begin anew (classes entailment" in shown


def test_a_head_for_the_same_labels_is_taken(places, earlier, monkeypatch):
    folder = earlier("method=lora")
    begun = begun_from(folder, places, "rte", "method=lora", "seed=5")
    found, there = first_weights(monkeypatch, begun), load_file(folder / WEIGHTS)
    assert all(torch.equal(found[name], there[name]) for name in there)
    assert read_record(run_directory(begun)).origin.anew == []


def test_a_head_of_another_shape_begins_anew(places, earlier, monkeypatch):
    folder = earlier("method=lora")
    begun = begun_from(folder, places, "stsb", "method=lora")
    found = first_weights(monkeypatch, begun)
    assert found["base_model.model.classifier.out_proj.weight"].shape[0] == 1
    assert "there, grades here" in read_record(run_directory(begun)).origin.reason


@pytest.fixture(scope="module")
def second(places, earlier):
    """Settings of a run that has begun with an earlier one and ended."""
    begun = begun_from(earlier("method=lora"), places, "mrpc", "method=lora", "training.max_steps=1")
    run(begun)
    return begun


def test_a_run_that_began_so_is_predicted_with_and_needs_the_earlier_one_no_more(second, earlier):
    folder = earlier("method=lora")
    shutil.move(folder, f"{folder}-moved")
    try:
        asked = PredictSettings(run=str(run_directory(second)), split="validation")
        scores = answer(asked, {}).scores
    finally:
        shutil.move(f"{folder}-moved", folder)
    assert scores["accuracy"] == read_record(run_directory(second)).scores.best


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_run_goes_on_from_its_checkpoint(method, places, earlier, tmp_path, monkeypatch):
    """And not from the earlier run once more."""
    words = [*METHODS[method], "training.epochs=2"]
    folder = earlier(*METHODS[method])
    straight = run(begun_from(folder, places, "mrpc", *words, f"output_dir={tmp_path / 'a'}"))
    again = begun_from(folder, places, "mrpc", *words, f"output_dir={tmp_path / 'b'}")
    monkeypatch.setattr(Interruption, "stopped", False)  # by the signal that comes, in this process
    with pytest.raises(KeyboardInterrupt):
        run_with(SignalAt(3, 2), again, monkeypatch)
    resumed = run(again)
    assert resumed.identity == straight.identity
    assert resumed.scores == straight.scores
    weights = [load_file(tmp_path / part / run_directory(again).name / WEIGHTS) for part in "ab"]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_identity_is_that_of_the_weights_and_not_of_a_path(places, earlier, tmp_path):
    folder = earlier("method=lora")
    words = ["task=mrpc", "method=lora", "backbone=roberta"]
    alone = identity(settings(*words))
    here = with_origin(settings(*words, f"method.start_from={folder}"))
    shutil.copytree(folder, tmp_path / folder.name)
    there = with_origin(settings(*words, f"method.start_from={tmp_path / folder.name}"))
    assert identity(here) == identity(there) != alone
    assert from_plain(plain(here)) == here
    weights = load_file(tmp_path / folder.name / WEIGHTS)
    trained_anew = tmp_path / folder.name
    save_file({name: weight + 1 for name, weight in weights.items()}, trained_anew / WEIGHTS)
    content = json.loads((trained_anew / "record.json").read_text())
    content["files"] = None  # of an earlier version, which names none
    (trained_anew / "record.json").write_text(json.dumps(content))
    other = with_origin(settings(*words, f"method.start_from={trained_anew}"))
    assert identity(other) not in (identity(here), alone)
    labels = {method_label(made_record(0.5, config=plain(each))) for each in (here, other, settings(*words))}
    assert len(labels) == 3
    assert f"lora (started_from={here.method.started_from})" in labels


def test_it_is_repeated_with_other_seeds_wherever_the_earlier_run_is(second, earlier, places):
    """From its record, of the weights that it began with and of no others."""
    folder = earlier("method=lora")
    typed = [f"from_record={identity(second)}", f"output_dir={places / 'runs'}", "seed=2"]
    again = repeated(settings(*typed), typed)
    moved = folder.parent / f"copy-{folder.name}"
    shutil.move(folder, moved)
    kept = {name: (moved / name).read_bytes() for name in (WEIGHTS, "record.json")}
    try:
        found = with_origin(again)
        assert (found.method.start_from, found.method.started_from) == (str(moved), second.method.started_from)
        (moved / WEIGHTS).write_bytes(b"other")
        with pytest.raises(UserError, match=f"{WEIGHTS} is gone or damaged"):
            with_origin(again)
        set_part(moved, files=None)
        with pytest.raises(UserError, match=r"from_record=.*: began with the weights .* which now holds"):
            with_origin(again)
    finally:
        for name, content in kept.items():
            (moved / name).write_bytes(content)
        shutil.move(moved, folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=ia3"], "trained with method=lora, this run has method=ia3, which makes another model"),
        (["method=lora", "method.rank=4"], "trained with method.rank=8, this run has method.rank=4"),
        (["method=lora", "method.alpha=4"], "trained with method.alpha=16, this run has method.alpha=4"),
        (["method=lora", "method.reversal=exact"], "trained with method.reversal=off, this run has method.reversal=ex"),
        (["method=lora", "backbone=roberta_base"], "trained with backbone=roberta, this run has backbone=roberta_base"),
        (["method=lora", "backbone.repeat=2"], "trained with backbone.repeat=1, this run has backbone.repeat=2"),
        (
            ["method=lora", "backbone.weights=bf16", "training.precision=bf16"],
            "trained with backbone.weights=fp32, this",
        ),
        (["method=lora", "method.dropout=0.1", "method.checkpointing=true"], None),
        (["method=lora", "method.started_from=a"], "method.started_from=a: comes from the file of conf/method/"),
    ],
)
def test_another_model_is_refused_with_what_differs(words, message, places, earlier, monkeypatch, capsys):
    folder = earlier("method=lora")
    typed = ["backbone=roberta", "task=mrpc", "output_dir=never", f"method.start_from={folder}", *words]
    typed = [word for i, word in enumerate(typed) if word.partition("=")[0] not in
             {other.partition("=")[0] for other in typed[i + 1:]}]  # fmt: skip
    monkeypatch.chdir(places)
    monkeypatch.setattr("meft_runner.sweeps.command.run_one", lambda *args, **kwargs: None)
    code, _, error = call(monkeypatch, capsys, cli.meft_run, *typed)
    assert code == (2 if message else 0)
    assert message is None or message in error
    assert error.count("\n") <= 2


def test_another_coupling_is_refused(places, tmp_path):
    first = chosen(places, "rte", "method=meft1", "method.merge=learned", f"output_dir={tmp_path}")
    write_run(first)
    folder = run_directory(first)
    (folder / "adapter").mkdir()
    (folder / WEIGHTS).write_text("weights")
    for word, message in {
        "method.scale_1=1/8": "trained with method.scale_1=1/10, this run has method.scale_1=1/8",
        "method.mu=1-scale": r"trained with method.mu=1, this run has method.mu=\[0.9, 1.0\]",
        "method.adapter_factor=4": "trained with method.adapter_factor=1.0, this run has method.adapter_factor=4",
    }.items():
        with pytest.raises(UserError, match=message):
            begun_from(folder, places, "mrpc", "method=meft1", "method.merge=learned", word)


def test_another_base_of_the_same_name_is_refused(places, earlier, tmp_path):
    folder = earlier("method=lora")
    shutil.copytree(places / "model", tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    save_file({name: weight * 2 for name, weight in load_file(file).items()}, file, metadata={"format": "pt"})
    begun = begun_from(folder, places, "mrpc", "method=lora", "seed=9")
    begun.backbone.path = str(tmp_path / "model")
    with pytest.raises(
        UserError, match=r"trained on other weights of backbone=roberta \(.*sha256 .*\) than this run's"
    ):
        run(begun)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shutil.rmtree, "no such folder"),
        (lambda folder: (folder / "record.json").unlink(), "is not the folder of a run, it has no record.json"),
        (lambda folder: (folder / "record.json").write_text("{"), "not a run record of this program"),
        (lambda folder: os.truncate(folder / WEIGHTS, 100), f"{WEIGHTS} is gone or damaged"),
        (lambda folder: (folder / WEIGHTS).unlink(), f"{WEIGHTS} is gone or damaged"),
        (lambda folder: set_part(folder, status="running"), "is running, not complete"),
        (lambda folder: set_part(folder, status="failed", error="no memory"), r"is failed \(no memory\), not complete"),
        (lambda folder: set_part(folder, scores=None), "is a study, which has trained nothing"),
    ],
)
def test_a_run_that_cannot_be_begun_with(change, message, places, earlier, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(earlier("method=lora"), folder)
    change(folder)
    with pytest.raises(UserError, match=message) as told:
        begun_from(folder, places, "mrpc", "method=lora")
    assert len(str(told.value).splitlines()) <= 2


def set_part(folder, **parts):
    content = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(content | parts))


def test_a_run_trained_anew_in_between_is_refused(places, earlier):
    folder = earlier("method=lora")
    begun = begun_from(folder, places, "mrpc", "method=lora", "seed=8")
    begun.method.started_from = "other-0"
    with pytest.raises(UserError, match="was trained anew meanwhile"):
        run(begun)


def test_memory_does_not_depend_on_it(monkeypatch, capsys):
    code, _, error = call(monkeypatch, capsys, cli.meft_memory, "method.start_from=runs/a")
    assert code == 2
    assert "method.start_from=runs/a: has no effect on memory. Leave it out." in error
