"""The lines on a run's model card load what it has trained: the same outputs, with peft alone where it is peft's."""

import re
import subprocess
import sys

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftConfig
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from meft_runner import load_adapter
from meft_runner.config import Head, PredictSettings
from meft_runner.predict.trained import find_run
from meft_runner.records.record import read_record
from meft_runner.run.distances import relative_distance
from tests.helpers.trained import PAIR

QUICK = ("lora", "ia3 reversed", "meft3")
SLOW = ("full", "ia3", "lora reversed", "dora", "vera", "meft1")
KINDS = ("stsb", "text", "demo", "arc_easy", "squad", "images", "lm")


def lines_of(folder):
    """Returns the card's lines, with the places of this machine in them."""
    text = ModelCard.load(folder / "adapter" / "README.md").text
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    return code.replace('"FOLDER"', repr(str(folder / "adapter"))).replace('"DIR"', repr(base_of(folder)))


def base_of(folder):
    return read_record(folder).config.backbone.path


def loaded(folder):
    found = {}
    exec(lines_of(folder), found)
    return found["model"]


def coupled(folder):
    """Returns the model whose layers run as they were trained, as the card has it for reversed methods of peft."""
    text = ModelCard.load(folder / "adapter" / "README.md").text
    (call,) = re.findall(r"`meft_runner\.(load_adapter\(base, .*?\))`", text)
    names = {"load_adapter": load_adapter}
    exec(lines_of(folder).rpartition("model = ")[0], names)
    return eval(call.replace('"FOLDER"', repr(str(folder / "adapter"))), names)


def of_run(folder):
    """Returns the run's own model."""
    trained = find_run(PredictSettings(run=str(folder), split="validation"), {})
    return trained.load(len(trained.classes), torch.device("cpu"))


def logits(model, folder):
    """Returns a model's logits for the development rows, (N, classes)."""
    tokenizer = AutoTokenizer.from_pretrained(base_of(folder))
    texts = [[row[name] for row in PAIR[1:]] for name in ("sentence1", "sentence2")]
    with torch.no_grad():
        return model(**tokenizer(*texts, padding=True, truncation=True, max_length=100, return_tensors="pt")).logits


@pytest.mark.parametrize("method", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
@pytest.mark.thin(2)
def test_a_classifier_has_the_logits_of_its_run(method, trained):
    folder = trained("rte", method)
    texts = [file.read_text() for file in (folder / "adapter").iterdir() if file.suffix != ".safetensors"]
    assert not any(str(folder.parent.parent) in text for text in texts)
    found, expected = logits(loaded(folder), folder), logits(of_run(folder), folder)
    apart = read_record(folder).plain_model
    if apart is None:
        assert torch.equal(found, expected)
    else:
        assert relative_distance(expected.flatten(), found.flatten()) == pytest.approx(apart.output_distance, rel=0.02)
        assert torch.equal(logits(coupled(folder), folder), expected)


@pytest.mark.parametrize("method", ["ia3 reversed", "meft3"])
def test_another_base_of_the_same_sizes_is_refused(method, trained):
    folder = trained("rte", method)
    base = AutoModelForSequenceClassification.from_pretrained(base_of(folder), num_labels=2)
    torch.nn.init.normal_(base.base_model.encoder.layer[1].output.dense.weight)
    with pytest.raises(ValueError, match=r"another base model \(its sizes are the same, but .*output\.dense\.weight"):
        load_adapter(base, folder / "adapter")


def hidden_states(model, head):
    """Returns a model's last hidden states for some inputs, (B, S, H), whatever stands on it."""
    generator = torch.Generator().manual_seed(1)
    config = model.config
    if head is Head.image:
        size = (2, config.num_channels, config.image_size, config.image_size)
        inputs = {"pixel_values": torch.rand(size, generator=generator)}
    else:
        inputs = {"input_ids": torch.randint(5, 90, (2, 12), generator=generator)}
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    with torch.no_grad():
        return inner.base_model(**inputs).last_hidden_state


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "meft1", "full"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_every_task_has_the_states_of_its_run(kind, method, trained):
    folder = trained(kind, method)
    run = of_run(folder)
    head = next(head for head in Head if head.name in str(read_record(folder).config.backbone.plain()["heads"]))
    assert torch.equal(hidden_states(loaded(folder), head), hidden_states(run, head))


def test_peft_knows_the_base_by_what_the_settings_say(trained):
    """A folder of this machine has no name on the hub."""
    config = PeftConfig.from_pretrained(trained("rte", "lora") / "adapter")
    assert (config.base_model_name_or_path, config.revision) == (None, None)


@pytest.mark.slow
def test_peft_alone_loads_it_where_this_program_is_not(trained, tmp_path):
    for method in ("lora", "ia3 reversed"):
        folder = trained("rte", method)
        code = f"import sys\nsys.modules['meft_runner'] = None\n{lines_of(folder)}print(type(model).__name__)\n"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )
        assert (done.returncode, done.stdout) == (0, "PeftModel\n"), done.stderr
