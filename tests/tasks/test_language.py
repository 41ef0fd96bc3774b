import json
import logging
import math
import re

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from transformers import EvalPrediction

from meft_runner.config import ChatSettings, InstructSettings, LmSettings, TooLong, from_plain, identity, plain
from meft_runner.errors import UserError
from meft_runner.tasks import language_rows, language_scores, load_task
from meft_runner.tasks.language_scores import token_scores
from tests.helpers.commands import ended
from tests.helpers.composed import settings
from tests.helpers.folders import write_lines
from tests.helpers.language import LANGUAGE_ROWS, TALK, chat_tokenizer

KINDS = {"lm": LmSettings, "instruct": InstructSettings, "chat": ChatSettings}
ROWS = [{"text": f"Number {number}."} for number in range(20)]
LONG = [{"prompt": "a" * number, "completion": "bcd"} for number in (4, 10, 30)]


@pytest.fixture
def load(tmp_path):
    """Loads a task from rows, which are written to files."""

    def load(rows, evaluation=None, kind="lm", suffix="jsonl", **chosen):
        files = {}
        for name, content in (("train_file", rows), ("eval_file", evaluation)):
            if content is not None:
                files[name] = str(tmp_path / f"{name}.{suffix}")
                write(tmp_path / f"{name}.{suffix}", content)
        return load_task(KINDS[kind](**{"name": kind, "max_length": 100} | files | chosen), chat_tokenizer())

    return load


