import json
import os
from pathlib import Path

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
from meft_runner.tasks.choice import FORMS, Question, encode, score_choices
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


def test_scores_by_hand():
    questions = [Question("", ["aa", "bbbb"], 1), Question("", ["a", "b", "cccccc"], 0)]
    scores = score_choices(questions, np.array([-3.0, -4.0, -1.0, -2.0, -3.0]))
    assert scores == {
        "acc": 0.5, "acc_stderr": pytest.approx(0.5), "acc_norm": 0.5, "acc_norm_stderr": pytest.approx(0.5),
    }  # fmt: skip


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


def likelihoods_in_batches(folder, data, batch_size):
    """Each answer's log-likelihood as evaluation computes it, in the questions' order."""
    rows, model = data.evaluation["validation"].rows, OPTForAnswers.from_pretrained(folder).eval()
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
def test_log_likelihoods_do_not_depend_on_batches(tmp_path, folder, tokenizer, batch_size, padding_side):
    tokenizer.padding_side = padding_side
    questions = [ARC, ARC | {"question": "Why?", "answerKey": "4"}, ARC | {"question": "And why not, " * 9}]
    write(tmp_path, questions)
    found = likelihoods_in_batches(folder, load_task(task("arc_easy", tmp_path), tokenizer), batch_size)
    expected = likelihoods_one_by_one(
        OPTForCausalLM.from_pretrained(folder).eval(), tokenizer, [FORMS["arc_easy"](row, "") for row in questions]
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)


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


@pytest.mark.parametrize("method", ["full", "meft1", "meft3"])
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
def test_scores_equal_lm_evaluation_harness(tmp_path, name, split):
    """The first hundred rows, ranked by the same random model here and there."""
    lines = (Path(os.environ["MEFT_DATA_DIR"]) / "qa" / name / f"{split}.jsonl").read_text().splitlines()[:100]
    folder = make_opt_folder(tmp_path / "model", lines, positions=2048)
    rows = [json.loads(line) for line in lines]
    write(tmp_path, rows)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = 2048
    questions = [FORMS[name](row, "") for row in rows]
    data = load_task(task(name, tmp_path, "task.max_length=2048"), tokenizer)
    ours = score_choices(questions, likelihoods_in_batches(folder, data, 16))
    model = OPTForCausalLM.from_pretrained(folder).eval()
    theirs = harness_scores(name, questions, model, tokenizer, tmp_path / "harness.jsonl")
    assert {metric: ours[metric] for metric in ("acc", "acc_norm")} == {
        metric: theirs[f"{metric},none"] for metric in ("acc", "acc_norm")
    }
    assert ours["acc_stderr"] == pytest.approx(theirs["acc_stderr,none"])
