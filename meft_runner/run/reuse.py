"""Whether a run that was made earlier is still what is asked for: its rows, its weights, and what it left.

A complete run is compared by the files that it was made from, which takes no second: size and time of change first,
and where these differ the digest. An interrupted run is compared by its rows, which are read anyway.
Nothing heavy is imported here.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from glob import glob
from pathlib import Path
from typing import Any

from meft_runner.config import Settings, TaskSettings
from meft_runner.errors import UserError
from meft_runner.files import digest
from meft_runner.records.schema import File, Record

ADAPTER = "adapter"  # the folder of trained weights, in that of the run
WEIGHTS = "adapter_model.safetensors"  # peft's name for their file, which takes seconds to import
_MODEL_FILES = re.compile(
    r"config\.json|preprocessor_config\.json|(model|pytorch_model).*\.(safetensors|bin|json)"
    r"|(added_|special_)?token.*\.(json|model)|vocab\.\w+|merges\.txt|sp(iece|m)\.model|chat_template\.jinja"
)
_BASE = ("backbone.path/", "task.chat_template/")
_ROWS = "task.data_dir/"
_WEIGHTS = (".safetensors", ".bin", ".index.json")
_INPUT_FILES = re.compile(r"backbone\.path/(?!config\.json|.*(\.safetensors|\.bin|index\.json)$)|task\.chat_template/")


def stamps_of_sources(settings: Settings) -> dict[str, File]:
    """Returns size, time of change and digest of every local file that a run reads, by the setting that names it."""
    return {name: _stamp(path) for name, path in _sources(settings)}


def stamps_of_adapter(directory: Path) -> dict[str, File]:
    """Returns the same of the trained weights in a run's folder."""
    return {name: _stamp(path) for name, path in _adapter_files(directory)}


def base_digests(record: Record) -> dict[str, str]:
    """Returns the digests of a run's chat template and of the files of its model's folder, but for weights."""
    stamps = record.files or {}
    return {
        name: each.sha256 for name, each in stamps.items() if name.startswith(_BASE) and not name.endswith(_WEIGHTS)
    }


def digest_of_inputs(settings: Settings) -> str | None:
    """Returns a digest of the local files that say how rows become tokens; None where there are none."""
    lines = [f"{digest(path)}  {name}\n" for name, path in _sources(settings) if _INPUT_FILES.match(name)]
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else None


def check_ended(settings: Settings, directory: Path, record: Record) -> None:
    """Makes sure that a run, complete or pruned, may stand for what is asked now.

    Files that are gone cannot be compared, and are no reason to train again; older records name none.

    Raises:
        UserError: it was made from other files, or its weights are gone or damaged.
    """
    version = record.data.version if record.data is not None else None
    if version is not None and version != settings.task.version:
        what, change = "prompts or preprocessing", f"version {version} then, {settings.task.version} now"
        raise _other_sources(directory, what, change, "to train with the present ones")
    stamps = record.files
    if stamps is None:
        return
    problem = damaged_weights(directory, record)
    if problem is not None:
        raise UserError(f"{directory}: {problem}. {_anew(directory, 'to train again')}")
    for name, path in _sources(settings):
        what = "weights" if name.startswith("backbone.") else "rows"
        if name not in stamps:
            if _split_of(name) in _test_splits(settings.task):  # which earlier versions have not looked at
                continue
            raise _other_sources(directory, what, f"{name} is new", "to use them")
        if _differs(path, stamps[name]):
            change = f"{name}: sha256 {stamps[name].sha256[:8]} then, {digest(path)[:8]} now"
            raise _other_sources(directory, what, change, "to use them")


def damaged_weights(directory: Path, record: Record) -> str | None:
    """Returns what is wrong with a run's trained weights, None where they are those that it has left."""
    adapter = dict(_adapter_files(directory))
    for name, then in (record.files or {}).items():
        if name.startswith(f"{ADAPTER}/") and (name not in adapter or _differs(adapter[name], then)):
            return f"{name} is gone or damaged"
    return None


def changed_base(settings: Settings, record: Record) -> str | None:
    """Returns how the files of a backbone and of a chat template differ from those that a run was made from.

    None where they are the same, or where the run has noted none of them. Weights that are gone are of no account, as
    those that are loaded are compared.
    """
    then = {name: stamp for name, stamp in (record.files or {}).items() if name.startswith(_BASE)}
    now = {name: path for name, path in _sources(settings) if name.startswith(_BASE)}
    of_folder = any(name.startswith(_BASE[0]) for name in then)
    for name, path in now.items():
        if name in then and _differs(path, then[name]):
            return f"{name}: sha256 {then[name].sha256[:8]} then, {digest(path)[:8]} now"
        if of_folder and name not in then:
            return f"{name} is new"
    gone = (name for name in then if name not in now and not name.endswith(_WEIGHTS))
    return next((f"{name} is gone" for name in gone if of_folder and settings.backbone.path is not None), None)


