"""Files as users have them: either rows come out, or one line that a user can act on."""

import json
import os
import string

import pyarrow
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from meft_runner.errors import UserError
from meft_runner.tasks.files import read_file

KINDS = ["csv", "tsv", "jsonl", "json", "parquet"]
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def read(path, content=None):
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_file(path, path.name))


def rows_or_a_line(path, content):
    """Reads a file of any content; every other error than a line to the user fails the test."""
    found, line = None, ""
    try:
        found = read(path, content)
    except UserError as error:
        line = str(error)
    assert len(line) < 400
    assert line.count("\n") < 2
    return found


@pytest.mark.parametrize("kind", KINDS)
@quick
@given(content=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
@example(content=b"")
@example(content=b"\xff\xfet\x00e\x00")
@example(content=b"[" * 100_000)
@example(content=b'{"a":' * 100_000)
@example(content=b'[{"a": 1}, {"a": 1e999}]')
def test_any_bytes(tmp_path, kind, content):
    rows_or_a_line(tmp_path / f"t.{kind}", content)


@quick
@given(position=st.integers(0, 10_000), byte=st.integers(1, 255), length=st.integers(0, 10_000))
def test_damaged_parquet(tmp_path, position, byte, length):
    path = tmp_path / "t.parquet"
    rows = {"text": ["one", "two"] * 50, "label": [0, 1] * 50, "more": [[1.5], None] * 50}
    parquet.write_table(pyarrow.table(rows), path)
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= byte
    rows_or_a_line(path, bytes(content))
    rows_or_a_line(path, bytes(content)[: length % len(content)])


@pytest.mark.parametrize(("kind", "separator"), [("csv", ","), ("tsv", "\t")])
@quick
@given(
    rows=st.lists(st.lists(st.text(string.ascii_letters + " ", min_size=1), min_size=1, max_size=4), min_size=1),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_rows_of_any_shape(tmp_path, kind, separator, rows, end):
    found = rows_or_a_line(tmp_path / f"t.{kind}", "".join(separator.join(row) + end for row in rows))
    header = rows[0]
    if all(len(row) == len(header) for row in rows) and len(set(header)) == len(header):
        assert [list(row.values()) for _, row in found] == rows[1:]
        assert [place for place, _ in found] == [f"line {number}" for number in range(2, len(rows) + 1)]
    else:
        assert found is None


@quick
@given(rows=st.lists(st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(max_size=9)), min_size=1))
def test_json_rows_come_back(tmp_path, rows):
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    for name, content in (("t.jsonl", lines), ("t.json", lines), ("t.json", json.dumps(rows, indent=1))):
        assert [row for _, row in read(tmp_path / name, content)] == rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "a,b,a\n1,2,3\n", "t.csv: two columns are called 'a'. Rename or remove one"),
        ("t.jsonl", '{"a": 1}\n{"a": 1, "a": 2}\n', "line 2: not JSON (the key 'a' stands twice in one object)"),
        ("t.jsonl", '{"a": {"b": 1, "b": 2}}', "the key 'b' stands twice"),
        ("t.json", '[\n{"a": 1},\n{"a": ]\n', "t.json, line 3: not JSON (Expecting value, column 7)"),
        ("t.json", '{"data": 1}\n]', "t.json, line 2: not JSON"),
        ("t.jsonl", '{"a": ' + "9" * 5000 + "}", "line 1: not JSON (Exceeds the limit"),
        ("t.csv", "a,b\n1,2\n1\n", "t.csv, line 3: has 1 cells, the header has 2. Put a text that holds a separator"),
        ("t.tsv", "a\tb\n1\t2\t3\n", "t.tsv, line 2: has 3 cells, the header has 2"),
        ("t.csv", 'a,b\n1,2\n"x" y,2\n', "t.csv, line 3: a quote has no partner, or stands where none may"),
        ("t.csv", 'a,b\n1,2\n"x,2\n1,2\n', "t.csv, line 3: a quote has no partner"),
        ("t.csv", "a,b\n1,\0\n", "t.csv, line 2: holds a NUL byte, as UTF-16 has them. Save it as UTF-8"),
        ("t.csv", "a,b\n1,ä\n".encode("latin-1"), "t.csv, line 2: is not UTF-8 (invalid continuation byte)"),
        ("t.csv", "a,b\n1,ä\n".encode("utf-16"), "t.csv, line 1: is not UTF-8"),
        ("t.jsonl", '{"a": 1}'.encode("utf-16-le"), "t.jsonl, line 1: holds a NUL byte"),
        ("t.parquet", b"", "t.parquet: cannot be read as Parquet"),
        ("t", b"", "t: expected a name that ends in .csv, .tsv, .jsonl, .json, .parquet. Convert or rename"),
        ("t.csv.gz", b"", "t.csv.gz: expected a name that ends in .csv"),
        ("t.csv", None, "t.csv: no such file. Check the path"),
        ("t.parquet", None, "t.parquet: no such file"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path, name, content, message):
    with pytest.raises(UserError) as caught:
        read(tmp_path / name, content)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


