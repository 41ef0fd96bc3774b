"""A sweep as a whole: settings of earlier runs, what failed, and the best settings over more seeds."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from meft_runner.errors import UserError
from meft_runner.records.record import FILE_NAME, Record, read_record
from meft_runner.settings import BESIDE_THE_RESULT, METHODS, TASKS, BackboneSettings, Settings, TrainingSettings

_KEPT = ("logger=", "retry_failed=", "launcher=", "hydra/launcher=", "hydra.launcher.")  # for more seeds


class SweepNote(Callback):
    """Keeps the configuration of a sweep for what comes after it; Hydra itself tells nobody."""

    config: ClassVar[DictConfig | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Notes the configuration, without what is swept over."""
        SweepNote.config = config


def failures(output_dir: Path) -> dict[str, str]:
    """Returns why runs in a folder failed, by the name of the run."""
    records = {path.parent.name: _read(path.parent) for path in sorted(output_dir.glob(f"*/{FILE_NAME}"))}
    return {name: record["error"] for name, record in records.items() if record and record["status"] == "failed"}


def run_seeds(chosen: Sequence[Record], seeds: Sequence[int], output_dir: Path, arguments: Sequence[str]) -> int:
    """Runs the settings of records over seeds, as a sweep of its own that skips what is there.

    Args:
        chosen: a record of each setting.
        seeds: the seeds.
        output_dir: the folder of the records, and of these runs.
        arguments: those of the sweep before; what launches and follows runs is taken from them.

    Returns:
        The sweep's exit code.
    """
    identities = ",".join(_quoted(record["identity"]) for record in chosen)
    kept = [argument for argument in arguments if argument.startswith(_KEPT)]
    folder = _quoted(str(output_dir))
    sweep = [f"from_record={identities}", f"seed={','.join(map(str, seeds))}", f"output_dir={folder}", *kept]
    return subprocess.run([sys.executable, "-m", "meft_runner", "-m", *sweep], check=False).returncode


def repeated(settings: Settings, overrides: Sequence[str]) -> Settings:
    """Returns the settings of the run that `from_record` names, with the seed of `settings`; else `settings`.

    Args:
        settings: as they were asked for.
        overrides: what was typed for them.

    Raises:
        UserError: there is no such run, or something else was asked for beside it.
    """
    if settings.from_record is None:
        return settings
    for override in overrides:
        if override.partition("=")[0].lstrip("+") not in ("seed", "launcher", *BESIDE_THE_RESULT):
            raise UserError(
                f"{override}: from_record takes all settings of that run but the seed. Leave out one of them."
            )
    folder = Path(settings.output_dir)
    found = next(iter(folder.glob(f"*-{settings.from_record}/{FILE_NAME}")), None)
    record = None if found is None else read_record(found.parent)
    if record is None:
        raise UserError(
            f"from_record={settings.from_record}: no run in {folder} has this identity. Give the last part of the "
            "name of a run's folder."
        )
    kept = {name: getattr(settings, name) for name in ("seed", *BESIDE_THE_RESULT)}
    return replace(from_plain(record["config"]), **kept)


def from_plain(content: dict[str, Any]) -> Settings:
    """Returns typed settings of a record's config; undoes `settings.plain`."""
    names = set(content["task"])
    possible = [schema for schema in TASKS.values() if names <= {field.name for field in fields(schema)}]
    schemas = {
        "backbone": BackboneSettings,
        "task": min(possible, key=lambda schema: len(fields(schema))),
        "method": METHODS[content["method"]["name"]],
        "training": TrainingSettings,
    }
    typed = {name: OmegaConf.merge(OmegaConf.structured(schema), content[name]) for name, schema in schemas.items()}
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Settings), content | typed))  # type: ignore[return-value]


def _quoted(text: str) -> str:
    """Returns a value that Hydra reads as this text: 12e3456789 is a name and no number."""
    return "'" + text.replace("'", r"\'") + "'"


def _read(directory: Path) -> Record | None:
    try:
        return read_record(directory)
    except UserError:
        return None