def check_unrecorded(directory: Path) -> None:
    """Makes sure that a run without a record has no trained weights, which would be replaced.

    Raises:
        UserError: it has.
    """
    if any(path.suffix == ".safetensors" for _, path in _adapter_files(directory)):
        raise UserError(
            f"{directory}: has trained weights in {ADAPTER}/, but no record.json. {_anew(directory, 'to train again')}"
        )


def check_interrupted(made_from: Mapping[str, Any], now: Mapping[str, Any], directory: Path) -> None:
    """Makes sure that training may go on from a checkpoint.

    Args:
        made_from: what it says of itself: the `identity` of its run, the fingerprints of its `rows` by split, the
            task's `version`, the digest of the backbone's `weights`, and that of what makes `inputs` of rows.
        now: the same of what is there now.
        directory: of the run.

    Raises:
        UserError: something differs.
    """
    then_rows, rows = made_from.get("rows") or {}, now.get("rows") or {}
    for split in {**then_rows, **rows}:
        if then_rows.get(split) != rows.get(split):
            change = f"{split}: fingerprint {then_rows.get(split)} then, {rows.get(split)} now"
            raise _other_sources(directory, "rows", change, "to train on the present rows")
    differing = {
        "identity": "settings",
        "version": "prompts or preprocessing",
        "weights": "weights",
        "inputs": "tokenizer or chat template",
    }
    for key, what in differing.items():
        if key == "inputs" and key not in made_from:  # of an earlier version, which did not look at them
            continue
        if made_from.get(key) != now.get(key):
            change = f"{key} {made_from.get(key)} then, {now.get(key)} now"
            raise _other_sources(directory, what, change, "to train with the present ones")


def _other_sources(directory: Path, what: str, change: str, why: str) -> UserError:
    """Returns the error of a run that was made from other rows or weights; `why` says what to begin anew for."""
    return UserError(f"{directory}: made from other {what} ({change}). {_anew(directory, why)}")


def _anew(directory: Path, why: str) -> str:
    return f"Remove that folder, or set output_dir to another than {directory.parent}, {why}."


def _sources(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Finds the local files that a run reads; the same settings read the same names."""
    if settings.backbone.path is not None:
        for path in _files_in(settings.backbone.path):
            if _MODEL_FILES.fullmatch(path.name):
                yield f"backbone.path/{path.name}", path
    task = settings.task
    for setting in ("train_file", "eval_file", "chat_template"):
        path = Path(getattr(task, setting, None) or "")
        if path.is_file():  # what is none is refused when it is read
            yield f"task.{setting}/{path.name}", path
    folder = getattr(task, "data_dir", None)
    if folder is not None:
        splits = [getattr(task, "train_split", ""), *getattr(task, "eval_splits", ()), *_test_splits(task)]
        for path in (Path(folder) / name for name in glob("**", root_dir=folder, recursive=True)):
            name = f"{_ROWS}{path.relative_to(folder).as_posix()}"
            if path.is_file() and _split_of(name) in splits:
                yield name, path


def _test_splits(task: TaskSettings) -> list[str]:
    """Returns the splits that are predicted for a leaderboard."""
    return list(getattr(task, "test_files", {}).values()) if getattr(task, "predict_test", False) else []


def _split_of(name: str) -> str:
    """Returns the split that a file of task.data_dir is of, a file itself or in a folder."""
    path = Path(name.removeprefix(_ROWS))
    return path.stem if len(path.parts) == 1 else path.parts[0]


def _files_in(folder: str) -> list[Path]:
    return sorted(path for path in Path(folder).glob("*") if path.is_file())


def _adapter_files(directory: Path) -> list[tuple[str, Path]]:
    return [(f"{ADAPTER}/{path.name}", path) for path in _files_in(str(directory / ADAPTER)) if path.suffix != ".md"]


def _stamp(path: Path) -> File:
    stat = path.stat()
    return File(bytes=stat.st_size, modified_ns=stat.st_mtime_ns, sha256=digest(path))


def _differs(path: Path, then: File) -> bool:
    stat = path.stat()
    if (stat.st_size, stat.st_mtime_ns) == (then.bytes, then.modified_ns):
        return False
    return stat.st_size != then.bytes or digest(path) != then.sha256
