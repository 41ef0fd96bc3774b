"""What a search leaves: which settings it has tried, and in which runs; their records say what came of them."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from meft_runner.errors import UserError, writing
from meft_runner.files import write_whole
from meft_runner.records.reading import content_and_text, explaining
from meft_runner.records.record import read_own_record
from meft_runner.records.schema import Record
from meft_runner.records.types import Count, Part, Text

SEARCHES = ".searches"  # the folder of them, beside the runs
_FILE_NAME = "search.json"
_LARGEST = 2**24  # bytes of a search that tables are made of


class Trial(Part):
    """Settings that were tried.

    Attributes:
        settings: values by key, of what was searched.
        run: the name of the run's folder, which stands beside the searches; None where the settings make no run.
        error: why they do not.
    """

    settings: dict[Text, Any]
    run: Annotated[Text, Field(pattern=r"^[^/\\]*[^/\\.][^/\\]*$")] | None = None
    error: str | None = None


class Search(Part):
    """A search: what it varies, and its trials in their order.

    Attributes:
        backbone: its name, as those of task and method.
        space: ranges such as [1e-5, 1e-3, "log"] and lists of values, by the settings' keys.
    """

    schema_version: Literal[1] = 1
    backbone: Text
    task: Text
    method: Text
    seed: Count
    space: dict[Text, list[Any]]
    trials: list[Trial] = Field(default_factory=list)


def write_search(search: Search, directory: Path) -> None:
    """Writes a search whole, or leaves what was there.

    Raises:
        UserError: the folder cannot be written.
    """
    with writing("the search", directory.parents[1]):
        write_whole(directory / _FILE_NAME, json.dumps(search.model_dump(), indent=2, allow_nan=False) + "\n")


def read_search(directory: Path, largest: int | None = None) -> Search | None:
    """Returns the search in a folder, None where there is none.

    Args:
        directory: of the search.
        largest: bytes that its file may have; None for any.

    Raises:
        UserError: the file is no search of this program's version.
    """
    path = directory / _FILE_NAME
    with explaining(path, "a search"):
        found = content_and_text(path, largest)
        return None if found is None else Search.model_validate_json(found[1])


def read_searches(output_dir: Path) -> dict[str, tuple[Search, list[Record | None]]]:
    """Returns the searches in a folder of runs by their names, each with the records of its trials.

    What is no search or no record is left out with a line on standard error.
    """
    found = {}
    for path in sorted((output_dir / SEARCHES).glob(f"*/{_FILE_NAME}")):
        try:
            search = read_search(path.parent, _LARGEST)
        except UserError as error:
            sys.stderr.write(f"skipped: {error}\n")
            continue
        if search is not None and search.trials:
            found[path.parent.name] = search, [_record(trial, output_dir) for trial in search.trials]
    return found


def _record(trial: Trial, output_dir: Path) -> Record | None:
    try:
        return None if trial.run is None else read_own_record(output_dir / trial.run)
    except UserError as error:
        sys.stderr.write(f"skipped: {error}\n")
        return None