def write(path, rows):
    if path.suffix == ".jsonl":
        write_lines(path, rows)
    elif path.suffix == ".csv":
        cells = [{k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows]
        pd.DataFrame(cells).to_csv(path, index=False)
    else:
        pd.DataFrame(rows).to_parquet(path)


def texts(rows):
    return [chat_tokenizer().decode(ids, skip_special_tokens=True) for ids in rows["input_ids"]]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_reads_the_same(kind, load):
    found = [load(LANGUAGE_ROWS[kind] * 2, kind=kind, suffix=suffix) for suffix in ("jsonl", "csv", "parquet")]
    for data in found:
        assert list(data.train) == list(found[0].train)
        assert data.description["splits"] == found[0].description["splits"]


def test_rows_are_held_out_by_their_number_alone(load):
    data = load(ROWS)
    train, scored = texts(data.train), texts(data.evaluation["evaluation"].rows)
    assert len(train) == 18
    assert sorted([*train, *scored]) == sorted(row["text"] for row in ROWS)
    assert data.description["notes"] == [
        "2 of 20 rows of train_file.jsonl are held out to score (task.eval_fraction=0.1), the same ones for every seed"
    ]
    fewer = load(ROWS, max_train_rows=5, max_eval_rows=1)
    assert texts(fewer.train) == train[:5]
    assert set(texts(fewer.evaluation["evaluation"].rows)) < set(scored)
    assert len(load(ROWS, eval_fraction=0.5).train) == 10
    assert load(ROWS[:2]).evaluation["evaluation"].rows.num_rows == 1


def test_a_file_of_its_own_is_scored_whole(load):
    data = load(ROWS[:12], ROWS[12:])
    assert len(data.train) == 12
    assert sorted(texts(data.evaluation["evaluation"].rows)) == sorted(row["text"] for row in ROWS[12:])
    assert data.description["notes"] == []
    assert data.description["source"].count(".jsonl, ") == 1


def test_the_same_file_twice_is_told(load, caplog):
    with caplog.at_level(logging.WARNING):
        load(ROWS, ROWS)
    assert "20 of 20 evaluation rows are training rows too" in caplog.text


def test_rows_of_the_hub(monkeypatch):
    asked = []

    def load_hub_split(task, split, limit):
        asked.append((task.hub, split))
        return Dataset.from_list(ROWS[: limit or len(ROWS)]), "c0ffee"

    monkeypatch.setattr(language_rows, "load_hub_split", load_hub_split)
    data = load_task(LmSettings(name="lm", hub="someone/texts", max_length=100), chat_tokenizer())
    assert (len(data.train), asked) == (18, [("someone/texts", "train")])
    assert (data.description["source"], data.description["revision"]) == ("someone/texts", "c0ffee")
    data = load_task(
        LmSettings(name="lm", hub="someone/texts", eval_split="test", max_eval_rows=3, max_length=100), chat_tokenizer()
    )
    assert (len(data.train), len(data.evaluation["evaluation"].rows)) == (20, 3)
    assert asked[1:] == [("someone/texts", "train"), ("someone/texts", "test")]


def test_without_the_hub_a_file_is_advised():
    with pytest.raises(UserError, match=r"task=chat: no/such: .*, or set task.train_file=FILE in place of task.hub\."):
        load_task(ChatSettings(name="chat", hub="no/such"), chat_tokenizer())


def test_long_rows_are_cut_and_counted_and_those_without_an_answer_left_out(load):
    data = load(LONG, LONG[:1], kind="instruct", max_length=12)  # <s>, 4, 10 or 30, 3 and </s>
    assert data.train["length"] == [9, 12]
    assert data.train["labels"][1] == [-100] * 11 + [data.train["input_ids"][1][-1]]
    counts = data.description["splits"]["train"]
    assert {name: counts[name] for name in ("rows", "tokens", "learnt_tokens", "cut", "left_out")} == {
        "rows": 3, "tokens": 21, "learnt_tokens": 5, "cut": 2, "left_out": 1
    }  # fmt: skip
    assert data.description["notes"] == [
        "2 of 3 rows of train cut to task.max_length=12 tokens",
        "1 of 3 rows of train left out: nothing to learn is left of them",
    ]


@pytest.mark.parametrize(
    ("chosen", "complaint"),
    [
        ({"max_length": 12}, r"line 2: has 15 tokens, more than the 12 of task.max_length, with task.too_long=refuse\. "
         r"Shorten or remove that row, or train with task.max_length=15 or task.too_long=cut\."),
        ({"max_length": 20, "positions": 30}, r"line 3: has 35 tokens, .*, or train with task.too_long=cut\."),
    ],
)  # fmt: skip
def test_long_rows_are_refused_on_request(chosen, complaint, tmp_path):
    write_lines(tmp_path / "train_file.jsonl", LONG)
    tokenizer = chat_tokenizer()
    tokenizer.model_max_length = chosen.get("positions", 128)
    file = str(tmp_path / "train_file.jsonl")
    task = InstructSettings(
        name="instruct", train_file=file, eval_file=file, max_length=chosen["max_length"], too_long=TooLong.refuse
    )
    with pytest.raises(UserError, match=complaint):
        load_task(task, tokenizer)


@pytest.mark.parametrize(
    ("kind", "rows", "chosen", "complaint"),
    [
        ("lm", None, {}, r"task=lm: needs task.train_file=FILE .* with text, or task.hub=NAME"),
        ("instruct", None, {}, "with prompt and completion, or task.hub=NAME"),
        ("lm", [], {}, r"task.train_file=.*train_file.jsonl: has no rows\."),
        ("lm", ROWS[:1], {}, "has too few rows .1. to hold out task.eval_fraction=0.1 of them"),
        ("lm", [{"text": "a", "messages": TALK}], {}, "has column 'text' and column 'messages', .*lm or task=chat"),
        ("chat", [{"text": "a", "messages": TALK}], {}, "has column 'messages' and column 'text'"),
        ("chat", ROWS, {}, "has column 'text' in place of column 'messages'. Take task=lm"),
        ("lm", LANGUAGE_ROWS["instruct"], {}, "columns 'prompt' and 'completion' in place of column 'text'"),
        ("instruct", [{"prompt": "a", "answer": "b"}] * 2, {}, r"line \d: column 'completion' is missing"),
        ("lm", [{"text": "a"}, {"text": 4}], {}, "line 2: column 'text' is 4, expected text"),
        ("instruct", LONG[2:] * 2, {"max_length": 20}, "task.max_length=20: nothing to learn is left of any of 1 rows"),
        ("instruct", LONG, {"generate": True, "max_new_tokens": 125}, "task.max_new_tokens=125: .* leave no room"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on(kind, rows, chosen, complaint, load):
    with pytest.raises(UserError, match=complaint):
        load(rows, kind=kind, **chosen)


ENDS = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + 'END\n' }}{% endfor %}"
DATED = "{{ strftime_now('%d %b %Y') }}"
BEGINS = "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"


def test_an_end_that_is_not_the_tokenizers_is_told_and_ends_generated_answers(load, monkeypatch):
    asked = {}
    monkeypatch.setattr(language_scores, "generate", lambda *given, **more: asked.update(more) or [" Five.\n"])
    file = load([{"messages": TALK}] * 2, kind="chat").description["source"]
    for end in (None, "END"):
        tokenizer = chat_tokenizer(DATED + ENDS.replace("END", end or "") + BEGINS)
        tokenizer.add_special_tokens({"additional_special_tokens": [end]} if end else {})
        task = ChatSettings(name="chat", train_file=file, max_length=100, generate=True, max_new_tokens=5)
        data = load_task(task, tokenizer)
        *_, dated, endless = data.description["notes"]
        assert dated == "the chat template writes today's date into conversations"
        assert endless.startswith("nothing that is learnt ends with the tokenizer's end-of-sequence token")
        assert data.evaluation["evaluation"].by_model(None) == {"exact_match": 1.0}
        assert asked["ends"] == ([tokenizer.convert_tokens_to_ids(end)] if end else [])
    assert load([{"messages": TALK}] * 2, kind="chat", max_length=128).description["notes"][1:] == []


def test_exact_matches_are_counted_but_for_blanks_around_them(load, monkeypatch):
    asked = []
    monkeypatch.setattr(
        language_scores, "generate", lambda *given, **more: asked.append(given) or ["4", "It is blue", ""]
    )
    rows = LANGUAGE_ROWS["instruct"]
    data = load(rows, [*rows, *rows[:1]], kind="instruct", generate=True, max_new_tokens=5)
    assert data.evaluation["evaluation"].by_model(None) == {"exact_match": pytest.approx(1 / 3)}
    assert [chat_tokenizer().decode(prompt) for prompt in asked[0][2]] == ["<s>2 + 2 =", "<s>Sky?", "<s>2 + 2 ="]
    assert load(rows, rows, kind="instruct").evaluation["evaluation"].by_model is None


def test_packed_rows_have_positions_and_no_mask_and_development_rows_a_mask(load):
    data = load(ROWS, pack=True)
    assert data.description["notes"][-1] == "18 rows of train are packed into 3"
    assert set(data.collate(list(data.train)[:2])) == {"input_ids", "labels", "position_ids"}
    assert data.collate([data.train[0]], to_maximum=True)["input_ids"].shape == (1, 100)
    assert "attention_mask" in data.collate(list(data.evaluation["evaluation"].rows))


def test_scores_are_those_of_tokens_not_of_batches():
    likelihoods, tokens, correct = np.array([-1.0, -30.0]), np.array([1, 9]), np.array([1, 2])
    scores = token_scores(EvalPrediction((likelihoods, tokens, correct), np.array([])))
    assert scores["loss"] == pytest.approx(3.1)
    assert scores["perplexity"] == pytest.approx(math.exp(3.1))
    assert scores["inverse_perplexity"] == pytest.approx(math.exp(-3.1))
    assert scores["token_accuracy"] == pytest.approx(0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_settings_of_each_kind_are_found_again_in_a_record(kind):
    chosen = settings("backbone=opt", f"task={kind}")
    assert isinstance(chosen.task, KINDS[kind])
    again = from_plain(plain(chosen))
    assert type(again.task) is KINDS[kind]
    assert identity(again) == identity(chosen)


def test_a_word_in_place_of_a_file_is_the_same_wherever_it_is_typed(tmp_path, monkeypatch):
    def identities():
        chosen = [
            settings("backbone=opt", "task=chat", f"task.chat_template={value}") for value in ("plain", "a.jinja")
        ]
        return [identity(each) for each in chosen]

    here = identities()
    monkeypatch.chdir(tmp_path)
    there = identities()
    assert (here[0] == there[0], here[1] == there[1]) == (True, False)


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (
            ("backbone=opt", "task.train_file=a.jsonl", "task.hub=b"),
            "task.hub=b: has no effect with task.train_file=a.jsonl",
        ),
        (("backbone=opt", "task.eval_file=a.jsonl", "task.eval_fraction=0.2"), "task.eval_fraction=0.2: has no effect"),
        (("backbone=opt", "task.max_new_tokens=5"), "task.max_new_tokens=5: has no effect with task.generate=false"),
        (("backbone=opt", "task.eval_fraction=1.5"), "task.eval_fraction=1.5: expected 0.0001 to 0.9"),
        (
            ("backbone=opt", "task.too_long=drop"),
            "task.too_long: Invalid value 'drop', expected one of .cut, refuse",
        ),
        (("backbone=minilm",), "backbone=minilm cannot write texts.*Take one of backbone=llama3_1b"),
    ],
)
def test_settings_that_do_not_go_together(overrides, complaint):
    code, error = ended(["task=instruct", *overrides])
    assert code == 2
    assert re.search(complaint, error)
    assert error.count("\n") <= 2
