from functools import partial

import pandas as pd
import pytest

from meft_runner.reports.labels import (
    backbone_labels,
    in_method_order,
    layer_count,
    method_label,
    task_kind,
    task_labels,
)
from tests.helpers.records import changed, record


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        (["method=meft1"], "meft1"),
        (["method=meft3", "method.reversal=float"], "meft3 (reversal=float)"),
        (["method=meft1", "method.scale_1=1/100"], "meft1 (scale_1=1/100)"),
        (["method=meft1", "method.scale_1=0.1"], "meft1"),
        (["method=meft1", "method.scale_1=0.01"], "meft1 (scale_1=1/100)"),
        (["method=lora", "method.checkpointing=true"], "lora (checkpointing=True)"),
        (["method=lora", "method.checkpointing=offload"], "lora (checkpointing=offload)"),
        (["method=full", "method.checkpointing=every_4"], "full (checkpointing=every_4)"),
        (["method=ia3", "training.learning_rate=1"], "ia3"),
        (["method=meft1", "method.chunks=4", "method.adapter_dim=16"], "meft1 (adapter_dim=16, chunks=4)"),
        (["method=meft1", "method.scale_2=1.0", "method.mu=1.0", "method.merge=[0.5,0.5]"], "meft1"),
        (["method=meft1", "method.mu=1-scale"], "meft1 (mu=1-scale)"),
        (["method=meft1", "method.mu=9/10"], "meft1 (mu=1-scale)"),
        (["method=meft1", "method.mu=0.95"], "meft1 (mu=0.95)"),
        (["method=meft1", "method.merge=[0.1,1]"], "meft1 (merge=[0.1, 1.0])"),
        (["method=meft1", "method.merge=learned"], "meft1 (merge=learned)"),
        (["method=meft1_start"], "meft1_start"),
        (["method=meft3_start", "method.merge=[0.0,1.0]", "method.mu=255/256"], "meft3_start"),
        (["method=meft1_start", "method.scale_1=1/10", "method.mu=1"], "meft1_start (scale_1=1/10, mu=1)"),
        (["method=meft1_start", "method.zero_start=false"], "meft1_start (zero_start=False)"),
        (["method=dora"], "dora"),
        (["method=vera"], "vera"),
        (["method=lora", "method.reversal=exact"], "lora (reversal=exact)"),
        (["method=lora", "method.reversal=exact", "method.scale_1=0.00390625"], "lora (reversal=exact)"),
        (
            ["method=ia3", "method.reversal=float", "method.scale_1=0.1", "method.mu=1"],
            "ia3 (reversal=float, scale_1=1/10, mu=1)",
        ),
    ],
)
@pytest.mark.thin(3)
def test_labels_name_what_differs_from_the_defaults(overrides, label):
    assert method_label(record(0.5, *overrides)) == label


NEW = ("variant", "adapter_factor", "zero_start", "mu")


@pytest.mark.parametrize(
    ("overrides", "content", "label"),
    [
        (["method=meft1"], {}, "meft1"),
        (["method=meft1"], {"merge": [0.1, 1.0]}, "meft1 (merge=[0.1, 1.0])"),
        (["method=meft2"], {"scale_2": "1/100", "chunks": 1}, "meft2 (scale_2=1/100, chunks=1)"),
        (["method=lora"], {"rank": 4, "checkpointing": True}, "lora (checkpointing=True, rank=4)"),
        (["method=lora"], {"learning_rate": 0.5}, "lora"),
        (["method=lora"], {"scale_1": "1/64", "reversal": "off"}, "lora"),  # nothing reads it
        (["method=full"], {"checkpointing": True}, "full (checkpointing=True)"),
        (["method=meft1"], {"of_another_program": 1}, "meft1"),
    ],
)
def test_records_of_earlier_versions_are_called_as_before(overrides, content, label):
    made = record(0.5, *overrides)
    config = made.config.plain()
    later = () if config["method"]["name"].startswith("meft") else ("reversal", "scale_1", "grid_bits", "strict")
    kept = {key: value for key, value in config["method"].items() if key not in (*NEW, *later)}
    assert method_label(changed(made, config=config | {"method": kept | content})) == label


def test_a_record_that_does_not_say_where_its_layers_have_their_norm():
    made = record(0.5, "method=meft1")
    made.config.backbone.norm = None
    assert method_label(made) == "meft1 (merge=[0.5, 0.5])"


