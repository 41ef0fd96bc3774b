"""What a user sees where the hub, the network or the cache fails: one line with the way out."""

import re
import resource
from contextlib import contextmanager
from types import SimpleNamespace

import huggingface_hub
import pytest

from meft_runner.backbones.hub_errors import endpoint
from meft_runner.errors import UserError
from tests.helpers.hub import Fault
from tests.helpers.hub_reads import read_model, read_split

ROBERTA, GLUE = "FacebookAI/roberta-large", "nyu-mll/glue"


LOADS = {
    "backbone": SimpleNamespace(
        load=read_model,
        start=f"backbone=roberta: {ROBERTA}: ",
        end="set backbone.path=DIR to a local folder of that",
    ),
    "task": SimpleNamespace(
        load=read_split, start=f"task=rte: {GLUE}: ", end="set task.data_dir=DIR to a local folder with its splits."
    ),
}
API = r"GET /api/(models|datasets)/[^/]+/[^/]+$"
FILE = r"HEAD /.*(model.safetensors|train-.*parquet)"
BYTES = r"GET /cdn/"
SILENT = r"the hub gives no answer, .*on a slow line with HF_HUB_DOWNLOAD_TIMEOUT=60"
LIMITED = {"RateLimit": '"api";r=0;t=290'}
FAULTS = {
    "silent": (Fault(API, seconds=1.0), SILENT),
    "silent about a file": (Fault(FILE, seconds=1.0), SILENT),
    "silent in a file": (Fault(BYTES, seconds=1.0), SILENT),
    "broken off": (Fault(BYTES, keep=0.0), "the connection broke off. Run it again"),
    "bad token": (Fault(API, 401), r"the hub refuses it \(401\). .*`hf auth login` or set HF_TOKEN"),
    "forbidden": (Fault(FILE, 403), r"the hub refuses it \(403\)"),
    "file missing": (Fault(FILE, 404, {"X-Error-Code": "EntryNotFound"}), r"no file (model.saf|train-).* \(404\)"),
    "limited": (Fault(API, 429, LIMITED), r"limit of requests is reached \(429\). Try again in 290 s"),
    "limited, untold": (Fault(API, 429), r"limit of requests is reached \(429\). Try again in some minutes"),
    "limited at a file": (Fault(FILE, 429, {"Retry-After": "700"}), r"reached \(429\). Try again in 700 s"),
    "unavailable": (Fault(API, 503), r"the hub answers with an error \(503\). Try again later"),
    "unavailable at a file": (Fault(FILE, 503), r"the hub answers with an error \(503\)"),
    "broken": (Fault(API, 500), r"the hub answers with an error \(500\)"),
    "a login page": (Fault(API, 200, body=b"<html>Log in</html>"), r"is not the hub. Check HF_ENDPOINT and proxies"),
}


def told(group, **kwargs):
    """Loads, and returns the one line that says why that failed."""
    case = LOADS[group]
    with pytest.raises(UserError) as error:
        case.load(**kwargs)
    message = str(error.value)
    assert message.startswith(case.start)
    assert case.end in message
    assert "\n" not in message
    return message.removeprefix(case.start)


@pytest.mark.parametrize("group", LOADS)
@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.thin(6)
def test_what_the_hub_does(hub, cache, name, group, monkeypatch):
    fault, expected = FAULTS[name]
    if fault.seconds:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", fault.seconds / 2)
    hub.faults.append(Fault(**vars(fault)))
    assert re.search(expected, told(group))


@pytest.mark.parametrize("group", LOADS)
def test_a_repository_that_is_not_there_or_not_open(hub, cache, group):
    assert re.match(
        r"the hub has no such repository, or it is private \(401\). To read a private one run `hf auth login` or",
        missing(group, "nobody/none"),
    )
    for repository in hub.repositories.values():
        repository.gated = True
    page = {"backbone": f"{hub.url}/{ROBERTA}", "task": f"{hub.url}/datasets/{GLUE}"}[group]
    assert told(group).startswith(f"it is gated (401). Ask for access at {page}, then run `hf auth login` or set HF_")


def missing(group, name):
    with pytest.raises(UserError) as error:
        LOADS[group].load(hub=name)
    return str(error.value).split(f"{name}: ")[1]


@pytest.mark.parametrize("group", LOADS)
def test_a_revision_that_is_not_there(hub, cache, group):
    for revision in ("v9", "0" * 40):
        message = told(group, revision=revision)
        assert message.startswith(
            f"it has no revision '{revision}' (404). Set {group}.revision to a branch, tag or commit"
        )


@pytest.mark.parametrize("group", LOADS)
def test_no_network(hub, cache, group, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert re.match(r"http://127.0.0.1:9 cannot be reached \(.*refused\). Check the network, proxies", told(group))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert told(group).startswith("HF_HUB_OFFLINE is set, and the cache does not hold all of it. Unset HF_HUB_OFFLINE")
    assert not hub.asked


@pytest.mark.parametrize("group", LOADS)
def test_a_cache_that_cannot_be_written(hub, cache, group):
    cache.write_text("a file where the folder should be")
    assert re.match(rf"the cache cannot be written \(.*{cache}.*set HF_HOME=DIR", told(group))


def test_a_full_disk_leaves_no_part_of_a_file(hub, cache):
    with files_up_to(200_000):
        assert re.match(r"the cache cannot be written \(File too large: .*Free space,", told("backbone"))
    assert {file.name for file in cache.rglob("model.safetensors*")} == set()
    assert not [file for file in cache.rglob("*") if file.is_file() and file.stat().st_size > 100_000]


@contextmanager
def files_up_to(size):
    """Lets this process write no file larger than that."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("https://hub.example/path", "https://hub.example/path"), ("https://u:pa/s#s@hub.example", "https://hub.example"),
        ("u:secret@hub.example", "hub.example"), ("https://u:p[x@hub.example", "https://hub.example"),
    ],
)  # fmt: skip
def test_an_address_is_shown_without_a_password(given, shown, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", given)
    assert endpoint() == shown
