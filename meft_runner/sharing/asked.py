"""What `meft-share` is asked: its arguments, each as it is typed, and what must be so before anything is loaded."""

import re
from collections.abc import Sequence

from meft_runner.config import ShareSettings
from meft_runner.config.commands import read_literally
from meft_runner.errors import UserError

_LONGEST = 96  # characters of a repository's name, as the hub counts them
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_REPOSITORY = re.compile(f"{_PART}/{_PART}")


def read_arguments(arguments: Sequence[str]) -> ShareSettings:
    """Reads the arguments of `meft-share`, key=value.

    Raises:
        UserError: an argument is not known, does not fit or is missing.
    """
    asked, _ = read_literally(ShareSettings, arguments)
    if asked.run is None:
        raise UserError("run: not given. Give the folder of a complete run, run=runs/NAME.")
    if asked.to is None:
        raise UserError("to: not given. Give the repository on the hub, to=OWNER/NAME.")
    _check_repository(asked.to)
    return asked


def _check_repository(name: str) -> None:
    well_formed = _REPOSITORY.fullmatch(name) is not None and not re.search(r"--|\.\.", name)
    if not well_formed or len(name) > _LONGEST or name.endswith(".git"):
        raise UserError(
            f"to={name!r:.60}: expected OWNER/NAME, each of letters, digits, '-', '_' and '.', of at most {_LONGEST} "
            "characters, as in to=jane/rte-lora."
        )
