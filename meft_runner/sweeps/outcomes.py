"""A sweep as a whole: what became of its runs, its best settings over more seeds, settings of earlier runs."""

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from meft_runner.config import BESIDE_THE_RESULT, METHODS, TASKS, BackboneSettings, Settings, TrainingSettings
from meft_runner.errors import UserError
from meft_runner.records.record import FILE_NAME, Record, read_complete_records, read_record
from meft_runner.run.folder import wait_for

_KEPT = ("logger=", "retry_failed=", "launcher=", "hydra/launcher=", "hydra.launcher.")  # for more seeds


class SweepNote(Callback):
    """Keeps the configuration of a sweep for what comes after it; Hydra itself tells nobody."""

    config: ClassVar[DictConfig | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Notes the configuration, without what is swept over."""
        SweepNote.config = config


@dataclass
class Outcome:
    """What became of one run of a sweep, which may have been in a process or on a machine of its own.

    Attributes:
        name: of the run's folder; what was typed for it where that makes no run.
        error: why it failed, None where it did not.
        code: as of a command.
    """

    name: str
    error: str | None = None
    code: int = 0


def note(outcome: Outcome, sweep_dir: Path, number: int) -> None:
    """Leaves the outcome of the sweep's run of this number for the process that began the sweep."""
    temporary = sweep_dir / f"{number}.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
    temporary.replace(sweep_dir / f"{number}.json")


def outcomes(sweep_dir: Path, output_dir: Path) -> list[Outcome]:
    """Returns the outcomes of a sweep in the order of its runs; one that had failed before is a failure too."""
    paths = sorted(sweep_dir.glob("*.json"), key=lambda path: int(path.stem))
    found = [Outcome(**json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    for outcome in found:
        record = _read(output_dir / outcome.name) if outcome.error is None else None
        if record is not None and record["status"] == "failed":
            outcome.error, outcome.code = record["error"], 1
    return found


def forget(sweep_dir: Path) -> None:
    """Removes what a sweep left besides its runs."""
    shutil.rmtree(sweep_dir, ignore_errors=True)
    with suppress(OSError):
        sweep_dir.parent.rmdir()  # unless another sweep is using it


def complete_records(found: Sequence[Outcome], output_dir: Path) -> list[Record]:
    """Returns the records of a sweep's complete runs, after waiting for those that another sweep is running."""
    directories = [output_dir / name for name in dict.fromkeys(one.name for one in found if one.error is None)]
    for directory in directories:
        record = _read(directory)
        if record is None or record["status"] == "running":
            wait_for(directory)
    return read_complete_records(directories)


def seed_arguments(
    chosen: Sequence[Record], seeds: Sequence[int], output_dir: Path, arguments: Sequence[str]
) -> list[str]:
    """Returns the arguments of a sweep that runs the settings of records over seeds.

    Args:
        chosen: a record of each setting.
        seeds: the seeds.
        output_dir: the folder of the records, and of these runs.
        arguments: those of the sweep before; what launches and follows runs is taken from them.
    """
    identities = ",".join(_quoted(record["identity"]) for record in chosen)
    kept = [argument for argument in arguments if argument.startswith(_KEPT)]
    folder = _quoted(str(output_dir))
    return ["-m", f"from_record={identities}", f"seed={','.join(map(str, seeds))}", f"output_dir={folder}", *kept]


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
    try:
        return replace(from_plain(record["config"]), **kept)
    except (KeyError, TypeError, ValueError, OmegaConfBaseException) as error:
        raise UserError(f"from_record={settings.from_record}: its record has no settings of this program.") from error


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
