"""A complete run as a command finds it in its folder: its record, its settings, and trained weights that are whole.

Nothing heavy is imported here.
"""

from pathlib import Path

from omegaconf.errors import OmegaConfBaseException

from meft_runner.config import Settings, from_plain
from meft_runner.errors import UserError
from meft_runner.records.record import FILE_NAME, read_record
from meft_runner.records.schema import CompleteRecord
from meft_runner.run.reuse import ADAPTER, WEIGHTS, damaged_weights


def complete_record(directory: Path, key: str = "run") -> CompleteRecord:
    """Returns the record of a run that has trained weights.

    Args:
        directory: what the user gave as its folder.
        key: the setting with which it was given.

    Raises:
        UserError: there is no such run, it is not complete, or it has trained nothing.
    """
    given = f"{key}={directory}"
    if not directory.is_dir():
        raise UserError(f"{given}: no such folder. Give the folder of a complete run.")
    record = read_record(directory)
    if record is None:
        inside = next(iter(sorted(directory.glob(f"*/{FILE_NAME}"))), None)
        hint = "Give the folder of one run." if inside is None else f"Give one run in it, such as {inside.parent}."
        raise UserError(f"{given}: is not the folder of a run, it has no {FILE_NAME}. {hint}")
    if not isinstance(record, CompleteRecord):
        why = f" ({record.error})" if record.error else ""
        how = "without hpo=" if record.status == "pruned" else "with the same command"
        raise UserError(f"{given}: is {record.status}{why}, not complete. Start it again {how} first.")
    if record.scores is None:
        raise UserError(f"{given}: is a study, which has trained nothing. Give a run without study=.")
    return record


def check_weights(directory: Path, record: CompleteRecord, key: str = "run") -> None:
    """Makes sure that the trained weights of a complete run are there, and those that it has left.

    Raises:
        UserError: they are gone or damaged.
    """
    problem = damaged_weights(directory, record)
    if problem is None and not (directory / ADAPTER / WEIGHTS).is_file():
        problem = f"{ADAPTER}/{WEIGHTS} is missing"
    if problem is not None:
        raise UserError(f"{key}={directory}: {problem}. Restore the file, or train again.")


def recorded_settings(directory: Path, record: CompleteRecord, key: str = "run") -> Settings:
    """Returns the settings of a run as its record has them.

    Raises:
        UserError: they are none of this program's.
    """
    try:
        return from_plain(record.config.plain())
    except (KeyError, TypeError, ValueError, OmegaConfBaseException) as error:
        raise UserError(f"{key}={directory}: its record has no settings of this program.") from error
