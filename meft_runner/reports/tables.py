"""Forms of a table in files, all from one frame: Markdown, CSV and LaTeX."""

from pathlib import Path

import pandas as pd

from meft_runner.run.console import sides, texts


def write_tables(tables: dict[str, pd.DataFrame], directory: Path) -> list[Path]:
    """Writes each table as Markdown, CSV and LaTeX and returns the files."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, table in tables.items():
        forms = {".md": markdown(table), ".csv": table.to_csv(index=False), ".tex": latex(table)}
        for suffix, text in forms.items():
            path = directory / f"{name}{suffix}"
            path.write_text(text, encoding="utf-8")
            written.append(path)
    return written


def markdown(table: pd.DataFrame) -> str:
    """Returns a table in Markdown; numbers keep the digits that they were rounded to."""
    return texts(table).to_markdown(index=False, disable_numparse=True, colalign=sides(table)) + "\n"


def latex(table: pd.DataFrame) -> str:
    """Returns a tabular for a document that uses the package booktabs."""
    style = texts(table).style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis="columns")
    columns = "".join(side[0] for side in sides(table))
    return style.to_latex(hrules=True, column_format=columns).replace("±", r"$\pm$")
