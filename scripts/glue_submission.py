"""Packs the zip that the GLUE leaderboard takes, from runs with task.predict_test=true.

    python scripts/glue_submission.py runs                        # writes submission.zip
    python scripts/glue_submission.py runs/a runs/b --output a.zip

Of several runs that predicted the same test set, the one with the best development score is taken. The leaderboard
wants all of its files: those of tasks that were not run get the most frequent class of their training rows on every
line. What came from where is printed, and written beside the zip.
"""

import argparse
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from meft_runner.errors import UserError
from meft_runner.records.record import FILE_NAME, read_record
from meft_runner.records.schema import CompleteRecord
from meft_runner.run.console import print_table


class TestSet(NamedTuple):
    """What the leaderboard expects of a file.

    Attributes:
        rows: of the test set.
        filler: the most frequent class of the training rows, or the middle of the grades.
    """

    rows: int
    filler: str


class Found(NamedTuple):
    """The predictions of the best run.

    Attributes:
        score: its best development score, a fraction.
        file: where the predictions are.
    """

    score: float
    file: Path


TEST_SETS = {
    "CoLA": TestSet(1063, "1"),
    "SST-2": TestSet(1821, "1"),
    "MRPC": TestSet(1725, "1"),
    "STS-B": TestSet(1379, "2.500"),
    "QQP": TestSet(390965, "0"),
    "MNLI-m": TestSet(9796, "contradiction"),
    "MNLI-mm": TestSet(9847, "contradiction"),
    "QNLI": TestSet(5463, "not_entailment"),
    "RTE": TestSet(3000, "entailment"),
    "WNLI": TestSet(146, "0"),
    "AX": TestSet(1104, "contradiction"),
}


def find_predictions(folders: Sequence[Path]) -> dict[str, Found]:
    """Returns the best run's predictions of each test set that was predicted.

    Args:
        folders: of runs, or of folders of runs.

    Raises:
        UserError: a folder is not there, a record cannot be read, or no complete run has predictions.
    """
    best: dict[str, Found] = {}
    for run in [run for folder in folders for run in _runs(folder)]:
        record = read_record(run)
        if not isinstance(record, CompleteRecord) or record.scores is None or record.scores.best is None:
            continue
        for name in TEST_SETS:
            found = Found(record.scores.best, run / "predictions" / f"{name}.tsv")
            if found.file.is_file() and (name not in best or found.score > best[name].score):
                best[name] = found
    if not best:
        raise UserError(
            f"{', '.join(map(str, folders))}: no complete run has predictions/<NAME>.tsv. "
            "Run GLUE tasks with task.predict_test=true."
        )
    return best


def submission(predictions: dict[str, Found]) -> dict[str, str]:
    """Returns the content of each file of the zip.

    Raises:
        UserError: a file has more or fewer rows than the leaderboard's test set.
    """
    files = {}
    for name, expected in TEST_SETS.items():
        if name in predictions:
            files[f"{name}.tsv"] = _checked(predictions[name].file, expected.rows)
        else:
            lines = [f"{index}\t{expected.filler}\n" for index in range(expected.rows)]
            files[f"{name}.tsv"] = "".join(["index\tprediction\n", *lines])
    return files


def summary(predictions: dict[str, Found]) -> pd.DataFrame:
    """Returns a table that says of each file where it came from."""
    return pd.DataFrame(
        {
            "file": f"{name}.tsv",
            "rows": expected.rows,
            "from": predictions[name].file.parent.parent.name if name in predictions else f"FILLED: {expected.filler}",
            "best score (%)": f"{100 * predictions[name].score:.1f}" if name in predictions else "-",
        }
        for name, expected in TEST_SETS.items()
    )


def _runs(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. Give folders of runs, or the output_dir that holds them.")
    if (folder / FILE_NAME).is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{FILE_NAME}"))


def _checked(file: Path, expected: int) -> str:
    text = file.read_text(encoding="utf-8")
    rows = len(text.splitlines()) - 1  # the first line is the header
    if rows != expected:
        raise UserError(
            f"{file}: {rows} rows, the leaderboard expects {expected}. Predict its whole test set; was it cut?"
        )
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the zip and its summary, and returns the exit code: 0 done, 2 the user's mistake."""
    parser = argparse.ArgumentParser(description="Packs the zip that the GLUE leaderboard takes.")
    parser.add_argument("folders", type=Path, nargs="+", help="runs, or folders of runs")
    parser.add_argument("--output", type=Path, default=Path("submission.zip"), help="the zip to write")
    asked = parser.parse_args(arguments)
    try:
        predictions = find_predictions(asked.folders)
        files = submission(predictions)
        with zipfile.ZipFile(asked.output, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in files.items():
                archive.writestr(name, text)
        table = summary(predictions)
        asked.output.with_name(f"{asked.output.name}.txt").write_text(table.to_string(index=False) + "\n")
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_table(table, title=str(asked.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
