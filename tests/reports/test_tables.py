import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meft_runner.reports.tables import latex, markdown, write_tables
from meft_runner.run.console import print_table, run_table
from tests.helpers.records import record

TABLE = pd.DataFrame(
    {"task": ["arc_easy", "50 % & more"], "score (%)": ["9.0 ± 0.5 (n=3)", None], "step": [0.25, float("nan")]}
)


def test_files_say_the_same(tmp_path):
    files = write_tables({"scores": TABLE}, tmp_path / "new")
    assert [file.name for file in files] == ["scores.md", "scores.csv", "scores.tex"]
    assert pd.read_csv(files[1])["task"].tolist() == TABLE["task"].tolist()
    for file in (files[0], files[2]):
        assert "0.25" in file.read_text()


def test_markdown_keeps_digits_and_puts_numbers_to_the_right():
    lines = markdown(pd.DataFrame({"method": ["full", "lora"], "score": ["9.0", "-"]})).splitlines()
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["full", "9.0"]
    assert [cell.strip() for cell in lines[1].strip("|").split("|")] == [":---------", "--------:"]


def test_latex_escapes_what_latex_would_read():
    lines = latex(TABLE).splitlines()
    assert lines[0] == r"\begin{tabular}{lrr}"
    assert lines[2] == r"task & score (\%) & step \\"
    assert lines[4] == r"arc\_easy & 9.0 $\pm$ 0.5 (n=3) & 0.25 \\"
    assert lines[5] == r"50 \% \& more & - & - \\"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("text (a|b.csv)", "text (a\\|b.csv)"),
        ("two\nlines", "two lines"),
        ("`a` *b* <b> [c](d) $e$ ~f~ &lt;", "\\`a\\` \\*b\\* \\<b> \\[c\\](d) \\$e\\$ \\~f\\~ \\&lt;"),
        ("_a_ arc_easy", "\\_a\\_ arc_easy"),
        ("a\\", "a\\\\"),
    ],
)
def test_markdown_escapes_what_markdown_would_read(text, escaped):
    heading, _, row = markdown(pd.DataFrame({text: [text]})).splitlines()
    for shown in (heading, row):
        assert shown.removeprefix("|").removesuffix("|").strip() == escaped


@given(st.text(), st.text())
def test_any_text_is_one_cell_of_markdown(name, cell):
    lines = markdown(pd.DataFrame({name: [cell]})).splitlines()
    assert len(lines) == 3
    assert all(len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 2 for line in lines)


def test_a_printed_name_is_no_markup(capsys):
    print_table(pd.DataFrame({"[bold]task": ["[/red].csv", ":smile:"]}), title="[red]runs")
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("[bold]task", "[/red].csv", ":smile:", "[red]runs"))


def test_a_score_that_is_not_defined_is_a_dash():
    assert run_table(record(None))["value"].tolist()[:2] == ["-", "-"]


def test_the_printed_table_of_a_run(capsys):
    print_table(run_table(record(0.625)), title="a run")
    printed = capsys.readouterr().out
    assert "62.5" in printed
    assert "10 (1.00 % of 1,000)" in printed
    assert "exact: 0 mismatches in 3 steps" in printed


@pytest.mark.parametrize(
    ("reversal", "text"),
    [
        (None, "not reversible"),
        ({"mode": "stored", "mismatches": 0}, "stored: nothing to reverse"),
        ({"mode": "exact", "mismatches": 0, "max_error": 0.0}, "exact: no layer was reversed"),  # all were stored
        ({"mode": "float", "mismatches": 0, "max_error": 0.0}, "float: no layer was reversed"),
        (
            {"mode": "float", "mismatches": 0, "max_error": None},
            "up to not finite apart in 0 steps",
        ),
    ],
)
def test_what_a_run_says_of_its_reversal(reversal, text):
    assert text in run_table(record(reversal=reversal)).iloc[-1]["value"]
