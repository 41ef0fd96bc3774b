"""Causal models of several families rank answers as their ordinary forward pass and lm-evaluation-harness do."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from meft_runner.backbones import FAMILIES
from meft_runner.config import Head
from meft_runner.run import lifecycle
from meft_runner.tasks import load_task
from meft_runner.tasks.choice import encode, score_choices
from meft_runner.tasks.choice_forms import FORMS
from tests.helpers.composed import settings
from tests.helpers.folders import make_llama_folder, make_opt_folder, plain_tokenizer, write_lines
from tests.helpers.language import make_llama_folder as make_ending_folder
from tests.helpers.question_rows import ARC, ROWS

FOLDERS = {"opt": make_opt_folder, "llama": make_llama_folder}
BACKBONES = {"opt": "opt_125m", "llama": "llama3_1b"}


@pytest.fixture(scope="module", params=FOLDERS)
def model(request, tmp_path_factory):
    """A model type, and a folder with a small one of it."""
    lines = [json.dumps(row) for row in ROWS.values()]
    return request.param, FOLDERS[request.param](tmp_path_factory.mktemp(request.param), lines)


def tokenizer_of(folder, length=200):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token_id = tokenizer.pad_token_id or 0  # as load_tokenizer does
    tokenizer.model_max_length = length
    return tokenizer


def load(name, rows, folder, tokenizer):
    """Returns the questions of rows and the task that scores them."""
    write_lines(folder / "train.jsonl", rows)
    write_lines(folder / "validation.jsonl", rows)
    task = settings(
        "backbone=opt", f"task={name}", f"task.data_dir={folder}", f"task.max_length={tokenizer.model_max_length}"
    ).task
    return [FORMS[name](row, "") for row in rows], load_task(task, tokenizer)


def likelihoods_one_by_one(model, tokenizer, questions):
    """Each answer's log-likelihood from the ordinary model, one row at a time without padding."""
    found = []
    for question in questions:
        for answer in question.choices:
            tokens, prompt = encode(tokenizer, question.prompt, answer)
            with torch.no_grad():
                logits = model(torch.tensor([tokens]), use_cache=False).logits[0].log_softmax(-1)
            found.append(sum(logits[i - 1, tokens[i]].item() for i in range(prompt, len(tokens))))
    return np.array(found)


def likelihoods_in_batches(answering, folder, data, batch_size):
    """Each answer's log-likelihood as evaluation computes it, in the questions' order."""
    rows, model = data.evaluation["validation"].rows, answering.from_pretrained(folder).eval()
    batches = []
    for start in range(0, len(rows), batch_size):
        part = rows.select(range(start, min(start + batch_size, len(rows)))).select_columns(["input_ids", "labels"])
        with torch.no_grad():
            batches.append(model(**data.collate(part.to_list())).log_likelihoods)
    found = np.empty(len(rows))
    found[np.array(rows["row"])] = torch.cat(batches)
    return found


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.thin(3)
def test_log_likelihoods_do_not_depend_on_batches(tmp_path, model, batch_size, padding_side):
    kind, folder = model
    tokenizer = tokenizer_of(folder)
    tokenizer.padding_side = padding_side
    rows = [ARC, ARC | {"question": "Why?", "answerKey": "4"}, ARC | {"question": "And why not, " * 9}]
    questions, data = load("arc_easy", rows, tmp_path, tokenizer)
    found = likelihoods_in_batches(FAMILIES[kind].heads[Head.lm], folder, data, batch_size)
    expected = likelihoods_one_by_one(AutoModelForCausalLM.from_pretrained(folder).eval(), tokenizer, questions)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_end_that_a_tokenizer_appends_is_neither_learnt_nor_scored(tmp_path):
    """By hand: the logits of <s> and the bytes of prompt and answer, the answer's own ones alone."""
    folder = make_ending_folder(tmp_path / "model")
    tokenizer = tokenizer_of(folder, 128)
    bytes_of = plain_tokenizer()
    shift = len(tokenizer) - len(bytes_of)  # special tokens stand before the bytes
    (question,), data = load("arc_easy", [ARC], tmp_path, tokenizer)
    model, expected = AutoModelForCausalLM.from_pretrained(folder).eval(), []
    for choice in question.choices:
        prompt, answer = ([i + shift for i in bytes_of(text)["input_ids"]] for text in (question.prompt, f" {choice}"))
        with torch.no_grad():
            logits = model(torch.tensor([[0, *prompt, *answer]]), use_cache=False).logits[0].log_softmax(-1)
        expected.append(sum(logits[len(prompt) + i, token].item() for i, token in enumerate(answer)))
        if choice == ARC["choices"]["text"][question.right]:
            (row,) = data.train
            assert row["input_ids"] == [0, *prompt, *answer]
            assert row["labels"] == [-100] * (1 + len(prompt)) + answer
    found = likelihoods_in_batches(FAMILIES["llama"].heads[Head.lm], folder, data, 3)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("name", ROWS)
