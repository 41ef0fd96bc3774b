"""Runs on texts, completions and conversations, from the command line's words to the record."""

import json

import pytest
import torch
from transformers import LlamaForCausalLM, TrainerCallback

from meft_runner import cli
from meft_runner.backbones.answers import for_answers
from meft_runner.records.record import read_folder
from meft_runner.reports.overview import make_tables
from meft_runner.run.console import run_table
from meft_runner.run.lifecycle import run
from meft_runner.tasks import load_task
from tests.helpers.commands import call
from tests.helpers.composed import settings
from tests.helpers.folders import make_opt_folder, write_lines
from tests.helpers.language import LANGUAGE_ROWS, chat_tokenizer, make_llama_folder
from tests.helpers.training import make_trainer

SMALL = ("task.max_length=96", "training.batch_size=4", "training.epochs=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a tiny Llama, and files of rows beside it."""
    folder = tmp_path_factory.mktemp("language")
    make_llama_folder(folder / "llama")
    for kind, rows in LANGUAGE_ROWS.items():
        write_lines(folder / f"{kind}.jsonl", rows * 5)
    return folder


class GradientsSeen(TrainerCallback):
    """Keeps the gradients of the first step."""

    gradients = None

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if self.gradients is None:
            self.gradients = [parameter.grad.clone() for parameter in model.parameters()]


def words(folder, kind, *more):
    backbone = ["backbone=smollm2_135m", f"backbone.path={folder / 'llama'}"]
    return [*backbone, f"task={kind}", f"task.train_file={folder / f'{kind}.jsonl'}", *SMALL, *more]


@pytest.mark.parametrize(
    ("kind", "method", "more"),
    [
        pytest.param("lm", "full", ["task.pack=true"], marks=pytest.mark.slow),
        ("instruct", "lora", ["task.generate=true", "task.max_new_tokens=4"]),
        ("chat", "meft1", ["task.pack=true", "training.gradient_accumulation=2"]),
    ],
)
def test_a_run_of_each_kind(kind, method, more, folder, tmp_path):
    record = run(settings(*words(folder, kind, f"method={method}", f"output_dir={tmp_path}", *more)))
    (epoch,) = record.scores.history
    assert record.scores.metric == "inverse_perplexity"
    assert epoch.metrics["loss"] == pytest.approx(-torch.tensor(record.scores.best).log().item())
    assert ("exact_match" in epoch.metrics) == ("task.generate=true" in more)
    assert record.data.kind == kind
    assert record.data.splits["train"].learnt_tokens > 0
    assert "held out" in record.data.notes[0]
    if method == "meft1":
        assert (record.reversal.mode, record.reversal.mismatches) == ("exact", 0)
    shown = dict(run_table(record).values)
    assert float(shown["best loss"]) == pytest.approx(epoch.metrics["loss"], abs=1e-4)
    assert not any("inverse" in name for name in shown)
    (row,) = make_tables(read_folder(tmp_path))["language"].to_dict("records")
    assert row["task"] == f"{kind} ({kind}.jsonl)"
    assert float(row["loss"]) == pytest.approx(epoch.metrics["loss"], abs=1e-3)
    assert "scores" not in make_tables(read_folder(tmp_path))


def test_the_loss_of_a_run_is_that_of_transformers_own_model(folder, tmp_path):
    """Token by token over all development rows, whatever batches they are in; nothing trains at so small a rate."""
    chosen = words(folder, "instruct", "method=full", "training.learning_rate=1e-12", "training.eval_batch_size=3",
                   "task.eval_fraction=0.7", f"output_dir={tmp_path}")  # fmt: skip
    record = run(settings(*chosen))
    data = load_task(settings(*chosen).task, chat_tokenizer())
    model = LlamaForCausalLM.from_pretrained(folder / "llama").eval()
    losses, count = 0.0, 0
    for row in data.evaluation["evaluation"].rows:
        labels = torch.tensor([row["labels"]])
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([row["input_ids"]]), labels=labels).loss
        losses, count = losses + loss.item() * (labels != -100).sum().item(), count + (labels != -100).sum().item()
    assert count == record.data.splits["evaluation"].learnt_tokens
    assert record.scores.history[0].metrics["loss"] == pytest.approx(losses / count, rel=1e-5)


def test_two_batches_that_add_up_have_the_gradient_of_one(folder, tmp_path):
    """Their rows have different numbers of tokens to learn, and each token counts the same."""
    rows = [{"prompt": "a", "completion": "b" * number} for number in (1, 9, 2, 30)] * 2
    write_lines(tmp_path / "rows.jsonl", rows)
    found = []
    for size, accumulation in ((8, 1), (2, 4)):
        chosen = settings(*words(folder, "instruct", "method=full", "training.group_by_length=false"))
        chosen.task.train_file = chosen.task.eval_file = str(tmp_path / "rows.jsonl")
        chosen.training.batch_size, chosen.training.gradient_accumulation = size, accumulation
        data = load_task(chosen.task, chat_tokenizer())
        model = for_answers(LlamaForCausalLM).from_pretrained(folder / "llama")
        seen = GradientsSeen()
        trainer = make_trainer(chosen, model, data, tmp_path / str(size), data.collate, [seen])
        trainer.train()
        found.append(seen.gradients)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["task.max_length=200"], "task.max_length=200: smollm2_135m reads at most 128 tokens"),
        (
            ["task.too_long=refuse", "task.max_length=12"],
            "has 18 tokens, more than the 12 of task.max_length, with task.too_long",
        ),
        (["task.train_file=no.jsonl"], "task.train_file=no.jsonl: no such file"),
    ],
)
def test_mistakes_are_two_lines_at_most_and_exit_code_2(more, complaint, folder, tmp_path, monkeypatch, capsys):
    given = {word.split("=")[0] for word in more}
    typed = [word for word in words(folder, "instruct", f"output_dir={tmp_path}") if word.split("=")[0] not in given]
    code, _, error = call(monkeypatch, capsys, cli.meft_run, *typed, *more)
    assert code == 2
    assert complaint in error
    assert "Traceback" not in error
    assert error.strip().count("\n") <= 1


def test_packing_is_refused_where_rows_would_see_each_other(folder, tmp_path, monkeypatch, capsys):
    opt = make_opt_folder(tmp_path / "opt", [json.dumps(row) for row in LANGUAGE_ROWS["lm"]])
    typed = ["backbone=opt", f"backbone.path={opt}", *words(folder, "lm", "task.pack=true")[2:]]
    code, _, error = call(monkeypatch, capsys, cli.meft_run, *typed, f"output_dir={tmp_path}")
    assert code == 2
    assert (
        "task.pack=true: the attention of opt models does not keep packed rows apart, that of llama, mistral" in error
    )
