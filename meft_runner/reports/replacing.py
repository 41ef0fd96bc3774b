"""Files in a folder that the user has named: only what this program has made is replaced there."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from meft_runner.errors import UserError, listed
from meft_runner.files import digest, write_whole

MANIFEST = ".meft-tables.json"  # what was made in its folder: digests by name


@contextmanager
def replacing(folder: Path, names: Sequence[str], overwrite: bool) -> Iterator[list[str]]:
    """Notes files that are written inside as made by this program, of which a later call may make others.

    Args:
        folder: receives them.
        names: of the files.
        overwrite: files that are there and not as an earlier call has left them may be replaced.

    Yields:
        Names of other files that earlier calls have made.

    Raises:
        UserError: there are such files; nothing is written.
        OSError: the files that were written cannot be noted.
    """
    noted = _noted(folder)
    present = [name for name in names if os.path.lexists(folder / name)]
    others = [name for name in present if name not in noted or _digest(folder / name) != noted[name]]
    if others and not overwrite:
        raise UserError(
            f"tables_dir={folder}: would replace {listed(others)} ({len(others)} in all), which no finished "
            "call of this version has made, or which changed since. Choose another folder, or add overwrite=true to "
            "replace them."
        )
    made = [name for name in names if name not in others]
    try:
        yield [name for name in noted if name not in names and os.path.exists(folder / name)]
        made = [*names]
    finally:  # what was written before an error is this program's too, but for what it was to replace
        _note(folder, noted, {name: found for name in made if (found := _digest(folder / name)) is not None})


def _noted(folder: Path) -> dict[str, str]:
    """Returns what is noted in a folder; nothing where that cannot be read, so that nothing is replaced unasked."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _note(folder: Path, noted: Mapping[str, str], made: Mapping[str, str]) -> None:
    if {**noted, **made} != noted:
        write_whole(folder / MANIFEST, json.dumps({**noted, **made}, indent=2) + "\n")


def _digest(path: Path) -> str | None:
    return digest(path) if path.is_file() else None
