"""The commands as a user types them."""

import sys

import pytest


def call(monkeypatch, capsys, entry, *arguments):
    """Runs an entry point in this process and returns its exit code, and what it printed to stdout and stderr."""
    monkeypatch.setattr(sys, "argv", [entry.__name__, *arguments])
    with pytest.raises(SystemExit) as exit_info:
        entry()
    captured = capsys.readouterr()
    return exit_info.value.code, captured.out, captured.err
