"""A complete or interrupted run is reused only for what it was made from."""

import os
import shutil

import pytest
from transformers import TrainerCallback

from meft_runner.errors import UserError
from meft_runner.run import arguments, lifecycle
from meft_runner.run.folder import run_directory, why_not_to_run
from meft_runner.run.reuse import (
    check_ended,
    check_interrupted,
    digest_of_inputs,
    stamps_of_adapter,
    stamps_of_sources,
)
from tests.helpers.composed import settings, tiny
from tests.helpers.folders import make_image_rows, make_model_folder
from tests.helpers.language import make_llama_folder
from tests.helpers.records import changed, record

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def made(rte_folder, tmp_path):
    """Settings, folder and record of a complete run, without its training."""
    chosen = tiny(rte_folder, tmp_path)
    directory = run_directory(chosen)
    (directory / "adapter").mkdir(parents=True)
    for name in (WEIGHTS, "adapter_config.json"):
        (directory / "adapter" / name).write_text(name)
    files = stamps_of_sources(chosen) | stamps_of_adapter(directory)
    return chosen, directory, changed(record(), files={name: stamp.plain() for name, stamp in files.items()})


def model_folder(chosen):
    return chosen.backbone.path


def append(path, text):
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)


def test_the_files_of_a_run_are_known_by_their_settings(made):
    _, _, earlier = made
    assert {name for name in earlier.files if "token" not in name} == {
        "backbone.path/config.json", "backbone.path/model.safetensors", "task.data_dir/train.jsonl",
        "task.data_dir/validation.jsonl", "adapter/adapter_config.json", f"adapter/{WEIGHTS}",
    }  # fmt: skip
    check_ended(*made)


@pytest.mark.parametrize("name", ["train.jsonl", "validation.jsonl"])
def test_changed_rows_are_refused_in_one_line(name, made, rte_folder):
    append(rte_folder / name, "\n")
    with pytest.raises(
        UserError, match=rf"made from other rows \(task.data_dir/{name}: sha256 .* then, .* now\)"
    ) as it:
        check_ended(*made)
    assert str(made[1]) in str(it.value)
    assert "output_dir" in str(it.value)
    assert "\n" not in str(it.value)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_changed_models_are_refused(name, made):
    append(f"{model_folder(made[0])}/{name}", " ")
    with pytest.raises(UserError, match=rf"made from other weights \(backbone.path/{name}: sha256"):
        check_ended(*made)


def test_a_change_that_keeps_size_and_name_is_seen(made, rte_folder):
    file = rte_folder / "train.jsonl"
    file.write_text(file.read_text().replace("dog", "cat"))
    os.utime(file, ns=(1, 1))
    with pytest.raises(UserError, match=r"other rows"):
        check_ended(*made)


def test_copies_and_other_files_are_no_change(made, rte_folder, tmp_path):
    for name in ("train.jsonl", "validation.jsonl"):
        shutil.copy(rte_folder / name, tmp_path / "copy")  # as of another time
        os.replace(tmp_path / "copy", rte_folder / name)
    append(rte_folder / "notes.txt", "mine")
    append(rte_folder / "test.jsonl", "{}")
    append(f"{model_folder(made[0])}/README.md", "mine")
    append(made[1] / "adapter" / "notes.txt", "mine")
    check_ended(*made)


def test_a_changed_test_file_is_seen_where_it_is_predicted(rte_folder, tmp_path):
    append(rte_folder / "test.jsonl", '{"sentence1": "a", "sentence2": "b"}\n')
    chosen = tiny(rte_folder, tmp_path, "task.predict_test=true")
    files = {name: stamp.plain() for name, stamp in stamps_of_sources(chosen).items()}
    assert "task.data_dir/test.jsonl" in files
    earlier = changed(record(), files=files)
    check_ended(chosen, tmp_path, earlier)
    append(rte_folder / "test.jsonl", '{"sentence1": "c", "sentence2": "d"}\n')
    with pytest.raises(UserError, match=r"made from other rows \(task.data_dir/test.jsonl: sha256 .* then, .* now\)"):
        check_ended(chosen, tmp_path, earlier)
    del files["task.data_dir/test.jsonl"]  # as earlier versions, which have not looked at it
    check_ended(chosen, tmp_path, changed(record(), files=files))


