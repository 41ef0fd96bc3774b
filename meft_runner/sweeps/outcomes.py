"""What became of the runs of a sweep, each of which may have been in a process or on a machine of its own."""

import json
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from meft_runner.config.quoting import quoted
from meft_runner.errors import UserError, writing
from meft_runner.files import write_whole
from meft_runner.records.record import read_record
from meft_runner.records.schema import Record

_FOLDERS = ".sweeps"  # below output_dir, one for each sweep while it is running


@dataclass
class Outcome:
    """What became of one run.

    Attributes:
        typed: what was typed for it.
        folder: of the run; None where what was typed makes no run.
        error: why it failed, None where it did not.
        code: as of a command.
    """

    typed: str
    folder: str | None = None
    error: str | None = None
    code: int = 0

    @property
    def name(self) -> str:
        """What a list of outcomes calls it."""
        return self.typed if self.folder is None else Path(self.folder).name


class SweepFolder:
    """A folder that a sweep makes for itself, and removes at its end: outcomes of runs, files of launchers.

    Args:
        output_dir: the folder of the runs.

    Attributes:
        kept: whether it stays, for the launchers' logs of runs that failed.
    """

    def __init__(self, output_dir: Path) -> None:
        self.path = output_dir / _FOLDERS / f"{datetime.now(UTC):%Y-%m-%d-%H-%M-%S-%f}-{os.getpid()}"
        self.kept = False
        self._made: list[Path] = []

    def __enter__(self) -> Self:
        """Makes the folder; it must not be there yet.

        Raises:
            UserError: it cannot be made.
        """
        with writing("the sweep's folder", self.path.parents[1]):
            for folder in (*reversed(self.path.parents), self.path):
                if not folder.exists():
                    folder.mkdir(exist_ok=folder != self.path)  # another sweep may make the ones above just now
                    self._made.append(folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Removes what was made on entering and, above it, what is empty."""
        if self.kept:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        for folder in reversed(self._made[:-1]):
            with suppress(OSError):  # runs are in it, or another sweep is using it
                folder.rmdir()

    @property
    def override(self) -> str:
        """The setting that makes it the sweep's folder for Hydra."""
        return f"hydra.sweep.dir={quoted(str(self.path))}"

    def outcomes(self) -> list[Outcome]:
        """Returns the outcomes in the order of the runs; one that had failed before is a failure too."""
        paths = sorted(self.path.glob("*.json"), key=lambda path: int(path.stem))
        found = [Outcome(**json.loads(path.read_text(encoding="utf-8"))) for path in paths]
        for outcome in found:
            record = record_of(Path(outcome.folder)) if outcome.error is None and outcome.folder is not None else None
            if record is not None and record.status == "failed":
                outcome.error, outcome.code = record.error, 1
        return found


def by_folder(outcomes: Iterable[Outcome]) -> dict[Path, list[Outcome]]:
    """Returns outcomes by their output_dir, which a sweep may have several of; those that made no run are left out."""
    found: dict[Path, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.folder is not None:
            found.setdefault(Path(outcome.folder).parent, []).append(outcome)
    return found


def note(outcome: Outcome, sweep_dir: Path, number: int) -> None:
    """Leaves the outcome of the sweep's run of this number for the process that began the sweep."""
    write_whole(sweep_dir / f"{number}.json", json.dumps(asdict(outcome)))


def record_of(directory: Path) -> Record | None:
    """Returns the record in a run's folder, None where there is none that can be read."""
    try:
        return read_record(directory)
    except UserError:
        return None
