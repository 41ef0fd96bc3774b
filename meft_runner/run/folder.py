"""The folder of a run: its name, what an earlier process left there, and who is working in it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from meft_runner.config import Settings, identity
from meft_runner.errors import UserError
from meft_runner.records.record import folder_name, read_own_record
from meft_runner.records.schema import CompleteRecord, Record
from meft_runner.run.reuse import check_ended

LOCKS = ".locks"  # the folder of them, beside the runs
_log = logging.getLogger(__name__)


class BusyError(UserError):
    """Another process is running this run at the moment."""


def run_directory(settings: Settings) -> Path:
    """Returns the folder of a run; equal settings share it."""
    return Path(settings.output_dir) / folder_name(settings, identity(settings))


def record_of(settings: Settings) -> Record | None:
    """Returns the record in a run's folder, None where there is none.

    Raises:
        UserError: it cannot be read, or is that of another run, as in a folder that was copied or renamed.
    """
    return read_own_record(run_directory(settings))


def why_not_to_run(settings: Settings, in_sweep: bool) -> str | None:
    """Returns in words why there is nothing to do, None where there is something.

    In a sweep, a run that has failed before is left alone, since most failures come again, unless `retry_failed` is
    set. A search that prunes leaves alone what was pruned before; anyone else's run trains to its end.

    Raises:
        UserError: it is complete, but was made from other rows or weights than are there now, or its folder holds
            another run.
    """
    record = record_of(settings)
    if record is None:
        return None
    if isinstance(record, CompleteRecord):
        check_ended(settings, run_directory(settings), record)
        return "is complete already; remove its folder to run it again."
    if record.status == "failed" and in_sweep and not settings.retry_failed:
        return f"failed before ({record.error}); retry_failed=true runs it again."
    if record.status == "pruned" and settings.hpo is not None and settings.hpo.pruner:
        return f"was pruned before: {record.error}."
    return None


@contextmanager
def claimed(directory: Path, wait: bool = False) -> Iterator[None]:
    """Holds a run for this process alone; the system lets go of it when the process dies, however it dies.

    Raises:
        BusyError: another process holds it.
        UserError: the lock cannot be made there.
    """
    lock = FileLock(directory.parent / LOCKS / f"{directory.name}.lock")
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout as error:
        raise BusyError(f"{directory.name}: another process is running it.") from error
    except OSError as error:
        raise UserError(
            f"output_dir={directory.parent}: no lock can be made there ({error.strerror}). Choose another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


def wait_for(directory: Path) -> None:
    """Waits until no process is running a run any more."""
    try:
        with claimed(directory):
            return
    except BusyError as error:
        _log.warning("%s Waiting for it.", error)
    with claimed(directory, wait=True):
        pass
