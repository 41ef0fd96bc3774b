"""Errors of others in a line or two, by class, and texts of any kind."""

from pathlib import Path

import pytest
from hydra.errors import MissingConfigException
from hypothesis import example, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from meft_runner.config import plain
from meft_runner.config.mistakes import explain, naming_paths
from meft_runner.errors import UserError
from tests.helpers.commands import ended
from tests.helpers.composed import settings

KEYS = [
    "seed",
    "task",
    "method",
    "training.epochs",
    "task.max_length",
    "method.scale_1",
    "output_dir",
    "hydra.x",
    "level",
]
VALUES = [
    "1",
    "null",
    "rte",
    "lora",
    "0.5",
    "1/4",
    "[1,2]",
    "{a:b}",
    "a,b",
    "${seed}",
    "${x}",
    "choice(1,2)",
    "''",
    "é",
]
TEXTS = st.one_of(
    st.builds(
        "{}{}={}".format,
        st.sampled_from(["", "+", "++", "~", "hydra."]),
        st.sampled_from(KEYS),
        st.sampled_from(VALUES),
    ),
    st.builds("{}={}".format, st.sampled_from(KEYS), st.text(max_size=12)),
    st.text(max_size=20).filter(lambda text: not text.startswith("-")),
    st.builds("--{}".format, st.text("abcdefghimnoprst-", max_size=12)),
)


@effort(max_examples=25)
@example("{" * 3000)
@example("a=" + "[" * 3000)
@example("task=rte\udcff")
@example("--h")
@given(TEXTS)
def test_any_text_is_a_line_or_a_setting(text):
    started = []
    code, error = ended([text], started)
    assert code in (0, 2)
    assert len(error.splitlines()) <= 2
    if started and not text.startswith("--"):  # then it is a setting that there is
        key, _, _ = text.partition("=")
        found = plain(started[0])
        for name in key.strip().split("."):
            assert name in found or name in ("experiment", "scale", "launcher")
            found = found.get(name, {}) if isinstance(found, dict) else {}


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError(2, "No such file or directory", "/a/b"), "/a/b: No such file or directory."),
        (PermissionError(13, "Permission denied", "/a"), "/a: Permission denied."),
        (IsADirectoryError(21, "Is a directory", "/a"), "/a: Is a directory."),
        (OSError("odd\nand long"), "odd."),
        (BrokenPipeError(32, "Broken pipe"), "Broken pipe."),
        (
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
            "a file is not UTF-8 text (invalid start byte",
        ),
        (MemoryError(), "out of memory. Lower training.batch_size"),
        (OutOfMemoryError("CUDA out of memory"), "out of memory. Lower training.batch_size"),
        (RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory"), "out of memory."),
        (UserError("a\nb\nc"), "a\nb"),
        (UserError("k\x07=\u202e1: no."), "k\\x07=\\u202e1: no."),
        (
            MissingConfigException("m", missing_cfg_file="hydra/launcher/joblib", options=["basic"]),
            "launcher: joblib is not installed. pip install 'meft-runner[joblib]'.",
        ),
        (
            MissingConfigException("m", missing_cfg_file="hydra/launcher/submitit_slurm", options=["basic"]),
            "pip install 'meft-runner[slurm]'.",
        ),
    ],
)
def test_errors_of_others_by_class(error, message):
    assert message in explain(error)


@pytest.mark.parametrize("error", [ValueError("ours"), KeyError("ours"), RuntimeError("ours"), TypeError("ours")])
def test_our_own_errors_are_not_explained(error):
    assert explain(error) is None


def test_the_setting_of_a_path_is_named(tmp_path):
    chosen = settings("task=rte", f"task.data_dir={tmp_path}", "output_dir=elsewhere")
    with (
        pytest.raises(UserError, match=f"task.data_dir={tmp_path}: {tmp_path}/gone.jsonl: No such file"),
        naming_paths(chosen),
    ):
        (tmp_path / "gone.jsonl").read_text()
    with pytest.raises(FileNotFoundError), naming_paths(chosen):
        Path("/nowhere/else").read_text()
