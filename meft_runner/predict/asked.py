"""What `meft-predict` is asked: its arguments, each as it is typed, and what must be so before anything is loaded."""

from collections.abc import Sequence
from pathlib import Path

from meft_runner.config import PredictSettings
from meft_runner.config.checks import check_ranges
from meft_runner.config.commands import read_literally
from meft_runner.errors import UserError

OUTPUTS = (".jsonl", ".csv", ".parquet")
_QUESTIONS = ("input", "split", "prompt")


def read_arguments(arguments: Sequence[str]) -> tuple[PredictSettings, dict[str, str]]:
    """Reads the arguments of `meft-predict`, key=value.

    Returns:
        What is asked, and where files of the run are now, by the run's settings that name them.

    Raises:
        UserError: an argument is not known, does not fit, is missing or has no effect, or the output is not to be
            written.
    """
    asked, of_the_run = read_literally(PredictSettings, arguments, of_a_run=True)
    check_ranges(asked)
    if asked.run is None:
        raise UserError("run: not given. Give the folder of a complete run, run=runs/NAME.")
    given = [name for name in _QUESTIONS if getattr(asked, name) is not None]
    if len(given) != 1:
        what = " and ".join(given) or "none of them"
        raise UserError(f"expected one of input=FILE, split=NAME and prompt=TEXT, given: {what}.")
    if asked.prompt is not None:
        _check_prompt(asked)
    if asked.output is not None:
        _check_output(asked, Path(asked.output))
    elif asked.overwrite:
        raise UserError("overwrite=true: has no effect without output=FILE. Leave it out.")
    return asked, of_the_run


def _check_prompt(asked: PredictSettings) -> None:
    for name in ("output", "batch_size"):
        if getattr(asked, name) is not None:
            raise UserError(f"{name}={getattr(asked, name)}: has no effect with prompt=TEXT. Leave one of them out.")
    if any("\ud800" <= character <= "\udfff" for character in str(asked.prompt)):
        raise UserError(f"prompt={asked.prompt!a:.60}: holds bytes that are no UTF-8. Give text.")


def _check_output(asked: PredictSettings, path: Path) -> None:
    if path.suffix.lower() not in OUTPUTS:
        raise UserError(f"output={path}: expected a name that ends in {', '.join(OUTPUTS)}. Choose one of these forms.")
    if path.is_dir():
        raise UserError(f"output={path}: is a folder. Give a file.")
    if asked.input is not None and path.exists() and Path(asked.input).exists() and path.samefile(asked.input):
        raise UserError(f"output={path}: is the input too, which would be lost. Give another file.")
    if path.exists() and not asked.overwrite:
        raise UserError(f"output={path}: is there already. Give another file, or add overwrite=true to replace it.")
    folder = next(each for each in path.absolute().parents if each.exists())
    if not folder.is_dir():
        raise UserError(f"output={path}: {folder} is no folder. Give a file in another one.")
