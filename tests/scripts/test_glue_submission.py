import importlib.util
import json
import zipfile
from pathlib import Path

import pytest

from meft_runner.records.record import write_record
from tests.helpers.records import changed, record

SCRIPT = Path(__file__).parents[2] / "scripts" / "glue_submission.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("glue_submission", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def make_run(tmp_path):
    """Makes a run with predictions: the number of rows and the answer in all of them, by file."""

    def make_run(name, score, status="complete", **predictions):
        run = tmp_path / "runs" / name
        write_record(changed(record(score), status=status), run)
        (run / "predictions").mkdir()
        for file, (rows, answer) in predictions.items():
            lines = [f"{index}\t{answer}\n" for index in range(rows)]
            (run / "predictions" / f"{file}.tsv").write_text("".join(["index\tprediction\n", *lines]))
        return run

    return make_run


def call(script, tmp_path, *folders):
    return script.main([*map(str, folders or [tmp_path / "runs"]), "--output", str(tmp_path / "a.zip")])


def contents(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_the_zip_has_the_eleven_files_and_what_was_filled_is_marked(script, make_run, tmp_path, capsys):
    make_run("rte", 0.712, RTE=(3000, "not_entailment"))
    assert call(script, tmp_path) == 0
    files = contents(tmp_path)
    assert {name: text.count("\n") - 1 for name, text in files.items()} == {
        "CoLA.tsv": 1063, "SST-2.tsv": 1821, "MRPC.tsv": 1725, "STS-B.tsv": 1379, "QQP.tsv": 390965,
        "MNLI-m.tsv": 9796, "MNLI-mm.tsv": 9847, "QNLI.tsv": 5463, "RTE.tsv": 3000, "WNLI.tsv": 146, "AX.tsv": 1104,
    }  # fmt: skip
    assert files["RTE.tsv"].startswith("index\tprediction\n0\tnot_entailment\n")
    assert files["STS-B.tsv"].startswith("index\tprediction\n0\t2.500\n1\t2.500\n")
    for summary in (capsys.readouterr().out, (tmp_path / "a.zip.txt").read_text()):
        assert summary.count("FILLED") == 10
        (line,) = [line for line in summary.splitlines() if "RTE.tsv" in line]
        assert "71.2" in line
        assert "FILLED" not in line


def test_the_best_of_several_complete_runs_is_taken(script, make_run, tmp_path):
    worse = make_run("a", 0.6, CoLA=(1063, 0), RTE=(3000, "a"))
    better = make_run("b", 0.7, RTE=(3000, "b"))
    make_run("c", 0.9, status="failed", RTE=(3000, "c"))
    assert call(script, tmp_path, better, worse, tmp_path / "runs") == 0
    assert "\tb\n" in contents(tmp_path)["RTE.tsv"]
    assert "\t0\n" in contents(tmp_path)["CoLA.tsv"]


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ({"RTE": (10, "entailment")}, "RTE.tsv: 10 rows, the leaderboard expects 3000. Predict its whole test set"),
        ({"RTE": (3001, "entailment")}, "RTE.tsv: 3001 rows, the leaderboard expects 3000"),
        ({"other": (3000, "entailment")}, "no complete run has predictions/<NAME>.tsv. Run GLUE tasks with task.pred"),
    ],
)
def test_unfit_predictions_are_refused(script, make_run, tmp_path, capsys, predictions, message):
    make_run("rte", 0.7, **predictions)
    assert call(script, tmp_path) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "a.zip").exists()


def test_folders_that_are_not_there_or_hold_broken_records(script, make_run, tmp_path, capsys):
    assert call(script, tmp_path, tmp_path / "nowhere") == 2
    assert "nowhere: no such folder" in capsys.readouterr().err
    run = make_run("rte", 0.7)
    (run / "record.json").write_text(json.dumps({"schema_version": 1}))
    assert call(script, tmp_path) == 2
    assert "not a run record" in capsys.readouterr().err


def test_a_zip_that_cannot_be_written(script, make_run, tmp_path, capsys):
    run = make_run("rte", 0.7, RTE=(3000, "entailment"))
    assert script.main([str(run), "--output", str(tmp_path / "nowhere" / "a.zip")]) == 2
    assert "No such file or directory" in capsys.readouterr().err