def test_tokens_of_other_tokenizers_are_the_harnesses(model, name):
    tokenizer, question = tokenizer_of(model[1]), FORMS[name](ROWS[name], "")
    for each in (tokenizer, plain_tokenizer(eos_token="</s>")):
        for choice in question.choices:
            whole, alone = (
                each(text)["input_ids"] for text in (f"{question.prompt} {choice}", question.prompt.rstrip())
            )
            assert encode(each, question.prompt, choice) == (whole, len(alone))


@pytest.mark.parametrize("method", [pytest.param("full", marks=pytest.mark.slow), "meft3"])
@pytest.mark.thin(2)
def test_a_run(tmp_path, model, method):
    kind, folder = model
    for split in ("train", "validation"):
        write_lines(tmp_path / f"{split}.jsonl", [ARC, ARC | {"question": "Why?", "answerKey": "4"}] * 4)
    record = lifecycle.run(
        settings(
            f"backbone={BACKBONES[kind]}", f"backbone.path={folder}", "task=arc_easy", f"task.data_dir={tmp_path}",
            "task.max_length=64", "training.epochs=1", "training.batch_size=4", f"method={method}",
            f"output_dir={tmp_path / 'runs'}", "training.eval_batch_size=3",
        )
    )  # fmt: skip
    assert record.status == "complete"
    assert record.scores.metric == "acc"
    if method == "meft3":
        assert (record.reversal.checked_steps, record.reversal.mismatches) == (2, 0)


def harness_scores(name, questions, model, tokenizer, file):
    """The scores that lm-evaluation-harness gives a model for the same prompts and answers."""
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM

    rows = [{"prompt": q.prompt, "answers": list(q.choices), "right": q.right} for q in questions]
    write_lines(file, rows)
    harness_task = ConfigurableTask(
        config={
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(file)}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{prompt}}",
            "doc_to_choice": "answers",
            "doc_to_target": "right",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        }
    )
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)
    return lm_eval.simple_evaluate(lm, tasks=[harness_task], bootstrap_iters=10)["results"][name]


@pytest.mark.slow
@pytest.mark.skipif("MEFT_DATA_DIR" not in os.environ, reason="MEFT_DATA_DIR has the real rows")
@pytest.mark.parametrize(
    ("name", "split"),
    [("openbookqa", "test"), ("piqa", "validation"), ("arc_easy", "test"), ("arc_challenge", "test"), ("sciq", "test")],
)
@pytest.mark.parametrize("kind", FOLDERS)
def test_scores_equal_lm_evaluation_harness(tmp_path, kind, name, split):
    """The first hundred rows, ranked by the same random model here and there."""
    lines = (Path(os.environ["MEFT_DATA_DIR"]) / "qa" / name / f"{split}.jsonl").read_text().splitlines()[:100]
    folder = FOLDERS[kind](tmp_path / "model", lines, positions=2048)
    tokenizer = tokenizer_of(folder, 2048)
    questions, data = load(name, [json.loads(line) for line in lines], tmp_path, tokenizer)
    ours = score_choices(questions, likelihoods_in_batches(FAMILIES[kind].heads[Head.lm], folder, data, 16))
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    theirs = harness_scores(name, questions, model, tokenizer, tmp_path / "harness.jsonl")
    assert {metric: ours[metric] for metric in ("acc", "acc_norm")} == {
        metric: theirs[f"{metric},none"] for metric in ("acc", "acc_norm")
    }
    assert ours["acc_stderr"] == pytest.approx(theirs["acc_stderr,none"])
