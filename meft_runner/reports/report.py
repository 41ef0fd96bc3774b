"""The report: one page with tables and figures that needs no other file and no network."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment as Templates
from jinja2 import PackageLoader, StrictUndefined

from meft_runner.files import write_whole
from meft_runner.records.schema import CompleteRecord, Environment
from meft_runner.reports.published import read_published
from meft_runner.run.console import DASH, sides, texts

_TEMPLATE = "report.html.jinja"


@dataclass(frozen=True)
class ReportTable:
    """A table of the report.

    Attributes:
        title: its heading.
        note: below the heading.
        content: the table.
    """

    title: str
    note: str
    content: pd.DataFrame

    @property
    def sides(self) -> list[str]:
        """Where the cells of each column stand."""
        return sides(self.content)

    @property
    def rows(self) -> list[list[str]]:
        """The cells."""
        return texts(self.content).to_numpy().tolist()


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the report.

    Attributes:
        caption: says what is drawn.
        svg: the file.
    """

    caption: str
    svg: Path

    @property
    def address(self) -> str:
        """The picture itself, as the address of an image."""
        return f"data:image/svg+xml;base64,{b64encode(self.svg.read_bytes()).decode()}"


def write_report(
    path: Path,
    output_dir: str,
    records: Sequence[CompleteRecord],
    tables: Sequence[ReportTable],
    figures: Sequence[ReportFigure],
) -> None:
    """Writes the report of the records in a folder, named as the user wrote it; tables and figures in this order."""
    templates = Templates(loader=PackageLoader(__package__, "."), autoescape=True, undefined=StrictUndefined)
    page = templates.get_template(_TEMPLATE).render(
        origin=origin(records, output_dir), tables=tables, figures=figures, published=read_published()
    )
    write_whole(path, page)


def origin(records: Sequence[CompleteRecord], output_dir: str) -> dict[str, str]:
    """Returns where records come from, in words: folder, number, dates, commits, devices and versions."""
    environments = [record.environment for record in records]
    finished = sorted(record.finished for record in records)
    packages = environments[0].packages
    return {
        "folder": output_dir,
        "complete runs": str(len(records)),
        "finished": f"{finished[0]} to {finished[-1]}",
        "commit": _distinct(_commit(one) for one in environments),
        "device": _distinct(one.device for one in environments),
        "Python": _distinct(one.python for one in environments),
        **{name: _distinct(one.packages.get(name) for one in environments) for name in packages},
    }


def _commit(environment: Environment) -> str:
    git = environment.git
    if git is None:
        return "not recorded"
    return git.commit[:10] + (" with changes" if git.dirty else "")


def _distinct(values: Iterable[str | None]) -> str:
    return ", ".join(sorted({value or DASH for value in values}))
