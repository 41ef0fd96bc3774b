"""One record that was changed anywhere is made tables and figures of, or left out in one line."""

import json
import math
from copy import deepcopy
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meft_runner.records.record import read_complete_records
from meft_runner.reports.overview import make_figures, make_tables
from meft_runner.reports.report import origin
from meft_runner.reports.tables import latex, markdown
from tests.helpers.records import record, started, study

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.sampled_from([10**30, -(10**400), 2**63, 0, -1, 2**63 - 1])
    | st.floats() | st.sampled_from([1e308, -1e308, 5e-324, 1e100, math.inf])
    | st.text() | st.sampled_from(["$x^$", "_", "a\nb", "\x00", "complete", "1/0", "full", "2025-01-01", "[/]", "{}"])
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


@cache
def whole():
    """Returns complete records of every kind, in plain form."""
    return [
        record(
            0.5, "backbone.repeat=2", "method.frozen_layers=2", "seed=2", history=[(0.5, 0.5), (None, None)],
            start={"output_distance": 0.5}, weights={"source": "/models/a", "revision": None, "sha256": "1f"},
            data={
                "source": "/rows", "revision": None, "synthetic": False, "kind": "glue", "version": 1,
                "labels": "classes a, b",
                "splits": {"train": {"rows": 9, "fingerprint": "3c"}, "validation": {"rows": 9, "fingerprint": "4d"}},
            },
        ).plain(),
        record(0.5, "method=ia3", "method.init_noise=0.1", start={"output_distance": 0.5}).plain(),
        study([0.1, None], cosines=[1.0, None]).plain(),
        started(0.1, None, "method=meft1_start", "method.mu=0.9").plain(),
        record(
            0.5, "method=lora", "method.reversal=exact", start={"output_distance": 0.5, "hidden_distance": 0.1},
            plain_model={"output_distance": 0.1, "score": 0.5, "coupled_score": None},
        ).plain(),
    ]  # fmt: skip


@cache
def beside():
    """Returns records that stand in tables beside a changed one."""
    return [
        record(0.7, history=[(0.5, 0.5)], start={"output_distance": 0.1, "hidden_distance": 0.1}),
        record(0.4, "method=lora"), record(0.4, "task=cola", start={"output_distance": 0.1, "hidden_distance": 0.2}),
        study([0.2]), started(0.1, 0.1),
    ]  # fmt: skip


def places(content, before=()):
    """Returns the keys that lead to every part of a record."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [place for key, value in items for place in [(*before, key), *places(value, (*before, key))]]


@st.composite
def damaged(draw):
    content = deepcopy(draw(st.sampled_from(whole())))
    *parents, last = draw(st.sampled_from(places(content)))
    owner = content
    for key in parents:
        owner = owner[key]
    if draw(st.booleans()):
        owner[last] = draw(VALUES)
    elif isinstance(owner, dict):
        del owner[last]
    else:
        owner[last:] = []
    return content


def read(content, folder, capsys):
    """Returns the record of a file with this content, in a list; where there is none, one line has told why."""
    (folder / "record.json").write_text(json.dumps(content))
    found = read_complete_records([folder])
    told = capsys.readouterr().err.splitlines()
    assert len(told) == (0 if found or (content.get("status") in ("failed", "running") and not told) else 1)
    return found


QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(deadline=None, max_examples=6, suppress_health_check=QUIET)
@given(content=damaged())
@pytest.mark.filterwarnings("error")
def test_a_record_that_was_changed_anywhere(content, tmp_path, capsys):
    found = read(content, tmp_path, capsys)
    if found:
        for table in make_tables([*found, *beside()]).values():
            assert len(markdown(table).splitlines()) == len(table) + 2
        make_figures([*found, *beside()])
        origin(found, "runs")


@pytest.mark.slow
@settings(deadline=None, max_examples=60, suppress_health_check=QUIET)
@given(content=damaged())
@pytest.mark.filterwarnings("ignore:Glyph .* missing:UserWarning")  # as `save_figure` does; the upper filter goes first
@pytest.mark.filterwarnings("error")
def test_a_record_that_was_changed_anywhere_is_drawn(content, tmp_path, capsys):
    found = read(content, tmp_path, capsys)
    if found:
        for table in make_tables([*found, *beside()]).values():
            latex(table)
        for figure in make_figures([*found, *beside()]).values():
            figure.draw_without_rendering()
