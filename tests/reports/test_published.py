import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, ValidationError

from meft_runner.reports.published import PUBLISHED, published_scores, read_published
from tests.helpers.composed import settings


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


def test_a_row_a_source_and_a_column_a_task():
    table = published_scores("opt", ["piqa acc", "rte accuracy"])
    assert table.index.tolist() == ["full (published: Offsite-Tuning, arXiv 2302.04870)"]
    assert table["piqa acc"].tolist() == [75.2]
    assert table["rte accuracy"].isna().all()
    assert published_scores("opt", ["rte accuracy"]).empty


def test_the_sentence_about_memory_names_its_source():
    assert read_published().activation_memory.sentence == (
        "Published: activation memory down by up to 84 % of full (MEFT, arXiv 2306.00477, abstract)."
    )