def test_repeated_columns_of_parquet(tmp_path):
    columns = [pyarrow.array(["x"])] * 2
    parquet.write_table(pyarrow.Table.from_arrays(columns, ["a", "a"]), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"t.parquet: two columns are called 'a'"):
        read(tmp_path / "t.parquet")


def test_columns_without_a_name_are_nobodys(tmp_path):
    assert read(tmp_path / "t.csv", "a,b,,\n1,2,,\n") == [("line 2", {"a": "1", "b": "2", "": None})]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_mark_at_the_beginning_and_windows_line_ends_are_no_part_of_rows(tmp_path, end):
    expected = [{"text": "one", "label": "x"}]
    assert read(tmp_path / "t.csv", f"\ufefftext,label{end}one,x{end}{end}") == [("line 2", expected[0])]
    line = json.dumps(expected[0])
    assert read(tmp_path / "t.jsonl", f"\ufeff{line}{end}") == [("line 1", expected[0])]
    assert read(tmp_path / "t.json", f"\ufeff[{end}{line}{end}]") == [("row 1", expected[0])]


def test_quoted_cells_are_what_they_hold(tmp_path):
    content = 'text,label\n"a, ""b""\nc",1\n' + f"{'x' * 200_000},2\n"
    assert read(tmp_path / "t.csv", content) == [
        ("line 2", {"text": 'a, "b"\nc', "label": "1"}),
        ("line 4", {"text": "x" * 200_000, "label": "2"}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("t.csv", "text;label\na;1\n", r"separated by semicolons, expected commas\. Save it with commas"),
        ("t.csv", "sep=;\ntext;label\n", "separated by semicolons, expected commas"),
        ("t.csv", "text\tlabel\n", "separated by tabs, expected commas.*rename it to .tsv"),
        ("t.tsv", "text,label\n", "separated by commas, expected tabs.*rename it to .csv"),
    ],
)
def test_another_separator_is_named(tmp_path, name, content, line):
    with pytest.raises(UserError, match=line):
        read(tmp_path / name, content)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file(tmp_path, kind):
    folder, pipe = tmp_path / f"folder.{kind}", tmp_path / f"pipe.{kind}"
    folder.mkdir()
    os.mkfifo(pipe)
    for path in (folder, pipe):
        with pytest.raises(UserError, match=r"is a folder or a device\. Give a file"):
            read(path)
    with pytest.raises(UserError, match=r"cannot be read .*Not a directory"):
        read(pipe / f"t.{kind}")
    with pytest.raises(UserError, match=r"cannot be read .*File name too long"):
        read(tmp_path / ("x" * 300 + f".{kind}"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_vanishes_before_it_is_read(tmp_path, kind):
    rows = read_file(tmp_path / f"t.{kind}", "the file")
    with pytest.raises(UserError, match=r"the file: no such file"):
        next(rows)