def test_new_files_of_the_model_are_a_change(made):
    append(f"{model_folder(made[0])}/added_tokens.json", "{}")
    with pytest.raises(UserError, match=r"backbone.path/added_tokens.json is new"):
        check_ended(*made)


def test_a_folder_of_images_is_compared_file_by_file(tmp_path):
    rows = make_image_rows(tmp_path / "rows")
    model = make_model_folder(tmp_path / "model", "vit")
    chosen = settings("backbone=vit", f"backbone.path={model}", "task=images", f"task.data_dir={rows}")
    files = {name: stamp.plain() for name, stamp in stamps_of_sources(chosen).items()}
    assert len([name for name in files if name.startswith("task.data_dir/")]) == 18
    earlier = changed(record(), files=files)
    check_ended(chosen, tmp_path, earlier)
    shutil.copy(rows / "train" / "dark" / "0.png", rows / "train" / "dark" / "9.png")
    with pytest.raises(UserError, match=r"task.data_dir/train/dark/9.png is new"):
        check_ended(chosen, tmp_path, earlier)


def test_the_users_own_files_are_compared(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("text,label\nx,1\n")
    own = (f"task.train_file={tmp_path / 'a.csv'}", f"task.eval_file={tmp_path / 'b.csv'}")
    chosen = settings("task=text", *own, "task.text_columns=[text]", "task.label_column=label")
    earlier = changed(record(), files={name: stamp.plain() for name, stamp in stamps_of_sources(chosen).items()})
    check_ended(chosen, tmp_path, earlier)
    append(tmp_path / "b.csv", "y,2\n")
    with pytest.raises(UserError, match=r"other rows \(task.eval_file/b.csv"):
        check_ended(chosen, tmp_path, earlier)


def test_the_users_own_files_have_their_names_and_are_files(tmp_path):
    """A name is no pattern, and a pipe or a folder would not end or could not be read."""
    for name in ("a[1].csv", "a1.csv"):
        (tmp_path / name).write_text("text,label\nx,1\n")
    os.mkfifo(tmp_path / "pipe.csv")
    own = [f"task.train_file='{tmp_path / 'a[1].csv'}'", f"task.eval_file={tmp_path / 'pipe.csv'}"]
    assert list(stamps_of_sources(settings("task=text", *own))) == ["task.train_file/a[1].csv"]
    own = [f"task.train_file={tmp_path}", f"task.eval_file={tmp_path / 'nowhere.csv'}"]
    assert not stamps_of_sources(settings("task=text", *own))


def test_rows_that_become_other_inputs_now_are_refused(made, monkeypatch):
    data = made[2].data.plain() | {"version": made[0].task.version}
    earlier = changed(made[2], data=data)
    check_ended(made[0], made[1], earlier)
    monkeypatch.setattr(type(made[0].task), "version", 99)
    with pytest.raises(UserError, match=r"made from other prompts or preprocessing \(version 1 then, 99 now\)"):
        check_ended(made[0], made[1], earlier)


def test_rows_that_are_gone_are_no_reason_to_train_again(made, rte_folder):
    shutil.rmtree(rte_folder)
    check_ended(*made)


@pytest.mark.parametrize("name", [WEIGHTS, "adapter_config.json"])
@pytest.mark.parametrize("damage", ["gone", "empty", "garbage"])
def test_weights_that_are_gone_or_damaged_are_told(damage, name, made):
    file = made[1] / "adapter" / name
    if damage == "gone":
        file.unlink()
    else:
        file.write_text("" if damage == "empty" else "x" * len(name))
        os.utime(file, ns=(1, 1))
    with pytest.raises(
        UserError, match=rf"adapter/{name} is gone or damaged\. Remove that folder, .* to train again\."
    ):
        check_ended(*made)


def test_weights_without_a_record_are_not_trained_over(made):
    chosen, directory, _ = made
    with pytest.raises(UserError, match=r"trained weights in adapter/, but no record\.json\. Remove that folder"):
        lifecycle.run(chosen)
    assert (directory / "adapter" / WEIGHTS).read_text() == WEIGHTS
    assert not (directory / "record.json").exists()


def test_records_that_do_not_know_their_files_are_believed(made):
    shutil.rmtree(made[1] / "adapter")
    check_ended(made[0], made[1], changed(made[2], files=None))


NOW = {"identity": "d4", "rows": {"train": "a1", "validation": "b2"}, "version": 1, "weights": "c3", "inputs": "e5"}


@pytest.mark.parametrize(
    ("then", "message"),
    [
        ({"rows": {"train": "a0", "validation": "b2"}}, r"other rows \(train: fingerprint a0 then, a1 now\)"),
        ({"rows": {"train": "a1"}}, r"other rows \(validation: fingerprint None then, b2 now\)"),
        ({"version": 0}, r"other prompts or preprocessing \(version 0 then, 1 now\)"),
        ({"identity": "d3"}, r"other settings \(identity d3 then, d4 now\)"),
        ({"weights": "c2"}, r"other weights \(weights c2 then, c3 now\)"),
        ({"inputs": "e4"}, r"other tokenizer or chat template \(inputs e4 then, e5 now\)"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(then, message, tmp_path):
    check_interrupted(dict(NOW), NOW, tmp_path)
    with pytest.raises(UserError, match=message):
        check_interrupted(NOW | then, NOW, tmp_path)


def test_a_checkpoint_from_before_its_tokenizer_was_recorded_is_used(tmp_path):
    check_interrupted({key: value for key, value in NOW.items() if key != "inputs"}, NOW, tmp_path)


def test_what_makes_tokens_of_rows_is_known_by_its_content(tmp_path):
    template = tmp_path / "template.jinja"
    template.write_text("one")
    model = make_llama_folder(tmp_path / "model")
    words = ("backbone=smollm2_135m", f"backbone.path={model}", "task=chat", f"task.train_file={template}")
    chosen = settings(*words, f"task.chat_template={template}")
    first = digest_of_inputs(chosen)
    append(f"{model}/model.safetensors", " ")  # weights are known by their own
    assert digest_of_inputs(chosen) == first
    template.write_text("two")
    second = digest_of_inputs(chosen)
    append(f"{model}/tokenizer_config.json", " ")
    assert len({first, second, digest_of_inputs(chosen)}) == 3


class StopAt(TrainerCallback):
    def on_save(self, args, state, control, **kwargs):
        raise KeyboardInterrupt


def test_a_real_run_is_reused_refused_and_resumed(rte_folder, tmp_path, monkeypatch, capsys):
    chosen = tiny(rte_folder, tmp_path, "training.epochs=2")
    build = arguments.build_trainer
    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "build_trainer", lambda *args: build(*args[:-1], [*args[-1], StopAt()]))
        with pytest.raises(KeyboardInterrupt):
            lifecycle.run(chosen)
    rows = (rte_folder / "train.jsonl").read_text()
    (rte_folder / "train.jsonl").write_text(rows.replace("garden", "street"))
    with pytest.raises(UserError, match=r"made from other rows \(train: fingerprint \w+ then, \w+ now\)"):
        lifecycle.run(chosen)
    (rte_folder / "train.jsonl").write_text(rows)
    capsys.readouterr()
    complete = lifecycle.run(chosen)
    assert "goes on" in capsys.readouterr().out
    assert why_not_to_run(chosen, in_sweep=True).startswith("is complete already")
    assert lifecycle.run(chosen) == complete
    append(rte_folder / "train.jsonl", rows)
    for again in (lambda: why_not_to_run(chosen, in_sweep=True), lambda: lifecycle.run(chosen)):
        with pytest.raises(UserError, match=r"made from other rows \(task.data_dir/train.jsonl"):
            again()
