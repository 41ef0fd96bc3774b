"""The stand-in hub with its repositories, and this process's libraries turned to it."""

import datasets
import huggingface_hub
import pytest

from tests.helpers import hub_files
from tests.helpers.hub import Hub, serving
from tests.helpers.hub_reads import forget

MODELS = {
    "FacebookAI/roberta-large": hub_files.roberta,
    "facebook/opt-1.3b": hub_files.opt,
    "google/vit-base-patch16-224-in21k": hub_files.vit,
}
DATA = {
    "nyu-mll/glue": hub_files.glue_rte,
    "allenai/ai2_arc": hub_files.arc_easy,
    "rajpurkar/squad": hub_files.squad,
    "uoft-cs/cifar10": hub_files.cifar10,
}


@pytest.fixture(scope="session")
def contents(tmp_path_factory):
    """The files of every repository, by kind and name."""
    models = {("models", name): make(tmp_path_factory.mktemp("model")) for name, make in MODELS.items()}
    return models | {("datasets", name): make() for name, make in DATA.items()}


@pytest.fixture
def hub(contents):
    """The server, with one commit in each repository."""
    server = Hub()
    for (kind, name), files in contents.items():
        server.add(kind, name, files)
    with serving(server):
        yield server


@pytest.fixture
def cache(hub, monkeypatch, tmp_path):
    """An empty cache, for this process's libraries, which ask the server and do not wait between their tries."""
    constants, config = huggingface_hub.constants, datasets.config
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_CACHE": str(tmp_path / "home" / "hub"),
        "HF_HUB_DOWNLOAD_TIMEOUT": 60,  # a busy machine is no silent hub
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "home" / "datasets")
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("meft_runner.backbones.hub_line.PATIENCE", 0.7)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    forget()
    yield tmp_path / "home"
    forget()
