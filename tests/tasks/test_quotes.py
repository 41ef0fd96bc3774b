import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meft_runner.errors import UserError
from meft_runner.tasks.files import read_file
from meft_runner.tasks.quotes import check_swallowed, goes_over_lines


def check(path, content, label_column="label"):
    """Reads a file and looks for swallowed rows, as the user's own files are."""
    path.write_text(content, encoding="utf-8", newline="")
    rows = list(read_file(path, path.name))
    labels = {row[label_column] for _, row in rows}
    check_swallowed(
        [row for row in rows if goes_over_lines(row[1])], ",\t"[path.suffix == ".tsv"], label_column, labels
    )
    return rows


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("text\tlabel", ['"an open quote\t1', "swallowed\t0", 'and closed"\t1', "another\t0"]),
        ("text\tlabel", ['"an open quote\t1', 'and closed"\t1', "another\t0"]),
        ("label\ttext", ['1\t"an open quote', "0\tswallowed", '1\tand closed"', "0\tanother"]),
        ("label\ttext", ['1\t"an open quote', '0\tand closed"', "0\tanother"]),
        ("id\ttext\tlabel", ['1\t"an open quote\t1', "2\tswallowed\t0", '3\tand closed"\t1', "4\tanother\t0"]),
        ("text\tlabel\tid", ['"an open quote\t1\t1', "swallowed\t0\t2", 'and closed"\t1\t3', "another\t0\t4"]),
        ("label\tid\ttext", ['1\t1\t"an open quote', "0\t2\tswallowed", '1\t3\tand closed"', "0\t4\tanother"]),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(("name", "separator"), [("t.tsv", "\t"), ("t.csv", ",")])
def test_swallowed_rows_are_refused(tmp_path, header, rows, end, name, separator):
    content = end.join([header, *rows, ""]).replace("\t", separator)
    message = r"line 2: its text of \d lines seems to hold rows that a quote has swallowed. Write each quote"
    with pytest.raises(UserError, match=message):
        check(tmp_path / name, content)


@given(
    texts=st.lists(st.text("ab \n,\t\"'", min_size=1), min_size=1, max_size=6),
    separator=st.sampled_from([",", "\t"]),
    first=st.booleans(),
)
def test_texts_of_several_lines_are_fine(tmp_path_factory, texts, separator, first):
    file = io.StringIO()
    rows = [["label", "text"], *([f"label {i % 2}", text] for i, text in enumerate(texts))]
    csv.writer(file, delimiter=separator).writerows(row if first else row[::-1] for row in rows)
    path = tmp_path_factory.getbasetemp() / ("t.csv" if separator == "," else "t.tsv")
    assert [row["text"] for _, row in check(path, file.getvalue())] == texts
