"""Rows of files as they are: CSV, TSV, JSON Lines, JSON and Parquet.

JSON and Parquet say what is text and what is a number. CSV and TSV do not: every cell is text here, and an empty one
is missing. What other readers mend by a guess, as a quote without its partner or a row that is too short, is an error
that names its line.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from meft_runner.errors import UserError, reason_of
from meft_runner.tasks.data import Row

SEPARATORS = {".csv": ",", ".tsv": "\t"}  # of the files whose cells are all text
_SEPARATOR_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
_PARQUET_ROWS = 1000  # that are in memory at a time
_PARQUET_ERRORS = (pyarrow.ArrowException, OSError, ValueError, OverflowError)  # of files that are damaged

csv.field_size_limit(2**31 - 1)  # texts can be longer than its 128 KiB


def read_file(path: Path, where: str) -> Iterator[tuple[str, Row]]:
    """Yields the rows of a file, each with its place: the line or the number that it has there.

    Args:
        path: the file; its ending says what it holds.
        where: how errors call it.

    Raises:
        UserError: it is missing, has another ending, cannot be read, or is not what its ending says.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{where}: expected a name that ends in {', '.join(_READERS)}. Convert or rename the file.")
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for its writer
            raise UserError(f"{where}: is a folder or a device. Give a file.")
        yield from reader(path, where)
    except FileNotFoundError as error:
        hint = "" if path.is_absolute() else f"; a relative one starts at {Path.cwd()}"
        raise UserError(f"{where}: no such file. Check the path{hint}.") from error
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({_reason(error)}). Check the path and its permissions.") from error


def _csv_rows(path: Path, where: str) -> Iterator[tuple[str, Row]]:
    table = csv.reader(_lines(path, where), delimiter=SEPARATORS[path.suffix.lower()], strict=True)
    header: list[str] = []
    line = 1
    try:
        for cells in table:
            if not header:
                header = cells
                _check_separated(header, table.dialect.delimiter, where)
                _check_unique([name for name in header if name], where)
            elif len(cells) not in (0, len(header)):
                raise UserError(
                    f"{where}, line {line}: has {len(cells)} cells, the header has {len(header)}. "
                    "Put a text that holds a separator or a quote in quotes."
                )
            elif cells:
                yield f"line {line}", {name: cell or None for name, cell in zip(header, cells, strict=True)}
            line = table.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{where}, line {line}: a quote has no partner, or stands where none may ({error}). "
            "Write a text with quotes in quotes, each quote in it twice."
        ) from error


def _json_lines(path: Path, where: str) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(_lines(path, where), start=1):
        if line.strip():
            yield f"line {number}", _json_row(_parsed(line, where, number), f"{where}, line {number}")


def _json_rows(path: Path, where: str) -> Iterator[tuple[str, Row]]:
    """Reads a list of objects, or JSON Lines under another name."""
    text = "".join(_lines(path, where))
    if not text.lstrip().startswith("["):
        yield from _json_lines(path, where)
        return
    for number, value in enumerate(_parsed(text, where), start=1):
        yield f"row {number}", _json_row(value, f"{where}, row {number}")


def _parquet_rows(path: Path, where: str) -> Iterator[tuple[str, Row]]:
    number = 0
    try:
        with path.open("rb") as raw, parquet.ParquetFile(raw) as file:
            _check_unique(file.schema_arrow.names, where)
            for batch in file.iter_batches(_PARQUET_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except FileNotFoundError:
        raise
    except _PARQUET_ERRORS as error:
        raise UserError(f"{where}: cannot be read as Parquet ({_reason(error)}). Write the file anew.") from error


_READERS: dict[str, Callable[[Path, str], Iterator[tuple[str, Row]]]] = {
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".jsonl": _json_lines,
    ".json": _json_rows,
    ".parquet": _parquet_rows,
}


def _lines(path: Path, where: str) -> Iterator[str]:
    """Yields a text file's lines with their ends, without the mark that some programs begin UTF-8 with."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{where}, line {number}: is not UTF-8 ({error.reason}). Save it as UTF-8.") from error
            if "\0" in text:
                raise UserError(f"{where}, line {number}: holds a NUL byte, as UTF-16 has them. Save it as UTF-8.")
            yield text


def _parsed(text: str, where: str, line: int = 1) -> Any:
    """Reads JSON that begins in a line of a file."""
    try:
        return json.loads(text.rstrip(), object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        line, reason = line + error.lineno - 1, f"{error.msg}, column {error.colno}"
    except (ValueError, RecursionError) as error:
        reason = _reason(error)
    raise UserError(f"{where}, line {line}: not JSON ({reason}). Mend or remove that line.")


def _unique_keys(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError(f"the key {_repeated([key for key, _ in pairs])!r:.40} stands twice in one object")
    return row


def _json_row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a JSON object with the columns as keys.")
    return value


def _check_separated(header: list[str], expected: str, where: str) -> None:
    """Refuses a header that another separator would cut, as spreadsheets of many countries write semicolons."""
    found = [separator for separator in _SEPARATOR_NAMES if len(header) == 1 and separator in header[0]]
    if found:
        other = (
            "rename it to .tsv" if found == ["\t"] else "rename it to .csv" if found == [","] else "write JSON Lines"
        )
        raise UserError(
            f"{where}: its columns are separated by {_SEPARATOR_NAMES[found[0]]}, expected "
            f"{_SEPARATOR_NAMES[expected]}. Save it with {_SEPARATOR_NAMES[expected]}, or {other}."
        )


def _check_unique(columns: list[str], where: str) -> None:
    if len(set(columns)) < len(columns):
        raise UserError(f"{where}: two columns are called {_repeated(columns)!r:.40}. Rename or remove one.")


def _repeated(names: list[str]) -> str:
    return Counter(names).most_common(1)[0][0]


def _reason(error: BaseException) -> str:
    return reason_of(error)[:150]
