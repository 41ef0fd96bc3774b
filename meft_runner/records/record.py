"""The record of a run: one JSON file that says what was run, on what, and what came out."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from meft_runner.errors import UserError, writing
from meft_runner.records.schema import first_problem

SCHEMA_VERSION = 1
FILE_NAME = "record.json"
_PACKAGES = (
    "meft-runner", "torch", "transformers", "peft", "datasets", "evaluate", "accelerate", "scikit-learn", "hydra-core",
)  # fmt: skip

Record = dict[str, Any]


def new_record(identity: str, config: dict[str, Any], device: str) -> Record:
    """Returns the record of a run that begins now; its results are empty."""
    return {
        "schema_version": SCHEMA_VERSION,
        "identity": identity,
        "status": "running",
        "error": None,
        "started": now(),
        "finished": None,
        "config": config,
        "environment": environment(device),
        "data": None,
        "scores": None,
        "parameters": None,
        "start": None,
        "memory": None,
        "timing": None,
        "reversal": None,
        "gradients": None,
    }


def finish(record: Record, status: str, error: str | None = None) -> None:
    """Marks a record as ended."""
    record.update(status=status, error=error, finished=now())


def write_record(record: Record, directory: Path) -> None:
    """Writes a record to a temporary name and renames it, so that no reader meets half of one.

    Raises:
        UserError: the folder cannot be written.
    """
    path = directory / FILE_NAME
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    content = json.dumps(record, indent=2, allow_nan=False) + "\n"
    with writing(path.name, directory.parent):
        directory.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(content, encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def read_record(directory: Path) -> Record | None:
    """Returns the record in a run's folder, None where there is none.

    Raises:
        UserError: the file is no record of this program's version.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version, _ = record["schema_version"], (record["status"], record["error"], record["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a run record. Remove it, or restore it.") from error
    if version != SCHEMA_VERSION:
        raise UserError(f"{path}: schema version {version}, this program reads {SCHEMA_VERSION}. Run it again.")
    return record


def read_complete_records(directories: Iterable[Path]) -> list[Record]:
    """Returns the records of complete runs among folders, in their order.

    What is no record is told and left out, and so is a copy, which would count as one seed more.
    """
    complete: dict[str, Record] = {}
    for directory in directories:
        try:
            record = read_record(directory)
            if record is None or record["status"] != "complete":
                continue
            problem = first_problem(record)
            if problem is not None:
                raise UserError(f"{directory / FILE_NAME}: not a run record of this program ({problem}).")
            if record["identity"] in complete:
                raise UserError(f"{directory / FILE_NAME}: a copy of another folder's run {record['identity']}.")
        except UserError as error:
            sys.stderr.write(f"skipped: {error}\n")
        else:
            complete[record["identity"]] = record
    return list(complete.values())


def read_folder(output_dir: Path) -> list[Record]:
    """Returns the records of all complete runs in a folder, sorted by folder name.

    Raises:
        UserError: there is no such folder or no complete run in it.
    """
    if not output_dir.is_dir():
        raise UserError(f"output_dir={output_dir}: no such folder. Give the output_dir of earlier runs.")
    directories = sorted(path.parent for path in output_dir.glob(f"*/{FILE_NAME}"))
    complete = read_complete_records(directories)
    if not complete:
        raise UserError(
            f"output_dir={output_dir}: none of its {len(directories)} runs is complete. "
            "Give the output_dir of complete runs."
        )
    return complete


def environment(device: str) -> dict[str, Any]:
    """Returns versions, commit and device of this process; nothing secret."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in _PACKAGES},
        "git": _git_state(Path(__file__).parent),
        "device": device,
        "cpu_count": os.cpu_count(),
    }


def now() -> str:
    """Returns the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Returns commit and dirty flag of this package's own checkout, None where it is installed elsewhere."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None
