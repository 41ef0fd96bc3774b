"""The commands as a user types them."""

import contextlib
import io
import sys

import pytest

from meft_runner import cli


def call(monkeypatch, capsys, entry, *arguments):
    """Runs an entry point in this process and returns its exit code, and what it printed to stdout and stderr."""
    monkeypatch.setattr(sys, "argv", [entry.__name__, *arguments])
    with pytest.raises(SystemExit) as exit_info:
        entry()
    captured = capsys.readouterr()
    return exit_info.value.code, captured.out, captured.err


def ended(words, started=None):
    """Runs meft-run on these words, but for what a run would do; returns exit code and standard error."""
    out, error = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        patch.setattr(sys, "argv", ["meft-run", *words])
        for module in ("command", "cell"):
            patch.setattr(
                f"meft_runner.sweeps.{module}.run_one",
                lambda chosen, in_sweep: pytest.fail("it started") if started is None else started.append(chosen),
            )
        with pytest.raises(SystemExit) as exit_info:
            cli.meft_run()
    return exit_info.value.code, error.getvalue()
