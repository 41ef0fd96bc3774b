"""`meft-predict` as a user types it: answers in each form, texts on the terminal, and mistakes in a line or two."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from meft_runner import cli
from meft_runner.backbones.generation import generate
from meft_runner.config import PredictSettings
from meft_runner.predict.trained import find_run
from meft_runner.run.opening import load_processor
from tests.helpers.commands import call
from tests.helpers.folders import write_lines
from tests.helpers.trained import PAIR

NEW = [{"idx": 7 + i, "sentence1": row["sentence1"], "sentence2": row["sentence2"]} for i, row in enumerate(PAIR[:5])]


@pytest.fixture
def predict(monkeypatch, capsys):
    """Returns what runs the command and returns its exit code and what it printed."""

    def run(*words):
        capsys.readouterr()  # of what trained the run
        return call(monkeypatch, capsys, cli.meft_predict, *map(str, words))

    return run


@pytest.fixture
def rte(trained):
    return trained("rte", "full")


def read_lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_new_rows_get_labels_in_their_order(rte, predict, tmp_path):
    """The logits are those of transformers' own model with the trained weights in it."""
    write_lines(tmp_path / "new.jsonl", NEW)
    code, printed, error = predict(f"run={rte}", f"input={tmp_path}/new.jsonl", f"output={tmp_path}/a.jsonl")
    assert (code, error) == (0, "")
    assert "score" not in printed
    assert f"5 answers: {tmp_path}/a.jsonl" in printed
    found = read_lines(tmp_path / "a.jsonl")
    assert [answer["idx"] for answer in found] == [7, 8, 9, 10, 11]
    folder = rte.parent.parent / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2).eval()
    model.load_state_dict(load_file(rte / "adapter" / "adapter_model.safetensors"), strict=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for row, answer in zip(NEW, found, strict=True):
        with torch.no_grad():
            logits = model(**tokenizer(row["sentence1"], row["sentence2"], return_tensors="pt")).logits[0]
        np.testing.assert_allclose(list(answer["probabilities"].values()), logits.softmax(0), rtol=1e-4)
        assert answer["label"] == ["entailment", "not_entailment"][logits.argmax()]


def test_rows_that_are_cut_are_told(trained, predict, tmp_path):
    long = "The dog was found. " * 20
    kinds = {
        "rte": ("full", {"sentence1": long, "sentence2": long}),
        "lm": ("meft1", {"text": long}),
    }
    for kind, (method, row) in kinds.items():
        run = trained(kind, method)
        write_lines(tmp_path / "new.jsonl", [row, {name: text[:9] for name, text in row.items()}])
        code, printed, error = predict(f"run={run}", f"input={tmp_path}/new.jsonl", f"output={tmp_path}/{kind}.jsonl")
        assert (code, error) == (0, "")
        assert f"note: 1 of 2 rows of input={tmp_path}/new.jsonl cut to task.max_length=" in printed


def test_files_of_each_form_say_the_same(rte, predict, tmp_path):
    labels = ["entailment", "0", None, "-1", "1"]
    rows = [row | {"label": label} for row, label in zip(NEW, labels, strict=True)]
    with (tmp_path / "new.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    for suffix in ("jsonl", "csv", "parquet"):
        code, printed, _ = predict(f"run={rte}", f"input={tmp_path}/new.csv", f"output={tmp_path}/a.{suffix}")
        assert code == 0
        assert "3 rows with labels" in printed
        assert "accuracy (%)" in printed
    lines = read_lines(tmp_path / "a.jsonl")
    assert parquet.read_table(tmp_path / "a.parquet").to_pylist() == lines
    with (tmp_path / "a.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert [json.loads(each["probabilities"]) for each in cells] == [each["probabilities"] for each in lines]
    assert [each["label"] for each in cells] == [each["label"] for each in lines]


@pytest.mark.slow
def test_questions_without_answers_are_answered(trained, predict, tmp_path):
    asked = {
        "squad": ("lora reversed", {"context": "The house has 7 windows.", "question": "How many?"}),
        "arc_easy": ("meft3", {"question": "Why?", "choices": {"text": ["iron", "air"], "label": ["A", "B"]}}),
        "images": ("meft1", {"image": "rows/test/dark/0.png"}),
    }
    keys = {"squad": {"answer", "n_best"}, "arc_easy": {"answer", "choice", "log_likelihoods"},
            "images": {"label", "probabilities"}}  # fmt: skip
    for kind, (method, row) in asked.items():
        run = trained(kind, method)
        file = run.parent.parent / "new.jsonl"
        write_lines(file, [row])
        code, _, error = predict(f"run={run}", f"input={file}", f"output={tmp_path}/{kind}.jsonl")
        assert (code, error) == (0, "")
        (answer,) = read_lines(tmp_path / f"{kind}.jsonl")
        assert answer.keys() == keys[kind]
        if kind == "squad":
            assert answer["n_best"][0]["text"] == answer["answer"]
            assert answer["answer"] in row["context"]
            assert sum(each["probability"] for each in answer["n_best"]) == pytest.approx(1)
            assert len({each["text"] for each in answer["n_best"]}) == len(answer["n_best"]) > 3


def test_prompts_are_continued_to_files_and_to_the_terminal(trained, predict, tmp_path):
    run = trained("instruct", "meft1")
    write_lines(tmp_path / "new.jsonl", [{"prompt": "2 + 2 ="}, {"prompt": "Is the sky very blue?"}])
    words = [f"run={run}", "max_new_tokens=7"]
    code, _, error = predict(*words, f"input={tmp_path}/new.jsonl", f"output={tmp_path}/a.jsonl")
    assert (code, error) == (0, "")
    trained_run = find_run(PredictSettings(run=str(run)), {})
    tokenizer = load_processor(trained_run.settings, trained_run.source)
    ids = tokenizer("2 + 2 =")["input_ids"][:-1]
    expected = generate(trained_run.load(0, torch.device("cpu")), tokenizer, [ids], 7)
    assert read_lines(tmp_path / "a.jsonl")[0] == {"generated": expected[0]}
    code, printed, error = predict(*words, "prompt=2 + 2 =")
    assert (code, error) == (0, "")
    assert printed == expected[0] + "\n"


def test_what_leaves_nothing_to_score_does_not_hold_up_what_is_continued(trained, predict, tmp_path):
    run = trained("instruct", "meft1")
    long = {"prompt": "why " * 30, "completion": "so"}
    write_lines(tmp_path / "new.jsonl", [long, {"prompt": "2 + 2 ="}])
    words = [f"run={run}", f"input={tmp_path}/new.jsonl", f"output={tmp_path}/a.jsonl"]
    code, printed, error = predict(*words, "max_new_tokens=7")
    assert (code, error) == (0, "")
    assert "1 of 1 rows of" in printed
    assert [*map(list, read_lines(tmp_path / "a.jsonl"))] == [["generated"]] * 2
    write_lines(tmp_path / "new.jsonl", [long])
    code, _, error = predict(*words[:2])
    assert code == 2
    assert "nothing to learn is left of them. Add output=FILE" in error


def test_a_conversation_is_answered_as_its_last_message_asks(trained, predict, tmp_path):
    run = trained("chat", "lora")
    question = {"role": "user", "content": "Two and two?"}
    write_lines(tmp_path / "new.jsonl", [{"messages": [question]}])
    code, _, _ = predict(f"run={run}", f"input={tmp_path}/new.jsonl", f"output={tmp_path}/a.jsonl")
    (answer,) = read_lines(tmp_path / "a.jsonl")
    code_of_prompt, printed, _ = predict(f"run={run}", "prompt=Two and two?")
    assert (code, code_of_prompt) == (0, 0)
    assert printed.rstrip("\n") == answer["generated"].rstrip("\n")


MISTAKES = {
    "no run": (["run=/nowhere", "split=a"], "run=/nowhere: no such folder"),
    "no run named": (["split=a"], "run: not given"),
    "not one question": (["run={run}"], "expected one of input=FILE, split=NAME and prompt=TEXT, given: none of them"),
    "a folder of runs": (["run={run}/..", "split=validation"], "it has no record.json. Give one run in it, such as"),
    "no file": (["run={run}", "input={tmp}/no.csv", "output={tmp}/a.csv"], "no.csv: no such file"),
    "no rows": (["run={run}", "input={tmp}/empty.jsonl", "output={tmp}/a.csv"], "empty.jsonl: has no rows"),
    "no column": (["run={run}", "input={tmp}/other.jsonl", "output={tmp}/a.csv"], "column 'sentence1' is missing"),
    "no label": (["run={run}", "input={tmp}/label.jsonl"], "label 'maybe' is none of the run's classes"),
    "nothing to print": (["run={run}", "input={tmp}/new.jsonl"], "output: not given, and no row has a label"),
    "input's suffix": (["run={run}", "input={tmp}/a.txt", "output={tmp}/a.csv"], "expected a name that ends in .csv"),
    "output's suffix": (["run={run}", "input={tmp}/new.jsonl", "output={tmp}/a.txt"], "expected a name that ends in"),
    "output is there": (["run={run}", "input={tmp}/new.jsonl", "output={tmp}/there.csv"], "is there already"),
    "output is the input": (
        ["run={run}", "input={tmp}/new.jsonl", "output={tmp}/new.jsonl", "overwrite=true"], "is the input too"),
    "no split": (["run={run}", "split=test"], "test.jsonl is missing"),
    "no writer": (["run={run}", "prompt=a"], "prompt: the run's model writes no texts (task=rte)"),
    "no such setting": (["run={run}", "split=a", "ouput=a"], "ouput: no such setting, did you mean 'output'?"),
    "no such path": (["run={run}", "split=a", "task.data_dri=a"], "did you mean 'task.data_dir'? expected one of"),
    "no number": (["run={run}", "split=a", "batch_size=many"], "batch_size=many: expected a whole number"),
    "no batch": (["run={run}", "split=a", "batch_size=0"], "batch_size=0: expected 1 to"),
    "no precision": (["run={run}", "split=a", "precision=fp8"], "precision=fp8: did you mean 'fp"),
    "no text": (["run={run}", "split=validation", "max_new_tokens=3"], "no text is generated here"),
    "backbone moved": (["run={run}", "split=validation", "backbone.path=/nowhere"], "/nowhere: no such folder"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_two_lines_at_most_and_exit_code_2(name, rte, predict, tmp_path):
    typed, message = MISTAKES[name]
    new = {"sentence1": "a", "sentence2": "b"}
    files = {"new": [new], "empty": [], "other": [{"text": "a"}], "label": [new | {"label": "maybe"}]}
    for each, rows in files.items():
        write_lines(tmp_path / f"{each}.jsonl", rows)
    for each in ("there.csv", "a.txt"):
        (tmp_path / each).write_text("kept")
    code, printed, error = predict(*[word.format(run=rte, tmp=tmp_path) for word in typed])
    assert (code, printed) == (2, "")
    assert message in error
    assert error.startswith("error: ")
    assert error.strip().count("\n") <= 1
    assert (tmp_path / "there.csv").read_text() == "kept"


def test_what_a_run_has_lost_or_changed_is_told(rte, predict, tmp_path):
    copy, model = tmp_path / rte.name, tmp_path / "model"
    shutil.copytree(rte, copy)
    shutil.copytree(rte.parent.parent / "model", model)
    words = [f"run={copy}", "split=validation", f"backbone.path={model}"]
    assert predict(*words)[0] == 0
    record = json.loads((copy / "record.json").read_text())
    (copy / "record.json").write_text(json.dumps(record | {"status": "running", "finished": None}))
    assert "is running, not complete. Start it again" in mistake(predict, words)
    (copy / "record.json").write_text(json.dumps(record))

    tokenizer = (model / "tokenizer_config.json").read_text()
    (model / "tokenizer_config.json").write_text(tokenizer + " ")
    assert "made from other files (backbone.path/tokenizer_config.json: sha256" in mistake(predict, words)
    (model / "tokenizer_config.json").write_text(tokenizer)

    weights = (copy / "adapter" / "adapter_model.safetensors").read_bytes()
    (copy / "adapter" / "adapter_model.safetensors").write_bytes(weights[:-1])
    assert "adapter/adapter_model.safetensors is gone or damaged" in mistake(predict, words)
    (copy / "adapter" / "adapter_model.safetensors").unlink()
    assert "adapter/adapter_model.safetensors is gone or damaged" in mistake(predict, words)
    (copy / "record.json").write_text(json.dumps(record | {"files": None}))
    assert "adapter/adapter_model.safetensors is missing" in mistake(predict, words)
    (copy / "record.json").unlink()
    assert "is not the folder of a run, it has no record.json" in mistake(predict, words)


def mistake(predict, words):
    code, _, error = predict(*words)
    assert code == 2
    assert error.strip().count("\n") <= 1
    return error


def test_help_names_every_setting(predict):
    code, printed, _ = predict("--help")
    assert code == 0
    for name in ("run=", "input=", "split=", "prompt=", "output=", "overwrite=", "batch_size=", "max_new_tokens="):
        assert name in printed
