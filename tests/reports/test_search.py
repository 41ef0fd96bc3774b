"""Searches in tables and figures."""

import pytest

from meft_runner.config import TablesSettings
from meft_runner.records.record import write_record
from meft_runner.records.search import SEARCHES, Search, Trial, read_searches, write_search
from meft_runner.reports.overview import make_overview
from meft_runner.reports.search import brief, search_figure, trials_table
from tests.helpers.records import changed, record

SPACE = {"training.learning_rate": [1e-4, 1e-2, "log"], "method.scale_1": ["1/10", "1/32"]}


def found(trials=4, space=None, **names):
    """Returns a search with its records: the first trial is the best one, the third pruned, the last never ran."""
    rates = [1e-3 * (number + 1) for number in range(trials)]
    search = Search(
        **{"backbone": "minilm", "task": "rte", "method": "meft1", "seed": 1, **names},
        space=space or SPACE,
        trials=[
            Trial(settings={"training.learning_rate": rate, "method.scale_1": "1/10"}, run=f"run-{number}")
            for number, rate in enumerate(rates)
        ],
    )
    records = [
        record(0.9 - number / 10, history=[(0.5, 0.4), (0.4, 0.5)], identity=str(number))
        for number in range(trials - 1)
    ]
    if trials > 2:
        records[2] = changed(records[2], status="pruned", error="too low")
    return search, [*records, None]


def test_a_table_of_trials():
    table = trials_table({"minilm-rte-meft1-s1-abc": found(), "minilm-rte-lora-s1-def": found(method="lora")})
    assert list(table)[4:] == ["trial", "learning rate", "scale 1", "epochs trained", "metric", "score (%)", "outcome"]
    assert list(table["search"]) == ["abc"] * 4 + ["def"] * 4
    assert list(table["outcome"][:4]) == ["complete", "complete", "pruned", "running"]
    assert list(table["score (%)"][:4]) == ["90.00", "80.00", "70.00", "-"]
    assert list(table["epochs trained"][:4]) == [2, 2, 2, "-"]


def test_settings_that_make_no_run_and_searches_that_vary_other_things():
    one, other = found(), found(space={"training.epochs": [1, 2]})
    one[0].trials[3].error = "cannot be"
    other[0].trials = [Trial(settings={"training.epochs": 1 + number % 2}) for number in range(4)]
    table = trials_table({"a-1": one, "b-2": other})
    assert list(table["outcome"][:4]) == ["complete", "complete", "pruned", "failed"]
    assert list(table["epochs trained"]) == [2, 2, 2, "-"] * 2
    assert list(table["epochs"]) == ["-"] * 4 + ["1", "2"] * 2
    other[0].trials[0].settings = {"method.learning_rate": 1e-3}
    assert {"training.learning_rate", "method.learning_rate"} < set(trials_table({"a-1": one, "b-2": other}))
    assert trials_table({}).empty


def test_the_best_trials_stand_first_on_the_terminal():
    search, records = found(15)
    shown = brief(trials_table({"a-1": (search, records[::-1])}))
    assert len(shown) == 10
    assert list(shown["score (%)"][:2]) == ["90.00", "80.00"]


def test_a_figure_has_a_panel_for_the_trials_and_for_each_setting():
    figure = search_figure({"a-1": found(), "b-2": found(space={"method.scale_1": ["1/32", "1/10"]})})
    titles = [axes.get_title() for axes in figure.axes]
    assert [title.rpartition(": ")[2] for title in titles] == [
        "by trial", "learning rate", "scale 1", "by trial", "scale 1"
    ]  # fmt: skip
    trials, rates, scales, _, other = figure.axes
    assert rates.get_xscale() == "log"
    assert [text.get_text() for text in rates.get_xticklabels()] == ["0.0001", "0.001", "0.01"]
    assert [text.get_text() for text in scales.get_xticklabels()] == ["1/10", "1/32"]
    assert {place for points in other.collections for place, _ in points.get_offsets().tolist()} == {1.0}
    (best,) = trials.lines
    assert list(best.get_ydata()) == [90, 90]
    assert {text.get_text() for text in figure.legends[0].texts} == {"best so far", "complete", "pruned"}


def test_searches_without_a_score_are_not_drawn():
    search, records = found()
    assert search_figure({"a-1": (search, [None] * len(records))}) is None
    assert search_figure({}) is None


def test_a_record_of_another_run_is_none_of_a_trial(tmp_path, capsys):
    search, records = found()
    for number in (0, 1):
        write_record(records[0], tmp_path / f"run-{number}")
    write_search(search, tmp_path / SEARCHES / "a-1")
    assert read_searches(tmp_path)["a-1"][1] == [records[0], None, None, None]
    assert f"skipped: {tmp_path / 'run-1'}: holds the record of another run, 0. " in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", '{"schema_version": 1, "trials": [{"settings": 3}]}'])
@pytest.mark.thin(2)
def test_searches_of_a_folder(content, tmp_path, capsys):
    search, records = found()
    for number, one in enumerate(records[:3]):
        write_record(one, tmp_path / f"run-{number}")
    write_search(search, tmp_path / SEARCHES / "minilm-rte-meft1-s1-abc")
    damaged = tmp_path / SEARCHES / "damaged" / "search.json"
    damaged.parent.mkdir()
    damaged.write_text(content)
    (name,) = read_searches(tmp_path)
    assert name == "minilm-rte-meft1-s1-abc"
    capsys.readouterr()
    make_overview(TablesSettings(output_dir=str(tmp_path), tables_dir=str(tmp_path / "tables"), report=True))
    printed = capsys.readouterr()
    assert "Searches over settings" in printed.out
    assert printed.err == f"skipped: {damaged}: not a search of this program" + printed.err.partition("program")[2]
    files = {path.name for path in (tmp_path / "tables").iterdir()}
    assert {"trials.md", "trials.csv", "trials.tex", "trials.png", "trials.svg", "report.html"} <= files
    assert "too low" not in (tmp_path / "tables" / "scores.md").read_text()
