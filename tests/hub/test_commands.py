"""The README's first command and its like, in processes of their own, against the stand-in hub."""

import json
import os
import pty
import subprocess
import sys
import termios

import pytest

from meft_runner.tasks.description import fingerprint
from tests.helpers import hub_files
from tests.helpers.hub import TOKEN, Fault, Hub, serving

README = ["backbone=roberta", "task=rte", "method=meft1"]
SMALL = ["training.max_steps=2", "task.max_train_rows=10", "task.max_eval_rows=6"]
COMMANDS = {
    "glue": ([*README, "task.max_length=64"], "FacebookAI/roberta-large", "nyu-mll/glue"),
    "choice": (["backbone=opt", "task=arc_easy", "task.max_length=100"], "facebook/opt-1.3b", "allenai/ai2_arc"),
    "squad": (
        ["backbone=roberta", "task=squad", "task.max_length=100", "task.stride=20"],
        "FacebookAI/roberta-large",
        "rajpurkar/squad",
    ),
    "image": (["backbone=vit", "task=cifar10"], "google/vit-base-patch16-224-in21k", "uoft-cs/cifar10"),
}


@pytest.fixture
def start(tmp_path):
    """Starts meft-run with an empty cache of its own, which later starts find filled."""
    outer = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}

    def run(url, *arguments, **streams):
        inner = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-m", "meft_runner", *arguments, *SMALL, f"output_dir={tmp_path / 'runs'}"]
        return subprocess.Popen(command, text=True, env=outer | inner | streams.pop("env", {}), **streams)

    return run


def run(start, url, *arguments, **more):
    """Returns exit code, standard output and standard error of a command."""
    process = start(url, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
    output, errors = process.communicate(timeout=200)
    return process.returncode, output, errors


def records(folder):
    """Returns the records of the runs that ended well, by seed."""
    found = [json.loads(file.read_text()) for file in (folder / "runs").glob("*/record.json")]
    return {record["config"]["seed"]: record for record in found if record["status"] == "complete"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", COMMANDS)
def test_a_command_reads_the_hub_and_then_the_cache(hub, start, tmp_path, kind):
    arguments, model, data = COMMANDS[kind]
    code, output, errors = run(start, hub.url, *arguments)
    assert code == 0, errors
    assert "HTTP" not in output + errors
    assert "B/s" not in output + errors  # no bar where there is no terminal
    record = records(tmp_path)[1]
    assert record["scores"]["best"] is not None
    assert record["data"]["kind"] == kind
    assert record["data"]["source"] == data
    assert record["data"]["revision"] == hub.repositories["datasets", data].refs["main"]
    assert record["data"]["splits"]["train"]["rows"] == 10
    commit = hub.repositories["models", model].refs["main"]
    assert record["weights"] == {"source": model, "revision": commit, "sha256": None}
    if kind == "glue":
        assert record["data"]["splits"]["train"]["fingerprint"] == fingerprint(hub_files.glue_rows("train", 10))
    with serving(Hub()) as gone:
        pass
    code, output, errors = run(start, gone.url, *arguments, "seed=2")
    assert code == 0, errors
    assert f"{model}: the hub gives no answer; the cache's commit" in output + errors
    again = records(tmp_path)[2]
    assert again["data"] == record["data"]
    assert again["weights"] == record["weights"]


@pytest.mark.slow
def test_a_command_that_breaks_off_is_told_and_done_again(hub, start, tmp_path):
    hub.faults += [Fault("GET /cdn/.*safetensors", keep=0.5, times=1), Fault("GET /cdn/.*safetensors", keep=0.0)]
    code, _, errors = run(start, hub.url, *README, "task.max_length=64")
    assert code == 2
    assert errors.splitlines()[-1].startswith(
        "error: backbone=roberta: FacebookAI/roberta-large: the connection broke off"
    )
    assert "Traceback" not in errors
    assert not list((tmp_path / "home").rglob("*.incomplete"))
    hub.faults.clear()
    code, _, errors = run(start, hub.url, *README, "task.max_length=64")
    assert code == 0, errors


@pytest.mark.slow
def test_a_store_of_large_files_that_cannot_be_reached(hub, start):
    hub.store = "http://127.0.0.1:9"
    for more, expected in (
        ({"HF_XET_CLIENT_RETRY_MAX_DURATION": "1s"}, 2),  # 15 seconds unless set, where the library's own is minutes
        ({"HF_HUB_DISABLE_XET": "1"}, 0),
    ):
        code, _, errors = run(start, hub.url, *README, "task.max_length=64", env=more)
        assert code == expected, errors
        if code == 2:
            assert "Traceback" not in errors
            assert "nyu-mll/glue: the hub's store of files cannot be read (" in errors.splitlines()[-1]
            assert "Set HF_HUB_DISABLE_XET=1 for plain HTTP, or set task.data_dir=DIR" in errors.splitlines()[-1]


@pytest.mark.slow
def test_a_terminal_shows_the_download_of_a_gated_repository_to_who_has_a_token(hub, start):
    hub.repositories["models", "FacebookAI/roberta-large"].gated = True
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 100))
    process = start(hub.url, *README, "task.max_length=64", stdout=theirs, stderr=theirs, env={"HF_TOKEN": TOKEN})
    os.close(theirs)
    shown = everything(ours)
    assert process.wait() == 0
    for file in ("model.safetensors: 100%", "train-00000-of-00001.parquet: 100%"):
        assert file in shown
    for noise in ("HTTP", "Generating", "Reconstructing", "Loading weights"):
        assert noise not in shown


def everything(terminal):
    """Returns what is written to a terminal until nobody has it open."""
    shown = b""
    while True:
        try:
            part = os.read(terminal, 2**16)
        except OSError:  # how the end is told
            return shown.decode()
        shown += part