def test_a_label_without_what_an_axis_says():
    made = record(0.5, "method=meft1", "method.frozen_layers=2", "method.chunks=4")
    assert method_label(made, without=("frozen_layers",)) == "meft1 (chunks=4)"


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        (["task=cola"], "cola"),
        (["task=demo"], "demo (synthetic)"),
        (["task=cola", "task.max_train_rows=2000"], "cola (2000 rows)"),
        (["task=cola", "task.max_train_rows=2", "task.max_eval_rows=1"], "cola (2 rows, 1 development rows)"),
        (["task=text", "task.train_file=a/good.csv", "task.eval_file=b/bad.csv"], "text (good.csv)"),
        (["task=text", "task.train_file='a\nb.csv'", "task.eval_file=b/bad.csv"], "text (a?b.csv)"),
    ],
)
def test_a_task_whose_rows_are_made_up_or_the_users_or_not_all(overrides, label):
    assert task_labels([record(0.5, *overrides)]) == [label]


def on(*overrides, rows=("a", "b"), source="nyu-mll/glue", **more):
    """Returns what makes the record of a run on rows with these fingerprints, which takes a while."""
    names = zip(("train", "validation"), rows, strict=True)
    splits = {name: {"rows": 9, "fingerprint": fingerprint} for name, fingerprint in names}
    return partial(record, 0.5, *overrides, data={"synthetic": False, "source": source, "splits": splits} | more)


TEXT = ("task=text", "task.eval_file=e.csv")
HERE, THERE = (*TEXT, "task.train_file=here/r.csv"), (*TEXT, "task.train_file=there/r.csv")


@pytest.mark.parametrize(
    ("makers", "labels"),
    [
        ([on("seed=1"), on("seed=2")], ["rte", "rte"]),
        ([on(), on("task.data_dir=/data/mine", rows=("a", "c"))], ["rte (glue)", "rte (mine)"]),
        ([on(), on("task.data_dir=/data/mine")], ["rte", "rte"]),  # a copy of the hub's
        ([on(version=1), on(version=2)], ["rte (version 1)", "rte (version 2)"]),
        ([on(version=1), on()], ["rte (version 1)", "rte (version not recorded)"]),
        ([on(), on(rows=("a", "c"), revision="1f2e3d")], None),
        ([on(labels="classes a, b"), on(labels="regression over 0.0 to 1.0")], None),
        ([on(*TEXT, "task.train_file=a.csv"), on(*TEXT, "task.train_file=b.csv")], ["text (a.csv)", "text (b.csv)"]),
        ([on(*HERE), on(*THERE)], ["text (r.csv)", "text (r.csv)"]),  # the same rows
        (
            [on(*HERE), on(*THERE, "task.eval_file=f.csv", rows=("a", "c"))],
            ["text (r.csv, e.csv)", "text (r.csv, f.csv)"],
        ),
        ([on(*HERE), on(*THERE, rows=("c", "d"))], ["text (r.csv, data a)", "text (r.csv, data c)"]),
        ([on(*HERE), on(*THERE, rows=("a", "c")), on("task=cola")], None),
    ],
)
def test_other_rows_are_another_task(makers, labels):
    records = [make() for make in makers]
    found = task_labels(records)
    if labels is not None:
        assert found == labels
    else:
        assert len(set(found)) == len(records)
        assert all(label.split()[0] == one.config.task.name for label, one in zip(found, records, strict=True))


def test_made_up_rows_of_other_numbers_are_another_task():
    made = [on("task=demo", rows=rows, synthetic=True, source="generated")() for rows in (("a", "b"), ("c", "d"))]
    made[1].data.splits["train"].rows = 16
    assert task_labels(made) == [
        "demo (synthetic, 9 train rows and 9 validation rows)", "demo (synthetic, 16 train rows and 9 validation rows)",
    ]  # fmt: skip


def scoring(tokens, *overrides, kind="lm", rows=("a", "b"), **parts):
    """Returns the record of a language model that was scored on so many tokens; None as of an earlier version."""
    splits = {
        name: {"rows": 9, "fingerprint": rows[place], **({} if tokens is None else {"learnt_tokens": count})}
        for place, (name, count) in enumerate({"train": 5000, "evaluation": tokens}.items())
    }
    data = {"synthetic": False, "kind": kind, "splits": splits}
    return record(0.5, "backbone=opt", f"task={kind}", *overrides, data=data, **parts)


