"""Conversations of a data set on the hub, and the chat template of a model there."""

import json

import pytest

from meft_runner.backbones.processors import load_tokenizer
from meft_runner.backbones.sources import find_source
from meft_runner.config import BackboneSettings, ChatSettings
from meft_runner.errors import UserError
from meft_runner.tasks import load_task
from tests.helpers.hub import Fault
from tests.helpers.hub_reads import forget
from tests.helpers.language import CHATML, LANGUAGE_ROWS, chat_tokenizer, make_llama_folder


def repository(rows, splits=("train", "test")):
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    return {f"{split}.jsonl": lines.encode() for split in splits}


def chat(**settings):
    return load_task(
        ChatSettings(**{"name": "chat", "hub": "someone/talks", "max_length": 120} | settings), chat_tokenizer()
    )


def test_conversations_are_read_from_the_hub_and_then_from_the_cache(hub, cache):
    rows = [row | {"id": str(number)} for number, row in enumerate(LANGUAGE_ROWS["chat"] * 5)]
    hub.add("datasets", "someone/talks", repository(rows))
    data = chat()
    assert (len(data.train), len(data.evaluation["evaluation"].rows)) == (9, 1)
    assert data.description["source"] == "someone/talks"
    assert len(data.description["revision"]) == 40
    assert "1 of 10 rows of talks are held out" in data.description["notes"][0]
    hub.faults.append(Fault("", status=503))
    forget()
    again = chat(eval_split="test")
    assert (len(again.train), len(again.evaluation["evaluation"].rows)) == (10, 10)
    with pytest.raises(
        UserError, match=r"task=chat: someone/talks: it has no split 'dev' .train, test.*task.train_file="
    ):
        chat(eval_split="dev")


def test_rows_of_the_hub_that_are_no_conversations(hub, cache):
    hub.add("datasets", "someone/talks", repository(LANGUAGE_ROWS["lm"]))
    with pytest.raises(
        UserError, match=r"task.hub=someone/talks, train, row 1: column 'messages' is missing .found: text"
    ):
        chat()


def test_the_chat_template_of_a_model_is_fetched(hub, cache, tmp_path):
    make_llama_folder(tmp_path / "llama")
    files = {path.name: path.read_bytes() for path in (tmp_path / "llama").iterdir()}
    assert "chat_template.jinja" in files
    hub.add("models", "someone/llama", files)
    backbone = BackboneSettings(name="llama3_1b", model_types=["llama"], hub="someone/llama")
    assert load_tokenizer(backbone, find_source(backbone), 64).chat_template == CHATML
