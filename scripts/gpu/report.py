"""Running checks one by one, and what is written of them."""

import json
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from gpu.shapes import Row, on_gpu
from meft_runner.errors import in_brief
from meft_runner.files import write_whole


class TooSlowError(BaseException):
    """A check has taken its time; no Exception, which what is checked might catch."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Ends what runs inside after so many seconds, as soon as it comes back to Python.

    Raises:
        TooSlowError: it did not end before.
    """

    def ring(*arguments: Any) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def rows_of(check: Callable[..., Iterable[Row]], unit: dict[str, Any], seconds: float, deadline: float) -> list[Row]:
    """Returns the rows that a check makes, and one that says why there are no more.

    Args:
        check: makes rows.
        unit: its arguments, with which each row begins.
        seconds: that it may take.
        deadline: of time.monotonic(), for all checks.
    """
    found: list[Row] = []
    started = time.monotonic()
    try:
        if started > deadline:
            return [_named(unit, {"note": "left out for lack of time"})]
        with at_most(min(seconds, deadline - started)):
            for row in check(**unit):
                found.append(row)
    except TooSlowError:
        found.append({"note": f"cut off after {time.monotonic() - started:.0f} s"})
    except torch.OutOfMemoryError as error:
        found.append({"note": f"does not fit, {in_brief(error)[:80]}"})
    except Exception as error:  # one that fails must not cost the others
        traceback.print_exc()
        found.append({"note": f"failed, {in_brief(error)[:80]}"})
    print(f"{check.__name__} {_named(unit, {})}: {time.monotonic() - started:.1f} s", flush=True)
    return [_named(unit, row) for row in found]


def is_lost() -> bool:
    """Tells whether an error on the device has left this process without it: no later check can run here."""
    try:
        if on_gpu():
            torch.cuda.synchronize()
    except torch.AcceleratorError:
        return True
    return False


def _named(unit: dict[str, Any], row: Row) -> Row:
    names = {key: str(value) for key, value in unit.items() if key not in ("overrides", "cards")}
    return {**names, **{key: None if pd.isna(value) else value for key, value in row.items()}}


def table_of(part: dict[str, Any]) -> pd.DataFrame:
    """Returns a part's rows; a dash stands for what there is not."""
    table = pd.DataFrame(part["rows"], dtype=object)
    return table.where(table.notna(), "-")


def section(part: dict[str, Any]) -> str:
    """Returns a part in Markdown."""
    environment = part["environment"]
    versions = ", ".join(f"{name} {environment['packages'][name]}" for name in ("torch", "transformers", "peft"))
    heading = f"{environment['device']}; {versions}; `{part['command']}`; {part['started']}"
    return f"## {part['title']}\n\n{heading}\n\n{table_of(part).to_markdown(index=False)}\n"


def write(path: Path, parts: dict[str, dict[str, Any]]) -> None:
    """Writes the parts as JSON and as Markdown."""
    write_whole(path, json.dumps(parts, indent=2) + "\n")
    write_whole(path.with_suffix(".md"), "\n".join(map(section, parts.values())))
