"""The folder of an adapter: its weights, and what is said of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from peft import PeftType
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from meft_runner.errors import UserError, first_line, reason_of
from meft_runner.methods.base_model import is_description
from meft_runner.methods.weights import COUPLING_NAME
from meft_runner.records.record import FILE_NAME, read_record


@dataclass(frozen=True)
class AdapterFolder:
    """What is read from an adapter's folder.

    Attributes:
        path: where it is.
        kind: what peft calls its method, as lora; None where the adapter is MEFT's.
        method: the settings that it was trained with; none where peft alone knows them.
        base: what it says of its base model, see `description_of`; none where it says nothing.
        weights: by name.
    """

    path: Path
    kind: str | None
    method: Mapping[str, Any]
    base: Mapping[str, Any]
    weights: dict[str, Tensor]

    @property
    def coupled(self) -> bool:
        """Whether its layers ran in a reversible coupling."""
        return self.method.get("reversal", "off") != "off"


def folder_of(path: Any) -> Path:
    """Returns the folder that a caller means.

    Raises:
        UserError: it is no path.
    """
    if not isinstance(path, str | PathLike):
        raise UserError(f"folder: expected the path of a folder, not {type(path).__name__}.")
    return Path(path)


def read_adapter(folder: Path) -> AdapterFolder:
    """Reads the folder that `save_adapter` or a run has left, or peft.

    Raises:
        UserError: a file is missing or damaged.
    """
    if not folder.is_dir():
        raise UserError(f"folder={folder}: there is no such folder. Give one that save_adapter or a run has left.")
    config = _read_json(folder / CONFIG_NAME)
    kind = str(config.get("peft_type"))
    of_peft = kind in PeftType.__members__
    described = config
    if "method" not in config and (folder / COUPLING_NAME).is_file():
        described = _read_json(folder / COUPLING_NAME)
    method = described.get("method") or _of_run(folder)
    if not isinstance(method, dict) or (not of_peft and "name" not in method):
        raise UserError(f"folder={folder}: its {CONFIG_NAME} names no method. Give a folder as it was saved.")
    base = described.get("base") or {}
    if base and not is_description(base):
        raise UserError(f"folder={folder}: what it says of its base model is damaged. Give a folder as it was saved.")
    file = folder / SAFETENSORS_WEIGHTS_NAME
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"folder={folder}: {file.name} cannot be read ({first_line(error)}).") from error
    return AdapterFolder(folder, kind.lower() if of_peft else None, method, base, weights)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"folder={file.parent}: {file.name} cannot be read ({reason_of(error)}).") from error
    if not isinstance(content, dict):
        raise UserError(f"folder={file.parent}: {file.name} is no description of an adapter.")
    return content


def _of_run(folder: Path) -> Any:
    """Returns the settings in the record beside a run's folder of weights; none where there is no record."""
    if not (folder.resolve().parent / FILE_NAME).is_file():
        return {}
    record = read_record(folder.resolve().parent)
    return {} if record is None else record.config.plain().get("method", {})
