"""The checkpoints of an unfinished run: which are whole, what they were made from, and their removal.

Each holds a manifest that names its step and its files. A folder without one is not ours and is left alone; one whose
manifest names no files yet was not written to its end.
"""

import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from peft.utils import SAFETENSORS_WEIGHTS_NAME

from meft_runner.errors import UserError
from meft_runner.files import digest, write_whole
from meft_runner.run.so_far import SoFar

MANIFEST = "manifest.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_WRITTEN = re.compile(
    r"adapter_model\.safetensors|adapter_config\.json|README\.md|optimizer\.pt|scheduler\.pt|scaler\.pt"
    r"|rng_state(_\d+)?\.pth|trainer_state\.json|training_args\.bin"
)  # what the Trainer and peft write into one

_log = logging.getLogger(__name__)


def folder_of(directory: Path, step: int) -> Path:
    """Returns the folder of a step's checkpoint, as the Trainer names it."""
    return directory / f"checkpoint-{step}"


def begin(directory: Path, step: int) -> None:
    """Marks the folder of a checkpoint that is about to be written as ours, and as not written yet.

    Raises:
        UserError: there is another folder of that name.
        OSError: it cannot be written.
    """
    folder = folder_of(directory, step)
    if folder.exists() and _step(folder) is None:
        raise UserError(f"{folder}: is in the way of a checkpoint, and this run has not made it. Move it elsewhere.")
    write_whole(folder / MANIFEST, json.dumps({"step": step, "files": None}))


def complete(
    directory: Path, step: int, best_step: int | None, made_from: dict[str, Any], so_far: dict[str, Any]
) -> None:
    """Marks a checkpoint as whole.

    Args:
        directory: of the run.
        step: of the checkpoint.
        best_step: that of the best score so far.
        made_from: as of `Opened`.
        so_far: what the run has spent and found.
    """
    folder = folder_of(directory, step)
    files = {path.name: _stamp(path) for path in _written(folder)}
    content = {"step": step, "best_step": best_step, "made_from": made_from, "so_far": so_far, "files": files}
    write_whole(folder / MANIFEST, json.dumps(content, indent=2))


def remove(directory: Path, keep: Iterable[int | None] = ()) -> None:
    """Removes the run's own checkpoints but some, file by file, so that what a user put there stays."""
    kept = set(keep)
    for step, folder in _own(directory):
        if step in kept:
            continue
        for path in [*_written(folder), folder / MANIFEST]:
            path.unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()


def last_whole(directory: Path) -> Path | None:
    """Returns the latest checkpoint from which training can go on; None where there is none.

    An older one takes the place of one that is damaged, which is logged.

    Raises:
        UserError: there are only damaged ones.
    """
    problems: list[str] = []
    own = [folder for _, folder in reversed(_own(directory)) if manifest(folder)["files"] is not None]
    for folder in own:
        problem = _problem(folder)
        if problem is None:
            if problems:
                _log.warning("%s. Training goes on from %s.", problems[0], folder.name)
            return folder
        problems.append(problem)
    if problems:
        names = " and ".join(folder.name for folder in own)
        raise UserError(f"{problems[0]}. Remove {names} from {directory} to train from the start.")
    return None


def manifest(folder: Path) -> dict[str, Any]:
    """Returns what a checkpoint says of itself."""
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def _own(directory: Path) -> list[tuple[int, Path]]:
    """Returns step and folder of the run's own checkpoints, oldest first."""
    steps = ((_step(folder), folder) for folder in directory.glob("checkpoint-*"))
    return sorted((step, folder) for step, folder in steps if step is not None)


def _step(folder: Path) -> int | None:
    """Returns the step of a checkpoint of ours, None for another folder or file, such as a user's copy."""
    match = _NAME.fullmatch(folder.name)
    if match is None or folder.is_symlink() or not (folder / MANIFEST).is_file():
        return None
    try:
        content = manifest(folder)
        step, files = content["step"], content["files"]
        if files is not None:
            objects = (files, content["made_from"], content["made_from"].get("rows") or {})
            if "best_step" not in content or not all(isinstance(each, dict) for each in objects):
                raise ValueError("it lacks what whole checkpoints say of themselves")
        SoFar.model_validate(content.get("so_far") or {})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{folder}: its {MANIFEST} is damaged. Remove that folder; training goes on from another, or starts anew."
        ) from error
    return step if step == int(match[1]) else None


def _problem(folder: Path) -> str | None:
    """Returns what keeps training from going on at a checkpoint."""
    content = manifest(folder)
    problem = _damage(folder, content["files"])
    best = content["best_step"]
    if problem is not None or best in (None, content["step"]):
        return problem
    other = folder_of(folder.parent, best)  # its weights may be what the run ends with
    if _step(other) is None:
        return f"{other}: this checkpoint of the best score is missing"
    weights = SAFETENSORS_WEIGHTS_NAME
    return _damage(other, {weights: (manifest(other)["files"] or {}).get(weights)})


def _damage(folder: Path, files: dict[str, Any]) -> str | None:
    for name, stamp in files.items():
        if not (folder / name).is_file():
            return f"{folder}: {name} is missing"
        if _stamp(folder / name) != stamp:
            return f"{folder}: {name} is damaged"
    return None


def _written(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and _WRITTEN.fullmatch(path.name))


def _stamp(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": digest(path)}
