"""A copy of a trained run, and a hub on this machine that takes what is pushed."""

import shutil

import huggingface_hub
import pytest

from meft_runner import cli
from tests.helpers.commands import call
from tests.helpers.hub_reads import forget
from tests.helpers.hub_writes import TOKEN, WritableHub, serving


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of a run's folder."""
    return shutil.copytree(trained("rte", "meft1"), tmp_path / trained("rte", "meft1").name)


@pytest.fixture
def hub(monkeypatch):
    """The server, with a member's token in the environment."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("meft_runner.backbones.hub_line.PATIENCE", 0.7)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: False)
    with serving(WritableHub()) as served:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", served.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        forget()
        yield served
    forget()


@pytest.fixture
def share(monkeypatch, capsys):
    """Returns what runs the command and returns its exit code and what it printed."""

    def typed(*words):
        capsys.readouterr()  # of what trained the run
        return call(monkeypatch, capsys, cli.meft_share, *map(str, words))

    return typed
