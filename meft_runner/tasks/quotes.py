"""Finding rows of CSV and TSV files that a quote without its partner has swallowed.

A text that begins with a quote goes on until the next one, over the ends of lines. Where both quotes have lost their
partners, the rows between them are one long text, and nothing about the file looks wrong.
"""

from collections.abc import Collection, Sequence

from meft_runner.errors import UserError
from meft_runner.tasks.data import Row


def goes_over_lines(row: Row) -> bool:
    """Tells whether one of a row's texts has several lines."""
    return any("\n" in cell for cell in row.values() if cell)


def check_swallowed(
    rows: Sequence[tuple[str, Row]], separator: str, label_column: str, labels: Collection[str]
) -> None:
    """Makes sure that the lines of texts are no rows.

    Args:
        rows: those with texts of several lines, each with its place.
        separator: between cells.
        label_column: the column of the labels.
        labels: all labels that rows have.

    Raises:
        UserError: a line inside a text has the number of cells of a row, and a known label where rows have theirs.
    """
    for where, row in rows:
        label_at = list(row).index(label_column)
        for position, cell in enumerate(row.values()):
            if cell and _has_rows(cell.split("\n"), position, len(row), separator, label_at, labels):
                raise UserError(
                    f"{where}: its text of {cell.count(chr(10)) + 1} lines seems to hold rows that a quote has "
                    "swallowed. Write each quote inside a text twice, or save the file as JSON Lines."
                )


def _has_rows(
    lines: list[str], position: int, columns: int, separator: str, label_at: int, labels: Collection[str]
) -> bool:
    """Tells whether one of a cell's lines is a row, the first one from the cell on and the last one up to it."""
    for number, line in enumerate(lines):
        cells = line.rstrip("\r").split(separator)
        start = position if number == 0 else 0
        end = position + 1 if number == len(lines) - 1 else columns
        inside = start <= label_at < end and label_at != position
        if len(lines) > 1 and len(cells) == end - start and inside and cells[label_at - start] in labels:
            return True
    return False
