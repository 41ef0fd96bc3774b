from pathlib import Path

import pytest

from meft_runner.config import METHODS, from_plain, identity, plain
from meft_runner.errors import UserError
from meft_runner.records.record import new_record, write_record
from meft_runner.records.schema import Data, Weights
from meft_runner.run.earlier import check_backbone, check_rows, repeated
from meft_runner.run.folder import run_directory
from meft_runner.run.lifecycle import run
from meft_runner.run.reuse import stamps_of_sources
from tests.helpers.composed import settings, tiny
from tests.helpers.records import changed, record, write_run

TASKS = {"rte": "minilm", "demo": "minilm", "text": "minilm", "piqa": "opt", "squad": "minilm", "svhn": "vit"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "task", [pytest.param(task, marks=() if task in ("rte", "piqa") else pytest.mark.slow) for task in TASKS]
)
@pytest.mark.thin(3)
def test_settings_come_back_from_a_record(task, method):
    chosen = settings(f"backbone={TASKS[task]}", f"task={task}", f"method={method}", "training.precision=bf16")
    assert from_plain(plain(chosen)) == chosen


def test_a_setting_that_an_older_record_lacks_has_its_default():
    content = plain(settings("method=lora"))
    del content["method"]["init_noise"], content["backbone"]["repeat"], content["study"]
    assert from_plain(content) == settings("method=lora")


def test_a_run_is_repeated_with_another_seed(tmp_path):
    earlier = settings(f"output_dir={tmp_path}", "method=lora", "training.learning_rate=0.01")
    write_run(earlier)
    again = settings(f"output_dir={tmp_path}", f"from_record={identity(earlier)}", "seed=7", "logger=tensorboard")
    found = repeated(again, ["seed=7", "from_record=x", "launcher=joblib", "logger=tensorboard"])
    assert (found.seed, found.logger.name, found.method, found.training) == (
        7, "tensorboard", earlier.method, earlier.training,
    )  # fmt: skip
    assert identity(found) == identity(settings("method=lora", "training.learning_rate=0.01", "seed=7"))


def test_other_rows_than_those_of_the_run_to_repeat_are_refused(tmp_path):
    """A relative path leads elsewhere from another folder, and rows may have changed."""
    earlier = settings(f"output_dir={tmp_path}", "method=lora")
    rows = {name: {"rows": 3, "fingerprint": name * 2} for name in ("train", "validation")}
    made = changed(record(), identity=identity(earlier), data={"synthetic": False, "splits": rows})
    write_record(made, run_directory(earlier))
    again = settings(f"output_dir={tmp_path}", f"from_record={identity(earlier)}", "seed=7")
    check_rows(again, made.data)
    others = Data.model_validate({"synthetic": False, "splits": {"train": {"rows": 3, "fingerprint": "other"}}})
    check_rows(settings(f"output_dir={tmp_path}"), others)
    with pytest.raises(UserError, match=r"=.*: train rows are others .* traintrain then, other now\)"):
        check_rows(again, others)
    others.splits["train"] = made.data.splits["train"]
    with pytest.raises(UserError, match=r"validation rows are others .* then, missing now"):
        check_rows(again, others)


@pytest.mark.parametrize(
    ("file", "then", "message"),
    [
        ("special_tokens_map.json", {}, r"backbone.path/special_tokens_map.json: sha256 .* then, .* now\)"),
        ("README.md", {"sha256": "1" * 64}, r"weights 11111111 then, [0-9a-f]{8} now\)"),
    ],
)
def test_another_backbone_than_that_of_the_run_to_repeat_is_refused(file, then, message, rte_folder, tmp_path):
    """A relative path leads elsewhere from another folder, and a model may have been trained on."""
    earlier = tiny(rte_folder, tmp_path, "method=lora")
    (Path(earlier.backbone.path) / file).write_text("{}")
    parts = {"config": plain(earlier), "files": stamps_of_sources(earlier), "weights": then, "data": None}
    write_record(changed(record(), identity=identity(earlier), status="failed", **parts), run_directory(earlier))
    (Path(earlier.backbone.path) / file).write_text("{ }")
    again = settings(f"output_dir={tmp_path / 'runs'}", f"from_record={identity(earlier)}", "seed=7")
    with pytest.raises(UserError, match=rf"from_record=.*: backbone=roberta is another .* \({message}"):
        run(repeated(again, ["seed=7"]))
    check_backbone(earlier, Weights())


@pytest.mark.parametrize(
    ("typed", "parts", "message"),
    [
        ("method=ia3", {"method_version": 1}, r"version 1 of method=ia3, this program has version 2\."),
        ("method=lora", {"data": {"synthetic": False, "version": 99}}, r"version 99 of task=rte, this program has"),
    ],
)
def test_a_run_that_is_trained_otherwise_now_is_not_repeated(typed, parts, message, tmp_path):
    earlier = settings(f"output_dir={tmp_path}", "task=rte", typed)
    write_record(changed(record(0.5, typed), identity=identity(earlier), **parts), run_directory(earlier))
    with pytest.raises(UserError, match=message):
        repeated(settings(f"output_dir={tmp_path}", f"from_record={identity(earlier)}", "seed=2"), ["seed=2"])


def test_settings_that_name_no_run_are_their_own():
    assert repeated(settings(), ["method=meft1"]) == settings()


def test_nothing_else_can_be_set_beside_a_run_to_repeat():
    with pytest.raises(UserError, match=r"training.epochs=3: from_record takes all settings"):
        repeated(settings("from_record=abc"), ["from_record=abc", "training.epochs=3"])


def test_a_run_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"from_record=abc: no run in .* has this identity"):
        repeated(settings(f"output_dir={tmp_path}", "from_record=abc"), [])


@pytest.mark.parametrize("group", ["backbone", "task", "method", "training"])
def test_a_record_without_settings_cannot_be_repeated(group, tmp_path):
    config = plain(settings("method=lora"))
    config[group]["nothing"] = 1
    write_record(new_record("abc", config, "cpu"), tmp_path / "run-abc")
    with pytest.raises(UserError, match="from_record=abc: its record has no settings of this program"):
        repeated(settings(f"output_dir={tmp_path}", "from_record=abc"), [])


def test_an_identity_is_a_name_and_no_pattern(tmp_path):
    write_run(settings(f"output_dir={tmp_path}", "method=lora"))
    for pattern in ("*", "?????", "[0-9a-f]*", "/"):
        with pytest.raises(UserError, match="no run in"):
            repeated(settings(f"output_dir={tmp_path}", f"from_record='{pattern}'"), [])


def test_a_folder_that_was_renamed_is_not_taken_for_another_run(tmp_path):
    earlier = settings(f"output_dir={tmp_path}", "method=lora")
    write_run(earlier)
    run_directory(earlier).rename(tmp_path / "minilm-demo-lora-s1-0123456789")
    with pytest.raises(UserError, match=rf"holds the record of another run, {identity(earlier)}\. "):
        repeated(settings(f"output_dir={tmp_path}", "from_record='0123456789'"), [])
