"""What a run keeps does not take the place of what a user keeps."""

import pytest
from safetensors.torch import load_file

from meft_runner.errors import UserError
from meft_runner.run import lifecycle
from meft_runner.run.folder import run_directory
from meft_runner.run.keeping import keep_adapter
from tests.helpers.composed import settings, tiny
from tests.helpers.models import meft_settings, prepared
from tests.helpers.records import record


def files(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_files_of_the_user_beside_the_weights_stay(tmp_path):
    users = {
        "adapter/notes.txt": "mine", "adapter/README.md": "mine", "adapter.tmp/weights.bin": "mine",
        "adapter.old/adapter_model.safetensors": "mine",
    }  # fmt: skip
    earlier = {"adapter/adapter_model.safetensors": "of an earlier attempt", "adapter/adapter_config.json": "{}"}
    for name, content in (users | earlier).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    model = prepared(meft_settings())
    keep_adapter(model, tmp_path, settings(), record(), {})
    found = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert found.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert '"meft1"' in (tmp_path / "adapter" / "adapter_config.json").read_text()
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter" / "adapter_config.json").unlink()
    assert files(tmp_path) == users
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "adapter.old", "adapter.tmp"]


def test_a_model_card_is_of_the_weights_beside_it_until_a_user_edits_it(tmp_path):
    model, card = prepared(meft_settings()), tmp_path / "adapter" / "README.md"
    keep_adapter(model, tmp_path, settings(), record(), {})
    first = card.read_text()
    keep_adapter(model, tmp_path, settings("task.max_length=32"), record(), {})
    second = card.read_text()
    assert "task.max_length=32" in second
    assert first != second
    card.write_text(second.replace("demo", "mine"))
    keep_adapter(model, tmp_path, settings(), record(), {})
    assert card.read_text() == second.replace("demo", "mine")


def test_a_file_named_adapter_is_in_the_way(tmp_path):
    (tmp_path / "adapter").write_text("mine")
    with pytest.raises(UserError, match=r"the adapter cannot be written there"):
        keep_adapter(prepared(meft_settings()), tmp_path, settings(), record(), {})
    assert files(tmp_path) == {"adapter": "mine"}


def test_a_whole_run_leaves_everything_of_the_users(rte_folder, tmp_path):
    chosen = tiny(rte_folder, tmp_path, "training.epochs=2", "training.max_steps=7")
    directory = run_directory(chosen)
    users = {
        "checkpoint-mine/a.bin": "mine", "checkpoint-1/optimizer.pt": "mine", "notes.txt": "mine",
        "predictions/a.tsv": "mine", "adapter/notes.txt": "mine", "../.locks/mine": "mine", "record.json.bak": "mine",
    }  # fmt: skip
    for name, content in users.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)
    lifecycle.run(chosen)
    assert {name: (directory / name).read_text() for name in users} == users
    own = {f"adapter/{name}" for name in ("adapter_model.safetensors", "adapter_config.json", "README.md")}
    left = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    assert left == own | {"record.json"} | {name for name in users if ".." not in name}


def test_a_link_named_adapter_is_in_the_way(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "adapter_model.safetensors").write_text("mine")
    (tmp_path / "adapter").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match=r"adapter: is a link, and files elsewhere would be replaced"):
        keep_adapter(prepared(meft_settings()), tmp_path, settings(), record(), {})
    assert files(tmp_path / "mine") == {"adapter_model.safetensors": "mine"}
