"""The record of a run as a file: made, ended, written and read."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from meft_runner.config import Settings, method_version
from meft_runner.errors import UserError, writing
from meft_runner.files import write_whole
from meft_runner.records.environment import environment, now
from meft_runner.records.reading import content_and_text, explaining
from meft_runner.records.schema import SCHEMA_VERSION, CompleteRecord, Record
from meft_runner.records.settings import Config

FILE_NAME = "record.json"
_LARGEST = 2**22  # bytes of a record that tables are made of
_MOST_EPOCHS = 10_000  # as many columns a table still has


def new_record(identity: str, config: dict[str, Any], device: str) -> Record:
    """Returns the record of a run that begins now, of settings in their plain form; its results are empty."""
    return Record(
        schema_version=SCHEMA_VERSION,
        identity=identity,
        status="running",
        error=None,
        started=now(),
        finished=None,
        config=Config.model_validate(config),
        method_version=method_version(config["method"]),
        environment=environment(device),
        data=None,
        scores=None,
        parameters=None,
        start=None,
        memory=None,
        timing=None,
        reversal=None,
        gradients=None,
        weights=None,
    )


def finish(record: Record, status: Literal["complete", "failed", "pruned"], error: str | None = None) -> None:
    """Marks a record as ended."""
    record.status, record.error, record.finished = status, error, now()


def completed(record: Record) -> CompleteRecord:
    """Returns a record that is complete as what it is."""
    return CompleteRecord.model_validate(record.plain())


def folder_name(config: Settings | Config, end: str) -> str:
    """Returns the name of the folder of a run, which ends with its identity, or of a search."""
    return f"{config.backbone.name}-{config.task.name}-{config.method.name}-s{config.seed}-{end}"


def write_record(record: Record, directory: Path) -> None:
    """Writes a record whole, or leaves what was there.

    Raises:
        UserError: the folder cannot be written.
    """
    content = json.dumps(record.plain(), indent=2, allow_nan=False) + "\n"
    with writing(FILE_NAME, directory.parent):
        write_whole(directory / FILE_NAME, content)


def read_record(directory: Path) -> Record | None:
    """Returns the record in a run's folder, a `CompleteRecord` where it says so, None where there is none.

    Raises:
        UserError: the file is no record of this program's version.
    """
    try:
        return _read(directory / FILE_NAME)
    except UserError as error:
        raise UserError(f"{error} Remove the folder {directory} to run it again, or restore the file.") from error


def read_own_record(directory: Path) -> Record | None:
    """Returns the record in a folder that has the name of its run, None where there is none.

    Raises:
        UserError: it cannot be read, or is that of another run, as in a folder that was copied or renamed.
    """
    record = read_record(directory)
    if record is not None and not directory.name.endswith(f"-{record.identity}"):
        raise UserError(
            f"{directory}: holds the record of another run, {record.identity}. Give that folder its own name back, or "
            "move it elsewhere."
        )
    return record


def read_complete_records(directories: Iterable[Path]) -> list[CompleteRecord]:
    """Returns the records of complete runs among folders, in their order.

    What is no record is left out with a line on standard error, and so is a copy, which would count as one seed more.
    Of several folders with one run, the one that has its name counts: others may have been renamed to make it anew.
    """
    found: list[tuple[Path, CompleteRecord]] = []
    for path in (directory / FILE_NAME for directory in directories):
        try:
            record = _read(path, largest=_LARGEST)
            if not isinstance(record, CompleteRecord):
                continue
            if record.scores is not None and len(record.scores.history) > _MOST_EPOCHS:
                raise UserError(f"{path}: scores.history has more than {_MOST_EPOCHS} epochs.")
        except UserError as error:
            sys.stderr.write(f"skipped: {error}\n")
        else:
            found.append((path, record))
    return _without_copies(found)


def _without_copies(found: Sequence[tuple[Path, CompleteRecord]]) -> list[CompleteRecord]:
    """Returns the record of each run once, the one in the folder of its name or else the first; tells the others."""
    kept: dict[str, Path] = {}
    for path, record in found:
        if record.identity not in kept or path.parent.name == folder_name(record.config, record.identity):
            kept[record.identity] = path
    for path, record in found:
        if path != kept[record.identity]:
            folder = kept[record.identity].parent.name
            sys.stderr.write(f"skipped: {path}: another folder of run {record.identity}, as {folder} is.\n")
    return [record for path, record in found if path == kept[record.identity]]


def read_folder(output_dir: Path) -> list[CompleteRecord]:
    """Returns the records of all complete runs in a folder, sorted by folder name.

    Raises:
        UserError: there is no such folder or no complete run in it.
    """
    try:
        directories = sorted(path for path in output_dir.iterdir() if path.is_dir())
    except OSError as error:
        reason = "no such folder" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise UserError(f"output_dir={output_dir}: {reason}. Give the output_dir of earlier runs.") from error
    complete = read_complete_records(directories)
    if not complete:
        runs = sum(os.path.lexists(directory / FILE_NAME) for directory in directories)
        raise UserError(
            f"output_dir={output_dir}: none of its {runs} runs is complete. Give the output_dir of complete runs."
        )
    return complete


def _read(path: Path, largest: int | None = None) -> Record | None:
    """Returns the record in a file, None where there is no file.

    Raises:
        UserError: the file is no record of this program's version; the message names the part.
    """
    with explaining(path, "a run record"):
        found = content_and_text(path, largest)
        if found is None:
            return None
        content, text = found
        version = content.get("schema_version", SCHEMA_VERSION)
        if version != SCHEMA_VERSION:
            raise ValueError(f"schema version {version}, this program reads {SCHEMA_VERSION}")
        return (CompleteRecord if content.get("status") == "complete" else Record).model_validate_json(text)
