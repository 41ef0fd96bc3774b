import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, ValidationError
from transformers import AutoConfig, AutoModel

from meft_runner.config import DEPTH_NAMES
from meft_runner.reports.published import PUBLISHED, published_scores, read_published
from tests.helpers.composed import settings
from tests.helpers.records import record


def changed(tmp_path, change):
    content = OmegaConf.to_container(OmegaConf.load(PUBLISHED))
    change(content)
    path = tmp_path / "published.yaml"
    OmegaConf.save(content, path)
    return path


@pytest.mark.parametrize("key", ["source", "address"])
def test_no_number_without_a_source(tmp_path, key):
    with pytest.raises(MissingMandatoryValue):
        read_published(changed(tmp_path, lambda content: content["full_fine_tuning"][1].pop(key)))
    with pytest.raises(ValueError, match="needs a source"):
        read_published(changed(tmp_path, lambda content: content["full_fine_tuning"][1].update({key: " "})))
    with pytest.raises(MissingMandatoryValue):
        read_published(changed(tmp_path, lambda content: content["activation_memory"].pop(key)))


def test_numbers_have_their_place(tmp_path):
    with pytest.raises(ConfigKeyError):
        read_published(changed(tmp_path, lambda content: content.update({"lora": {"rte": 85.0}})))
    with pytest.raises(ValidationError):
        read_published(changed(tmp_path, lambda content: content["activation_memory"].update(less_than_full="much")))


@pytest.mark.parametrize("scores", read_published().full_fine_tuning, ids=lambda scores: scores.backbone)
@pytest.mark.thin(2)
def test_names_are_ours(scores):
    for task, by_metric in scores.scores.items():
        composed = settings(f"backbone={scores.backbone}", f"task={task}").task
        expected = composed.metrics[0] if hasattr(composed, "metrics") else "acc"
        assert list(by_metric) == [expected]  # what a record of the task is scored by


@pytest.mark.parametrize("scores", read_published().full_fine_tuning, ids=lambda scores: scores.backbone)
@pytest.mark.thin(2)
def test_sizes_are_those_of_the_backbone(scores):
    sizes = settings(f"backbone={scores.backbone}", "task=rte").backbone
    assert sum(sizes.config.get(name, 0) for name in DEPTH_NAMES) == scores.layers
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(sizes.model_types[0], **sizes.config))
    assert sum(parameter.numel() for parameter in model.parameters()) == scores.parameters


def test_every_task_has_its_number_of_rows():
    published = read_published()
    assert set(published.rows) == {task for one in published.full_fine_tuning for task in one.scores}


def beside(*records):
    """Returns what stands beside runs: values by task of the one source that has any."""
    runs = pd.DataFrame({"task": [made.config.task.name for made in records], "record": records})
    found = published_scores(runs)
    return {task: score for _, row in found.iterrows() for task, score in row.items() if score == score}


def test_a_row_a_source_and_a_column_a_task():
    runs = pd.DataFrame({"task": ["a", "b"], "record": [of("piqa", "acc"), of("rte")]})
    table = published_scores(runs)
    assert table.index.tolist() == ["full (published: Offsite-Tuning, arXiv 2302.04870)"]
    assert table["a"].tolist() == [75.2]
    assert table["b"].isna().all()
    assert published_scores(runs[1:]).empty


def of(task, metric="accuracy", *overrides, backbone="opt", rows=None, **parts):
    """Returns the record of a run on splits of so many rows."""
    names = zip(("train", "validation", "validation_mismatched"), rows or [], strict=False)
    splits = {name: {"rows": count, "fingerprint": name} for name, count in names}
    data = {"synthetic": False, "splits": splits}
    return record(0.5, f"backbone={backbone}", f"task={task}", *overrides, metric=metric, data=data, **parts)


@pytest.mark.parametrize(
    ("overrides", "rows", "there"),
    [
        ((), (2490, 277), True),
        (("task.data_dir=/data",), (2490, 277), True),  # a copy of all rows
        (("task.data_dir=/data",), (20, 20), False),
        (("task.data_dir=/data",), (20, 277), False),
        (("task.max_train_rows=20",), (20, 277), False),
        ((), (), True),  # of an earlier version, which did not count them
        (("task.data_dir=/data",), (), False),
        (("task.max_eval_rows=20",), (), False),
    ],
)
def test_only_beside_all_rows_of_the_task(overrides, rows, there):
    assert beside(of("rte", "accuracy", *overrides, backbone="roberta", rows=rows)) == ({"rte": 86.6} if there else {})


def test_several_development_splits():
    made = of("mnli", backbone="roberta", rows=(392702, 9815, 9832))
    assert beside(made) == {"mnli": 90.2}


FOLDER = "backbone.path=/models/one"
LARGE = 355_359_744


@pytest.mark.parametrize(
    ("overrides", "parameters", "there"),
    [
        ((FOLDER, "method=full"), {"total": LARGE + 10**6, "trainable": LARGE + 10**6, "layers": 24}, True),
        ((FOLDER,), {"total": LARGE + 10**8, "trainable": 10**8, "layers": 24}, True),  # wide adapters
        ((FOLDER,), {"total": LARGE, "trainable": 10}, True),  # of an earlier version, which did not count layers
        ((FOLDER,), {"total": LARGE, "trainable": 10, "layers": 22}, False),
        ((FOLDER, "method=full"), {"total": 125 * 10**6, "trainable": 125 * 10**6, "layers": 24}, False),
        (("backbone.repeat=2",), {"total": LARGE, "trainable": 10, "layers": 48}, False),
    ],
)
def test_only_beside_the_model_that_is_named(overrides, parameters, there):
    made = of("rte", "accuracy", *overrides, backbone="roberta", rows=(2490, 277), parameters=parameters)
    assert beside(made) == ({"rte": 86.6} if there else {})


def test_beside_none_where_one_of_the_runs_is_of_something_else():
    assert beside(*(of("rte", backbone="roberta", rows=rows) for rows in ((2490, 277), (20, 20)))) == {}


def test_the_sentence_about_memory_names_its_source():
    assert read_published().activation_memory.sentence == (
        "Published: activation memory down by up to 84 % of full (MEFT, arXiv 2306.00477, abstract)."
    )
