"""The model card of a run: what the hub reads of it, and what a person does."""

import re

import pytest
from huggingface_hub import ModelCard

from meft_runner.config import from_plain
from meft_runner.run.card import model_card
from tests.helpers.records import changed, of_texts, record

COMMIT = {"source": "FacebookAI/roberta-large", "revision": "abc123", "sha256": None}
SPLITS = {"train": {"rows": 40, "fingerprint": "f1"}, "validation": {"rows": 20, "fingerprint": "f2"}}


def card_of(made, repository=None):
    return ModelCard(model_card(from_plain(made.config.plain()), made, repository))


def rte(*words, **parts):
    data = {"source": "nyu-mll/glue", "revision": "d1", "synthetic": False, "splits": SPLITS}
    history = [(0.7, 0.5), (0.6, 0.75)]
    return record(0.75, *words, history=history, **{"data": data, "weights": COMMIT} | parts)


def test_the_hub_finds_base_rows_and_scores():
    card = card_of(rte("backbone=roberta", "method=lora", "method.reversal=exact"))
    data = card.data
    assert (data.base_model, data.datasets) == ("FacebookAI/roberta-large", ["nyu-mll/glue"])
    assert (data.library_name, data.pipeline_tag) == ("peft", "text-classification")
    assert data.tags == ["meft-runner", "lora", "reversible"]
    assert [(each.metric_type, each.metric_value) for each in data.eval_results] == [("accuracy", 0.75)]


def test_a_person_finds_what_it_is_and_what_it_was_made_from():
    text = str(card_of(rte("backbone=roberta", "method=lora", "method.reversal=exact")))
    for part in (
        "FacebookAI/roberta-large", "commit `abc123`", "| best accuracy (%)", "75.0", "| peak (MiB)", "commit `d1`",
        "f1", "0: entailment", "method.rank=8", 'revision="abc123"', "num_labels=2", "trained in a delay coupling",
    ):  # fmt: skip
        assert part in text, part
    assert "learning_rate=0.001" in text
    assert "PeftModel.from_pretrained(base, " in text


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("backbone=roberta", "method=meft1"), 'model = load_adapter(base, snapshot_download("jane/a")).eval()'),
        (("backbone=roberta", "method=ia3"), 'model = PeftModel.from_pretrained(base, "jane/a").eval()'),
        (("backbone=roberta", "method=full"), 'snapshot_download("jane/a") + "/adapter_model.safetensors"'),
        (("backbone=vit", "task=svhn"), "AutoModelForImageClassification"),
        (("backbone=bert", "task=squad"), "AutoModelForQuestionAnswering"),
        (("backbone=opt", "task=piqa"), "AutoModelForCausalLM"),
        (("backbone=opt", "task=rte"), "It reads each row's last token"),
        (("backbone=minilm", "task=demo"), '"sentence-transformers/all-MiniLM-L6-v2", '),
        (("backbone=minilm", "backbone.repeat=2"), "The base model's layers are stacked 2 times"),
        (("backbone=opt", "backbone.weights=nf4", "training.precision=bf16"), "were held as nf4 while it trained"),
    ],
)
@pytest.mark.thin(2)
def test_how_to_load_it(words, line):
    assert line in str(card_of(rte(*words), "jane/a"))


def test_nothing_of_the_machine_is_named():
    """Whatever of it the settings have: folders, files, the earlier run that it began with."""
    words = ("backbone=roberta", "backbone.path=/home/jane/model", "task.data_dir=/home/jane/rows", "method=lora")
    data = {"source": "/home/jane/rows", "synthetic": False, "splits": SPLITS, "notes": ["/home/jane/rows is there"]}
    weights = {"source": "/home/jane/model", "revision": None, "sha256": "5ca1ab1e"}
    made = rte(*words, data=data, weights=weights)
    config = made.config.plain()
    config["method"] |= {"start_from": "/home/jane/runs/first", "started_from": "abc-123"}
    origin = {"run": "first", "identity": "abc", "sha256": "123", "taken": 3, "anew": ["classifier.weight"]}
    made = changed(made, config=config, origin=origin)
    text = str(card_of(made))
    assert "/home" not in text
    assert "rows of local files" in text
    assert "sha256 `5ca1ab1e`" in text
    assert "It began with the trained weights of the run `first`" in text
    assert "started_from" not in text  # which cannot be typed
    assert not re.search("base_model|datasets", text.split("---")[1])


def test_class_names_stay_on_their_line():
    data = {"synthetic": False, "splits": SPLITS, "classes": ["a\n```\n# not a heading", "b"]}
    text = str(card_of(rte("backbone=roberta", "task=text", "task.metric=f1", data=data)))
    assert "\n# not" not in text
    assert "1: b" in text


def test_texts_of_a_users_own():
    text = str(card_of(of_texts(1.5, "task=lm", "task.train_file=/home/jane/mine.jsonl")))
    assert "| best loss" in text
    assert "mine.jsonl" not in text
