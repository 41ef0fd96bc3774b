"""Forms of a table in files, all from one frame: Markdown, CSV and LaTeX."""

import re
from pathlib import Path

import pandas as pd

from meft_runner.files import write_whole
from meft_runner.run.console import sides, texts

FORMS = ("md", "csv", "tex")
_READ_BY_MARKDOWN = re.compile(r"[\\`*|<\[\]~$&]|(?<!\w)_|_(?!\w)")  # within a word, _ is a letter


def write_tables(tables: dict[str, pd.DataFrame], directory: Path) -> list[Path]:
    """Writes each table as Markdown, CSV and LaTeX and returns the files."""
    written = []
    for name, table in tables.items():
        for form, text in zip(FORMS, (markdown(table), table.to_csv(index=False), latex(table)), strict=True):
            path = directory / f"{name}.{form}"
            write_whole(path, text)
            written.append(path)
    return written


def markdown(table: pd.DataFrame) -> str:
    """Returns a table in Markdown; numbers keep the digits that they were rounded to."""
    cells = texts(table).map(_escaped).rename(columns=_escaped)
    return cells.to_markdown(index=False, disable_numparse=True, colalign=sides(table)) + "\n"


def latex(table: pd.DataFrame) -> str:
    """Returns a tabular for a document that uses the package booktabs."""
    style = texts(table).style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis="columns")
    columns = "".join(side[0] for side in sides(table))
    return style.to_latex(hrules=True, column_format=columns).replace("±", r"$\pm$")


def _escaped(text: object) -> str:
    """Returns a text that Markdown shows as it is, on one line."""
    return _READ_BY_MARKDOWN.sub(r"\\\g<0>", " ".join(str(text).split()))
