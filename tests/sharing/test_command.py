"""`meft-share` as a user types it: what the hub holds afterwards, and mistakes in a line or two."""

import json
import os

import pytest
from huggingface_hub import ModelCard

from meft_runner.run import card
from tests.helpers.hub_writes import TOKEN, Repository

WEIGHTS = "adapter_model.safetensors"
NAME = "jane/rte-meft1"
FILES = {WEIGHTS, "adapter_config.json", "README.md"}


def test_a_run_is_pushed_and_nothing_names_this_machine(hub, share, folder):
    hub.large = True
    (folder / "adapter" / "notes.txt").write_text("mine")
    code, printed, error = share(f"run={folder}", f"to={NAME}")
    assert (code, error) == (0, "left out, as the run has not made it: notes.txt\n")
    assert f"{folder.name} is shared: {hub.url}/{NAME}" in printed
    repository = hub.repositories[NAME]
    assert repository.files.keys() - {".gitattributes"} == FILES
    assert repository.files[WEIGHTS] == (folder / "adapter" / WEIGHTS).read_bytes()
    assert not repository.private
    assert repository.titles == [f"Weights of the run {folder.name}"]
    texts = [content.decode() for name, content in repository.files.items() if name != WEIGHTS]
    assert not any(word in text for text in texts for word in ("/tmp", str(folder.parent), "data_dir", TOKEN))
    card = ModelCard(repository.files["README.md"].decode())
    assert card.data.pipeline_tag == "text-classification"
    assert f'snapshot_download("{NAME}")' in card.text
    assert TOKEN not in "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


def test_a_repository_is_made_private(hub, share, folder):
    assert share(f"run={folder}", "to=lab/rte", "private=true")[0] == 0
    assert hub.repositories["lab/rte"].private


def test_an_empty_repository_is_filled(hub, share, folder):
    hub.repositories[NAME] = Repository()
    assert share(f"run={folder}", f"to={NAME}")[0] == 0
    assert hub.repositories[NAME].files.keys() > FILES


def test_pushing_twice_changes_nothing(hub, share, folder):
    share(f"run={folder}", f"to={NAME}")
    hub.repositories[NAME].files["README.md"] = b"edited on the hub"
    code, printed, _ = share(f"run={folder}", f"to={NAME}")
    assert code == 0
    assert "holds these weights already; overwrite=true writes the other files anew" in printed
    assert hub.repositories[NAME].files["README.md"] == b"edited on the hub"
    assert len(hub.repositories[NAME].titles) == 1


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({WEIGHTS: b"another"}, "the repository is there and holds another adapter"),
        ({"model.safetensors": b"", "README.md": b""}, r"holds other files (README.md, model.safetensors)"),
    ],
)
def test_what_a_repository_holds_is_replaced_when_that_is_asked(held, message, hub, share, folder):
    hub.repositories[NAME] = Repository({".gitattributes": b"", "mine.txt": b"mine", **held})
    code, _, error = share(f"run={folder}", f"to={NAME}")
    assert code == 2
    assert message.replace("model", "mine.txt, model") in error or message in error
    assert "add overwrite=true" in error
    assert hub.repositories[NAME].files.items() >= held.items()
    code, _, error = share(f"run={folder}", f"to={NAME}", "overwrite=true")
    assert (code, error) == (0, "")
    assert hub.repositories[NAME].files["mine.txt"] == b"mine"
    assert hub.repositories[NAME].files[WEIGHTS] == (folder / "adapter" / WEIGHTS).read_bytes()


def test_what_is_public_does_not_become_private(hub, share, folder):
    hub.repositories[NAME] = Repository()
    code, _, error = share(f"run={folder}", f"to={NAME}", "private=true")
    assert code == 2
    assert "is there and is public" in error
    assert not hub.repositories[NAME].titles


def test_an_edited_card_is_pushed_as_it_is(hub, share, folder):
    (folder / "adapter" / "README.md").write_text("my own card")
    share(f"run={folder}", f"to={NAME}")
    assert hub.repositories[NAME].files["README.md"] == b"my own card"


def test_a_card_of_other_words_that_nobody_edited_says_where_it_stands(hub, share, folder):
    text = "as an earlier version had it"
    seal = f"\n<!-- sha256 of what the run has written above: {card._digest(text)} -->\n"
    (folder / "adapter" / "README.md").write_text(text + seal)
    share(f"run={folder}", f"to={NAME}")
    assert f'snapshot_download("{NAME}")' in hub.repositories[NAME].files["README.md"].decode()


def test_a_run_of_an_earlier_version_is_pushed_without_paths(hub, share, folder):
    """Its folder has peft's empty card, and a description with the base's folder."""
    adapter = folder / "adapter"
    (adapter / "README.md").write_text("base_model: /home/jane/model [More Information Needed]")
    config = json.loads((adapter / "adapter_config.json").read_text())
    config |= {"base_model_name_or_path": "/home/jane/model"}
    config |= {"auto_mapping": {"base_model_class": "A", "parent_library": "meft_runner.backbones.answers"}}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    record = json.loads((folder / "record.json").read_text())
    del record["files"]
    (folder / "record.json").write_text(json.dumps(record))
    code, _, error = share(f"run={folder}", f"to={NAME}")
    assert (code, error) == (0, "")
    pushed = {name: hub.repositories[NAME].files[name].decode() for name in ("README.md", "adapter_config.json")}
    assert not any("/home/jane" in text or "meft_runner.backbones" in text for text in pushed.values())
    assert "# roberta on rte, meft1" in pushed["README.md"]


