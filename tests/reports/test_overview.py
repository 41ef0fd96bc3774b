from meft_runner.config import TablesSettings
from meft_runner.records.record import write_record
from meft_runner.reports.overview import FIGURES, TABLES, make_figures, make_overview, make_tables
from tests.helpers.records import record, study


def everything():
    started = {"start": {"output_distance": 0.5}, "history": [(0.5, 0.5)]}
    long = record(0.5)
    long.memory.length = 512
    return [
        record(0.5, history=[(0.5, 0.5)]), record(0.6, "method.frozen_layers=2"), long,
        record(0.6, "backbone.repeat=2"), record(0.6, "backbone=opt", "task=piqa", metric="acc"),
        record(0.6, "method=ia3", "method.init_noise=0.1", **started),
        study([0.1, 0.1]), study([0.1] * 4, "backbone.repeat=2"),
    ]  # fmt: skip


def test_records_of_everything_give_everything():
    assert list(make_tables(everything())) == list(TABLES)
    assert list(make_figures(everything())) == list(FIGURES)


def test_studies_alone_have_no_scores():
    records = [study([0.1])]
    assert list(make_tables(records)) == ["reversal", "gradients_by_layer"]
    assert list(make_figures(records)) == ["reversal_by_layer"]


def test_files_of_a_folder(tmp_path, capsys):
    for i, one in enumerate(everything()):
        write_record(one, tmp_path / "runs" / str(i))
    folder = tmp_path / "tables"
    make_overview(TablesSettings(output_dir=str(tmp_path / "runs"), tables_dir=str(folder)))
    expected = {f"{name}.{form}" for name in TABLES for form in ("md", "csv", "tex")}
    expected |= {f"{name}.{form}" for name in FIGURES for form in ("png", "svg")}
    assert {path.name for path in folder.iterdir()} == expected
    printed = capsys.readouterr().out
    titles = [printed.index(TABLES[name].title) for name in ("scores", "qa", "memory", "reversal")]
    assert titles == sorted(titles)
    assert TABLES["training_loss"].title not in printed

    make_overview(TablesSettings(output_dir=str(tmp_path / "runs"), tables_dir=str(folder), report=True))
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert {path.name for path in folder.iterdir()} == expected | {"report.html"}
    assert all(part.title in page for part in TABLES.values())
    assert all(part.caption in page for part in FIGURES.values())
