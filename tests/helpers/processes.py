"""Sweeps as separate processes, to be killed, run side by side and compared."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from safetensors.torch import load_file

from tests.helpers.folders import make_model_folder

CELLS = 8


def make_folders(folder, rows):
    """Makes a tiny model and returns the arguments of a sweep of eight runs on the rows of RTE's form."""
    model = make_model_folder(folder / "model", "bart")
    return [
        "-m", "backbone=bart_base", f"backbone.path={model}", "task=rte", f"task.data_dir={rows}",
        "method=lora,meft1", "seed=1,2", "training.learning_rate=1e-3,1e-2", "training.epochs=3",
        "training.batch_size=8", "task.max_length=48",
    ]  # fmt: skip


def changed(arguments, *overrides):
    """Returns arguments with other values of some settings, or more of them."""
    keys = {override.partition("=")[0] for override in overrides}
    if "training.max_steps" in keys:
        keys.add("training.epochs")  # one of the two says how long a run trains
    return [argument for argument in arguments if argument.partition("=")[0] not in keys] + list(overrides)


def start(arguments, output_dir, launcher=()):
    """Starts meft-run, by a module such as torchrun's where one is given, and returns its process.

    Of a setting that is given more than once the last value counts, and steps take the place of epochs.
    """
    last = {argument.partition("=")[0]: argument for argument in arguments}
    if "training.max_steps" in last:
        last.pop("training.epochs", None)
    arguments = last.values()
    modules = [*launcher, "-m", "meft_runner"] if launcher else ["meft_runner"]
    command = [sys.executable, "-m", *modules, *arguments, f"output_dir={output_dir}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def finish(process):
    """Waits for a sweep that must end well and returns what it printed."""
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def kill_after(process, seconds, number=signal.SIGKILL):
    """Kills a sweep some seconds after its first run has begun; True where it was still there."""
    time.sleep(seconds)
    alive = process.poll() is None
    process.send_signal(number)
    process.communicate()
    return alive


def files(folder):
    """Returns every file below a folder with its content and time of change."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in Path(folder).rglob("*") if path.is_file()}


def records(output_dir):
    """Returns the records of a folder, by the run's name."""
    return {path.parent.name: json.loads(path.read_text()) for path in Path(output_dir).glob("*/record.json")}


def results(output_dir):
    """Returns what a run must come to, however often it was interrupted: scores, and every weight bit for bit."""
    found = {}
    for name, record in records(output_dir).items():
        assert record["status"] == "complete", name
        weights = load_file(Path(output_dir) / name / "adapter" / "adapter_model.safetensors")
        found[name] = record["scores"], {key: value.numpy().tobytes() for key, value in weights.items()}
    return found