def test_somebody_who_pushes_at_the_same_time_loses_nothing(hub, share, folder):
    hub.repositories[NAME] = Repository()
    hub.before_commit = lambda repository: repository.files.update({WEIGHTS: b"theirs"})
    code, _, error = share(f"run={folder}", f"to={NAME}")
    assert code == 2
    assert "somebody else has written to it at the same time. Look at it, and push again. (412" in error
    assert hub.repositories[NAME].files[WEIGHTS] == b"theirs"


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "no token of the hub is there. Run `hf auth login`, or set HF_TOKEN"),
        ("hf_revoked", "the hub does not accept the token"),
        ("hf_é", "the token has characters that no token has"),
        ("hf_a\x00b", "the token has characters that no token has"),
    ],
)
def test_tokens_that_do_not_serve(token, message, hub, share, folder, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    elif "\x00" in token:
        monkeypatch.setattr("meft_runner.sharing.hub.get_token", lambda: token)
        monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: token)
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    code, printed, error = share(f"run={folder}", f"to={NAME}")
    assert code == 2
    assert message in error
    assert error.count("\n") <= 2
    assert token is None or token not in printed + error
    assert not hub.repositories


@pytest.mark.parametrize(
    ("part", "answer", "message"),
    [
        ("GET /api/models", (500, "down"), "the hub answers with an error. Try again later. (500"),
        ("GET /api/models", (403, "forbidden"), "the token may not write there. Choose another owner than jane"),
        ("POST /api/repos/create", (400, "bad name"), "the hub refuses it. (400: bad name"),
        ("commit", (503, "down"), "the hub answers with an error. Try again later. (503"),
        ("preupload", (429, "too many"), "the hub's limit of requests is reached. Try again later."),
    ],
)
def test_answers_that_are_errors(part, answer, message, hub, share, folder):
    hub.answers[part] = answer
    code, _, error = share(f"run={folder}", f"to={NAME}")
    assert code == 2
    assert f"error: to={NAME}: {message}" in error
    assert error.count("\n") <= 2


def test_an_interrupted_push_leaves_nothing_by_halves(hub, share, folder, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("huggingface_hub.HfApi.create_commit", interrupted)
    code, _, error = share(f"run={folder}", f"to={NAME}")
    assert (code, error) == (1, f"interrupted: {hub.url}/{NAME} has all of the files or none. Start it again.\n")
    assert hub.repositories[NAME].files.keys() == {".gitattributes"}


def test_another_owner(hub, share, folder):
    code, _, error = share(f"run={folder}", "to=joe/rte")
    assert code == 2
    assert "Choose another owner than joe" in error
    assert "You don't have the rights to create a model under the namespace joe" in error


def test_a_hub_that_cannot_be_reached(hub, share, folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://jane:secret@127.0.0.1:9")
    code, _, error = share(f"run={folder}", f"to={NAME}")
    assert code == 2
    assert "http://127.0.0.1:9 cannot be reached. Check the network" in error
    assert "secret" not in error
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, _, error = share(f"run={folder}", f"to={NAME}")
    assert (code, error) == (2, "error: HF_HUB_OFFLINE is set: nothing can be pushed to the hub. Unset it.\n")


def link_the_card(folder):
    card = folder / "adapter" / "README.md"
    card.unlink()
    card.symlink_to(folder / "record.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "record.json").unlink(), "is not the folder of a run, it has no record.json"),
        (lambda folder: os.truncate(folder / "adapter" / WEIGHTS, 10), f"adapter/{WEIGHTS} is gone or damaged"),
        (lambda folder: (folder / "adapter" / "adapter_config.json").write_text("[]"), "is gone or damaged"),
        (lambda folder: (folder / "adapter" / "README.md").write_bytes(b"\xff"), "README.md: cannot be read"),
        (link_the_card, "README.md: is a link, and what it leads to is not the run's"),
        (lambda folder: set_status(folder, "running"), "is running, not complete"),
    ],
)
def test_runs_that_cannot_be_pushed(change, message, hub, share, folder):
    change(folder)
    code, _, error = share(f"run={folder}", f"to={NAME}")
    assert code == 2
    assert message in error
    assert not hub.asked


def set_status(folder, status):
    content = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(content | {"status": status}))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "run: not given. Give the folder of a complete run"),
        (["run=runs/a"], "to: not given. Give the repository on the hub, to=OWNER/NAME"),
        (["run=runs/a", "to=rte"], "to='rte': expected OWNER/NAME"),
        (["run=runs/a", "to=a/b/c"], "to='a/b/c': expected OWNER/NAME"),
        (["run=runs/a", "to=a/b c"], "to='a/b c': expected OWNER/NAME"),
        (["run=runs/a", "to=a/b..c"], "to='a/b..c': expected OWNER/NAME"),
        (["run=runs/a", "to=a/-b"], "to='a/-b': expected OWNER/NAME"),
        (["run=runs/a", "to=https://huggingface.co/a/b"], "expected OWNER/NAME"),
        (["run=runs/a", f"to=a/{'b' * 99}"], "of at most 96 characters"),
        (["run=runs/a", "to=a/b", "private=yes"], "private=yes: expected true or false"),
        (["run=runs/a", "to=a/b", "to=a/c"], "to is given twice"),
        (["run=runs/a", "to=a/b", "overwite=true"], "overwite: no such setting, did you mean 'overwrite'"),
        (["run=runs/none", "to=a/b"], "run=runs/none: no such folder. Give the folder of a complete run."),
    ],
)
def test_mistakes_in_what_is_asked(words, message, share):
    code, _, error = share(*words)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


def test_help_names_each_setting(share):
    code, printed, _ = share("--help")
    assert code == 0
    assert all(f"{name}=" in printed for name in ("run", "to", "private", "overwrite"))
