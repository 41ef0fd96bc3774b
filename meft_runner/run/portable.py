"""What a run's adapter folder says to other machines: where the base model is had, and nothing of this one."""

import json
from pathlib import Path
from typing import Any

from peft.utils import CONFIG_NAME

from meft_runner.config import Settings
from meft_runner.methods.weights import COUPLING_NAME
from meft_runner.records.schema import Record

CARD_NAME = "README.md"  # of a model card, by which the hub and peft know it
DESCRIPTIONS = (CONFIG_NAME, COUPLING_NAME)  # of weights, and of how layers of peft's methods were coupled


def base_name(settings: Settings) -> str | None:
    """Returns the hub's name of the base model; None for a local folder, which may hold any model."""
    return settings.backbone.hub if settings.backbone.path is None else None


def write_portable(folder: Path, settings: Settings, record: Record, card: str) -> None:
    """Writes the model card of trained weights, and their configuration as any machine reads it.

    Args:
        folder: holds them; it is changed.
        settings: of the run.
        record: of the run.
        card: the model card.

    Raises:
        OSError: a file cannot be written.
    """
    for name in DESCRIPTIONS:
        if (folder / name).is_file():
            text = portable_text((folder / name).read_text(encoding="utf-8"), settings, record)
            (folder / name).write_text(text, encoding="utf-8")
    (folder / CARD_NAME).write_text(card, encoding="utf-8")


def portable_text(text: str, settings: Settings, record: Record) -> str:
    """Returns a description of weights without what is of this machine or of this program alone.

    Args:
        text: a JSON object, as it was written for the model of a run, whose base has the path of a folder there.
        settings: of the run.
        record: of the run, which knows the commit of its base.

    Raises:
        ValueError: it is no JSON object.
    """
    content: Any = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    commit = None if record.weights is None else record.weights.revision
    content |= {"base_model_name_or_path": base_name(settings), "revision": commit}
    library = str((content.get("auto_mapping") or {}).get("parent_library"))
    if library.startswith("meft_runner"):
        content["auto_mapping"] = None  # a class of ours, which would be imported by name where the folder is loaded
    if isinstance(content.get("method"), dict):
        content["method"].pop("start_from", None)
    return json.dumps(content, indent=2, sort_keys=True) + "\n"