def test_other_tokens_of_the_same_rows_are_another_task():
    assert task_labels([scoring(140), scoring(2400), scoring(140)]) == [
        "lm (140 scored tokens)", "lm (2,400 scored tokens)", "lm (140 scored tokens)",
    ]  # fmt: skip
    assert task_labels([scoring(None), scoring(140)]) == ["lm (scored tokens not recorded)", "lm (140 scored tokens)"]
    assert task_labels([scoring(None), scoring(None)]) == ["lm", "lm"]
    assert task_labels([scoring(140, kind="rte"), scoring(2400, kind="rte")]) == ["rte", "rte"]  # a share of rows


def test_other_chat_templates_are_another_task():
    def by(*overrides, sha256=None):
        stamp = {"bytes": 1, "modified_ns": 1, "sha256": sha256}
        files = {} if sha256 is None else {"task.chat_template/one.jinja": stamp}
        return scoring(9, *overrides, kind="chat", files=files)

    own, plain = by(), by("task.chat_template=plain")
    here, there, other = (
        by(f"task.chat_template={at}/one.jinja", sha256=digest)
        for at, digest in (("a", "1f"), ("b", "1f"), ("a", "2e"))
    )
    labels = task_labels([own, plain, here, there, other])
    assert len(set(labels)) == 4
    assert labels[2] == labels[3]


@pytest.mark.parametrize(
    ("data", "overrides", "kind"),
    [
        ({"kind": "choice"}, (), "choice"),
        ({}, ("task=piqa", "backbone=opt"), "choice"),  # of an earlier version
        ({}, ("task=rte",), "glue"),
        ({}, ("task=squad",), "squad"),
        ({}, ("task=svhn", "backbone=vit"), "image"),
    ],
)
def test_the_kind_of_a_task(data, overrides, kind):
    assert task_kind(record(0.5, *overrides, data={"synthetic": False} | data)) == kind


def test_a_kind_that_settings_do_not_tell():
    made = record()
    made.config.task.__pydantic_extra__["of_another_program"] = 1
    assert task_kind(made) is None


def test_models_of_one_name_with_other_weights_are_told_apart():
    usual = {"source": "FacebookAI/roberta-large", "revision": "1f2e", "sha256": None}
    other = {"source": "/models/tiny", "revision": None, "sha256": "3d4c"}
    assert backbone_labels([record(weights=usual), record(weights=usual)]) == ["minilm", "minilm"]
    apart = [record(weights=usual), record(0.5, "backbone.path=/models/tiny", weights=other)]
    assert backbone_labels(apart) == ["minilm (roberta-large)", "minilm (tiny)"]
    newer = record(weights=usual | {"revision": "9f8e"})
    assert backbone_labels([record(weights=usual), newer]) == ["minilm (weights 1f2e)", "minilm (weights 9f8e)"]


@pytest.mark.parametrize(
    ("overrides", "label", "layers"),
    [
        (["backbone=minilm"], "minilm", 6),
        (["backbone=minilm", "backbone.repeat=4"], "minilm (repeat=4)", 24),
        (["backbone=bart"], "bart", 24),
    ],
)
def test_stacked_backbones(overrides, label, layers):
    made = record(0.5, *overrides)
    assert (backbone_labels([made]), layer_count(made)) == ([label], layers)


def test_the_depth_of_a_record_that_does_not_say():
    made = record()
    made.config.backbone.config = {}
    assert layer_count(made) is None


def test_the_depth_of_a_folder_is_that_of_its_model():
    made = record(0.5, "backbone.path=/models/tiny")
    assert layer_count(made) is None  # the sizes in the settings are those of the hub's model
    made.parameters.layers = 2
    assert layer_count(made) == 2


def test_names_without_depth():
    made = [record(), record(0.5, "backbone.repeat=2")]
    assert backbone_labels(made, with_depth=False) == ["minilm", "minilm"]


def test_methods_in_order():
    table = pd.DataFrame({"backbone": ["b", "a", "a", "a"], "method": ["full", "meft1", "lora (rank=2)", "full"]})
    assert in_method_order(table)["method"].tolist() == ["full", "lora (rank=2)", "meft1", "full"]


def test_weights_of_another_form_make_another_method_of_the_same_backbone():
    found = [record(0.5), record(0.5, "backbone.weights=nf4"), record(0.5, "backbone.weights=nf4", "method.chunks=2")]
    assert backbone_labels(found) == ["minilm"] * 3
    assert list(map(method_label, found)) == ["meft1", "meft1 (weights=nf4)", "meft1 (chunks=2, weights=nf4)"]
    plain = found[0].plain()
    del plain["config"]["backbone"]["weights"]  # of a run before there were other forms
    assert method_label(type(found[0]).model_validate(plain)) == "meft1"
