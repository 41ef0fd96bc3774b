import re
from base64 import b64decode
from html.parser import HTMLParser

import pandas as pd

from meft_runner.reports.report import ReportFigure, ReportTable, origin, write_report
from tests.helpers.records import record


class Page(HTMLParser):
    """Collects tags, and the text of table cells."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.cells, self.inside = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag

    def handle_data(self, data):
        if self.inside in ("td", "th") and data.strip():
            self.cells.append(data)


def written(tmp_path, folder="runs"):
    (tmp_path / "figure.svg").write_text("<svg/>")
    table = pd.DataFrame({"method": ["full", "<script>x</script>"], "score": ["9.0 ± 0.1", None]})
    path = tmp_path / "report.html"
    tables = [ReportTable("Scores <now>", "A note.", table)]
    write_report(path, folder, [record()], tables, [ReportFigure('Score "over" memory', tmp_path / "figure.svg")])
    return path.read_text(encoding="utf-8")


def test_tables_are_there_and_escaped(tmp_path):
    text = written(tmp_path, folder="<b>runs</b>")
    assert Page(text).cells == ["method", "score", "full", "9.0 ± 0.1", "<script>x</script>", "-"]
    assert "<script" not in text
    assert "<b>" not in text
    assert "Scores &lt;now&gt;" in text


def test_the_page_needs_no_other_file(tmp_path):
    page = Page(written(tmp_path))
    (image,) = [attributes for tag, attributes in page.tags if tag == "img"]
    assert image["alt"] == 'Score "over" memory'
    kind, _, data = image["src"].partition(",")
    assert (kind, b64decode(data)) == ("data:image/svg+xml;base64", b"<svg/>")
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert not re.findall(r"url\(|@import", written(tmp_path))


def test_tables_scroll_by_themselves(tmp_path):
    tags = Page(written(tmp_path)).tags
    tables = [i for i, (tag, _) in enumerate(tags) if tag == "table"]
    assert all(tags[i - 1] == ("div", tags[i - 1][1]) and tags[i - 1][1]["class"] == "scroll" for i in tables)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in tags


def test_where_the_records_come_from():
    git = {"commit": "a" * 40, "dirty": True}
    made = {"python": "3.11", "device": "cpu"}
    first, last = (
        record(finished=f"2025-0{month}-01T00:00:00+00:00", environment=made | environment)
        for month, environment in (
            (1, {"git": git, "packages": {"torch": "2.0", "peft": "1.0"}}),
            (2, {"git": None, "packages": {"torch": "2.1", "peft": "1.0"}}),
        )
    )
    found = origin([last, first], "runs")
    assert found["folder"] == "runs"
    assert found["complete runs"] == "2"
    assert found["finished"] == "2025-01-01T00:00:00+00:00 to 2025-02-01T00:00:00+00:00"
    assert found["commit"] == "aaaaaaaaaa with changes, not recorded"
    assert (found["torch"], found["peft"]) == ("2.0, 2.1", "1.0")
