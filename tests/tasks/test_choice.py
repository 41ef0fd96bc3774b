import json

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, OPTForCausalLM

from meft_runner.backbones.answers import IGNORED
from meft_runner.backbones.families.opt import OPTForAnswers
from meft_runner.errors import UserError
from meft_runner.memory import TrackedMeter, measure_step
from meft_runner.run import lifecycle as experiment
from meft_runner.tasks import load_task
from meft_runner.tasks.choice import encode, score_choices
from meft_runner.tasks.choice_forms import FORMS, Question
from tests.helpers.composed import settings
from tests.helpers.folders import make_opt_folder, write_lines
from tests.helpers.models import tiny_config
from tests.helpers.question_rows import ARC, PIQA, ROWS, SCIQ


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_opt_folder(tmp_path_factory.mktemp("opt"), [json.dumps(row) for row in ROWS.values()])


@pytest.fixture
def tokenizer(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = 200
    return tokenizer


def write(folder, rows, splits=("train", "validation")):
    for split in splits:
        write_lines(folder / f"{split}.jsonl", rows)


def task(name, folder, *overrides):
    return settings("backbone=opt", f"task={name}", f"task.data_dir={folder}", *overrides).task


@pytest.mark.parametrize(
    ("name", "prompt", "choices", "right"),
    [
        ("arc_easy", "Question: What boils at 100 degrees?\nAnswer:", ARC["choices"]["text"], 1),
        ("piqa", "Question: open a jar Answer:", ["turn the lid", "turn the bottom of it"], 0),
        ("sciq", "Plants live on light.\nQuestion: What do plants need?\nAnswer:",
         ["iron", "salt", "sugar and spice", "light"], 3),
        ("openbookqa", "The sun is ", ARC["choices"]["text"], 1),
    ],
)  # fmt: skip
def test_the_papers_prompts(name, prompt, choices, right):
    assert FORMS[name](ROWS[name], "") == Question(prompt, choices, right)


def test_a_prompts_last_blanks_belong_to_the_answer(tokenizer):
    tokens, prompt = encode(tokenizer, "The sun is ", "hot")
    assert tokenizer.decode(tokens) == "The sun is  hot"
    assert tokenizer.decode(tokens[:prompt]) == "The sun is"


def test_only_the_answer_is_trained_on(tmp_path, tokenizer):
    write(tmp_path, [ARC])
    data = load_task(task("arc_easy", tmp_path), tokenizer)
    (row,) = data.train
    answer = [token for token in row["labels"] if token != IGNORED]
    assert tokenizer.decode(answer) == " water from a well"
    assert row["labels"][-len(answer) :] == row["input_ids"][-len(answer) :]


def test_long_training_prompts_lose_their_beginning(tmp_path, tokenizer):
    write(tmp_path, [ARC])
    full = load_task(task("arc_easy", tmp_path), tokenizer).train[0]
    cut = load_task(task("arc_easy", tmp_path, f"task.max_length={len(full['input_ids']) - 5}"), tokenizer).train[0]
    assert cut["input_ids"] == full["input_ids"][5:]
    assert cut["labels"] == full["labels"][5:]


def test_training_prompts_that_are_cut_are_counted_and_told(tmp_path, tokenizer):
    write(tmp_path, [ARC, ARC | {"question": "Why?"}])
    full = load_task(task("arc_easy", tmp_path), tokenizer)
    assert ([part["cut"] for part in full.description["splits"].values()], full.description["notes"]) == ([0, 0], [])
    longest = max(map(len, full.train["input_ids"]))
    cut = load_task(task("arc_easy", tmp_path, f"task.max_length={longest - 1}"), tokenizer)
    assert [part["cut"] for part in cut.description["splits"].values()] == [1, 0]
    assert cut.description["notes"] == [
        f"1 of 2 rows of train cut to task.max_length={longest - 1} tokens: their prompts lose their beginning. Rows "
        "that are scored are not cut"
    ]


def test_scores_by_hand():
    questions = [Question("", ["aa", "bbbb"], 1), Question("", ["a", "b", "cccccc"], 0)]
    scores = score_choices(questions, np.array([-3.0, -4.0, -1.0, -2.0, -3.0]))
    assert scores == {
        "acc": 0.5, "acc_stderr": pytest.approx(0.5), "acc_norm": 0.5, "acc_norm_stderr": pytest.approx(0.5),
    }  # fmt: skip


def opt_inputs(batch, length, vocabulary):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, vocabulary, (batch, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone().index_fill_(
        1, torch.arange(length - 6), IGNORED)}  # fmt: skip


def test_answer_logits_save_the_largest_tensor():
    """OPT's vocabulary on a narrow model, since neither width nor depth changes what the logits take."""
    config = tiny_config("opt")
    config.update({"vocab_size": 50272, "use_cache": False})
    inputs = opt_inputs(4, 48, 50272)
    peaks = {}
    for model_class in (OPTForAnswers, OPTForCausalLM):
        model = model_class(config).train().requires_grad_(False)
        model.model.decoder.final_layer_norm.requires_grad_(True)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
        meter = TrackedMeter()
        peaks[model_class] = measure_step(model, optimizer, lambda m=model: m(**inputs).loss, meter).peak_bytes
    logits = 4 * 48 * 50272 * 4  # bytes, of which 6 positions of 48 are left
    assert peaks[OPTForCausalLM] - peaks[OPTForAnswers] >= 0.7 * logits


@pytest.mark.parametrize("method", ["full", "meft1"])
@pytest.mark.thin(2)
def test_a_run(tmp_path, folder, method):
    write(tmp_path, [ARC, ARC | {"question": "Why?", "answerKey": "4"}] * 4)
    record = experiment.run(
        settings(
            "backbone=opt_125m", f"backbone.path={folder}", "task=arc_easy", f"task.data_dir={tmp_path}",
            "task.max_length=64", "training.epochs=1", "training.batch_size=4", f"method={method}",
            f"output_dir={tmp_path / 'runs'}", "training.eval_batch_size=3",
        )
    )  # fmt: skip
    assert record.scores.metric == "acc"
    (epoch,) = record.scores.history
    assert epoch.plain().keys() == {
        "epoch", "step", "loss", "train_loss", "acc", "acc_stderr", "acc_norm", "acc_norm_stderr",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("arc_easy", ARC | {"answerKey": "E"}, "row 2: answerKey 'E' names no right answer among 1, 2, 3, 4"),
        ("arc_easy", {**ARC, "choices": {"text": ["a"], "label": ["1", "2"]}}, "row 2: choices is .* of one length"),
        ("arc_easy", {**ARC, "choices": None}, "row 2: choices is None"),
        ("arc_easy", {"question": "a"}, "row 2: column 'choices' is missing"),
        ("arc_easy", ARC | {"question": None}, "row 2: column 'question' is None, expected text"),
        ("arc_easy", ARC | {"question": " "}, "row 2: column 'question' is empty"),
        ("arc_easy", ARC | {"question": "word " * 300}, r"row 2: .* has \d+ tokens, the model reads at most 200"),
        ("piqa", PIQA | {"label": 2}, "row 2: label 2 names no right answer; expected 0 = sol1 or 1 = sol2"),
        ("sciq", SCIQ | {"distractor2": None}, "row 2: column 'distractor2' is None"),
        (
            "sciq",
            SCIQ | dict.fromkeys(("distractor1", "distractor2", "distractor3")),
            r"validation.jsonl, row 2: has no other answers .* task.eval_splits=\[...\]",
        ),
    ],
)
def test_bad_rows(tmp_path, tokenizer, name, row, message):
    write(tmp_path, [ROWS[name], row])
    with pytest.raises(UserError, match=message):
        load_task(task(name, tmp_path), tokenizer)


def test_rows_without_wrong_answers_can_be_trained_on(tmp_path, tokenizer):
    write(
        tmp_path, [SCIQ | {"support": None} | dict.fromkeys(("distractor1", "distractor2", "distractor3"))], ["train"]
    )
    write(tmp_path, [SCIQ], ["test"])
    data = load_task(task("sciq", tmp_path, "task.eval_splits=[test]"), tokenizer)
    assert tokenizer.decode(data.train[0]["input_ids"]) == "\nQuestion: What do plants need?\nAnswer: light"
    assert len(data.evaluation["test"].rows) == 4


def test_an_answer_longer_than_everything(tmp_path, tokenizer):
    write(tmp_path, [ARC])
    with pytest.raises(UserError, match=r"task.max_length=4: .*row 1: its answer alone is as long"):
        load_task(task("arc_easy", tmp_path, "task.max_length=4"), tokenizer)
