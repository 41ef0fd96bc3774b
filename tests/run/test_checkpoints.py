"""Checkpoints of an unfinished run: which are ours, which are whole, and what is removed."""

import json

import pytest

from meft_runner.errors import UserError
from meft_runner.run import checkpoints

FILES = (
    "adapter_model.safetensors", "adapter_config.json", "optimizer.pt", "scheduler.pt", "rng_state.pth",
    "trainer_state.json",
)  # fmt: skip


def make(directory, step, best=None, whole=True, made_from=None):
    checkpoints.begin(directory, step)
    folder = checkpoints.folder_of(directory, step)
    for name in FILES:
        (folder / name).write_text(f"{name} of step {step}" * 10)
    if whole:
        checkpoints.complete(directory, step, best or step, made_from or {}, {})
    return folder


def garbage(file):
    file.write_bytes(b"\x00" * file.stat().st_size)


DAMAGES = {
    "gone": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-7]),
    "garbage of the same size": garbage,
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}


def test_the_latest_whole_checkpoint_is_found(tmp_path):
    assert checkpoints.last_whole(tmp_path) is None
    make(tmp_path, 5)
    latest = make(tmp_path, 10, best=5)
    assert checkpoints.last_whole(tmp_path) == latest
    assert checkpoints.manifest(latest)["made_from"] == {}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_damage_is_told_in_one_line(name, damage, tmp_path):
    folder = make(tmp_path, 5)
    DAMAGES[damage](folder / name)
    with pytest.raises(UserError) as caught:
        checkpoints.last_whole(tmp_path)
    assert str(caught.value).startswith(f"{folder}: {name} is ")
    assert str(caught.value).endswith(f"Remove checkpoint-5 from {tmp_path} to train from the start.")
    assert "\n" not in str(caught.value)


def test_an_older_whole_checkpoint_takes_the_place_of_a_damaged_one(tmp_path, caplog):
    older = make(tmp_path, 5)
    (make(tmp_path, 10, best=5) / "optimizer.pt").write_text("")
    assert checkpoints.last_whole(tmp_path) == older
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'checkpoint-10'}: optimizer.pt is damaged. Training goes on from checkpoint-5."
    ]


@pytest.mark.parametrize("damage", ["weights", "folder"])
def test_a_checkpoint_needs_the_weights_of_the_best_one(damage, tmp_path):
    best = make(tmp_path, 5)
    make(tmp_path, 10, best=5)
    if damage == "weights":
        garbage(best / "adapter_model.safetensors")
    else:
        checkpoints.remove(tmp_path, keep=(10,))
    with pytest.raises(UserError, match=r"checkpoint-5.*Remove checkpoint-10.* from"):
        checkpoints.last_whole(tmp_path)


def test_the_best_checkpoint_needs_no_more_than_its_weights(tmp_path):
    (make(tmp_path, 5) / "optimizer.pt").unlink()
    latest = make(tmp_path, 10, best=5)
    assert checkpoints.last_whole(tmp_path) == latest


@pytest.mark.parametrize("older", [True, False])
def test_a_checkpoint_that_was_not_written_to_its_end_does_not_count(older, tmp_path):
    expected = make(tmp_path, 5) if older else None
    make(tmp_path, 10, whole=False)
    assert checkpoints.last_whole(tmp_path) == expected


def test_writing_a_checkpoint_once_more_makes_it_unfinished_first(tmp_path):
    make(tmp_path, 5)
    checkpoints.begin(tmp_path, 5)
    assert checkpoints.last_whole(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"files": {}}'])
def test_a_damaged_manifest_names_the_folder_to_remove(content, tmp_path):
    folder = make(tmp_path, 5)
    (folder / checkpoints.MANIFEST).write_text(content)
    with pytest.raises(UserError, match=r"checkpoint-5: its manifest.json is damaged. Remove that folder"):
        checkpoints.last_whole(tmp_path)


def test_only_what_the_run_wrote_is_removed(tmp_path):
    make(tmp_path, 5)
    mixed = make(tmp_path, 10)
    (mixed / "notes.txt").write_text("mine")
    users = {
        "checkpoint-mine/weights.bin": "mine",
        "checkpoint-7/optimizer.pt": "without a manifest",
        "checkpoint-99/manifest.json": (tmp_path / "checkpoint-5" / checkpoints.MANIFEST).read_text(),  # a copy
        "checkpoint-99/optimizer.pt": "a copy",
        "checkpoint-3": "a file",
    }
    for name, content in users.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    checkpoints.remove(tmp_path)
    left = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {**users, "checkpoint-10/notes.txt": "mine"}
    assert checkpoints.last_whole(tmp_path) is None


def test_a_folder_of_the_users_in_the_way_is_left_alone(tmp_path):
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5" / "optimizer.pt").write_text("mine")
    with pytest.raises(UserError, match=r"checkpoint-5: is in the way .* Move it elsewhere\."):
        checkpoints.begin(tmp_path, 5)
    assert (tmp_path / "checkpoint-5" / "optimizer.pt").read_text() == "mine"


def test_a_link_to_a_users_folder_is_not_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder = make(elsewhere, 5)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint-5").symlink_to(folder)
    checkpoints.remove(tmp_path / "run")
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, checkpoints.MANIFEST])


def test_the_manifest_says_what_a_checkpoint_was_made_from(tmp_path):
    made_from = {"rows": {"train": "a1"}, "version": 1, "weights": None}
    folder = make(tmp_path, 5, made_from=made_from)
    assert json.loads((folder / checkpoints.MANIFEST).read_text())["made_from"] == made_from


@pytest.mark.parametrize(
    "content",
    [
        {"step": 5}, {"step": 5, "files": 5}, {"step": 5, "files": {}}, {"step": 5, "files": [1], "best_step": 5},
        {"step": 5, "files": {}, "best_step": 5, "made_from": 3},
        {"step": 5, "files": {}, "best_step": 5, "made_from": {"rows": "x"}},
        {"step": 5, "files": [], "best_step": 5, "made_from": {}}, [], None, "x", "[" * 100_000,
    ],
)  # fmt: skip
def test_a_manifest_of_another_form_is_damaged(content, tmp_path):
    text = content if isinstance(content, str) else json.dumps(content)
    (make(tmp_path, 5) / checkpoints.MANIFEST).write_text(text)
    with pytest.raises(UserError, match=r"checkpoint-5: its manifest.json is damaged"):
        checkpoints.last_whole(tmp_path)
