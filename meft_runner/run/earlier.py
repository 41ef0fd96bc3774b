"""Settings of an earlier run, taken from its record for another seed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf.errors import OmegaConfBaseException

from meft_runner.config import BESIDE_THE_RESULT, Settings, from_plain
from meft_runner.config.checks import check
from meft_runner.errors import UserError
from meft_runner.records.record import FILE_NAME, read_own_record
from meft_runner.records.schema import Data, Record, Weights
from meft_runner.run.reuse import changed_base


def repeated(settings: Settings, overrides: Sequence[str]) -> Settings:
    """Returns the settings of the run that `from_record` names, with the seed of `settings`; else `settings`.

    Raises:
        UserError: there is no such run, its folder holds another one, or something else was asked for beside it.
    """
    if settings.from_record is None:
        return settings
    for override in overrides:
        if override.partition("=")[0].lstrip("+") not in ("seed", "launcher", *BESIDE_THE_RESULT):
            raise UserError(
                f"{override}: from_record takes all settings of that run but the seed. Leave out one of them."
            )
    record = _named(settings)
    kept = {name: getattr(settings, name) for name in ("seed", *BESIDE_THE_RESULT)}
    try:
        again = replace(from_plain(record.config.plain()), **kept)
    except (KeyError, TypeError, ValueError, OmegaConfBaseException) as error:
        raise UserError(f"from_record={settings.from_record}: its record has no settings of this program.") from error
    check(again)
    _check_versions(again, record)
    return again


def _check_versions(settings: Settings, record: Record) -> None:
    """Makes sure that what a run's settings are trained by now is what it was trained by.

    Raises:
        UserError: it is not, so that no seed beside that run's would come of them.
    """
    task = None if record.data is None else record.data.version
    versions = (
        (f"method={settings.method.name}", record.method_version, settings.method.version),
        (f"task={settings.task.name}", task, settings.task.version),
    )
    for what, then, now in versions:
        if then is not None and then != now:
            raise UserError(
                f"from_record={settings.from_record}: made with version {then} of {what}, this program has version "
                f"{now}. Train all seeds again by typing the settings."
            )


def check_rows(settings: Settings, data: Data) -> None:
    """Makes sure that the rows are those of the run that `from_record` names: its paths may lead elsewhere by now.

    Raises:
        UserError: they are others.
    """
    if settings.from_record is None:
        return
    earlier = _named(settings).data
    for name, then in ({} if earlier is None else earlier.splits).items():
        now = data.splits.get(name)
        if now is None or now.fingerprint != then.fingerprint:
            found = "missing" if now is None else now.fingerprint
            raise UserError(
                f"from_record={settings.from_record}: {name} rows are others than those of that run (fingerprint "
                f"{then.fingerprint} then, {found} now). Put them back, or leave out from_record."
            )


def check_backbone(settings: Settings, weights: Weights) -> None:
    """Makes sure of the same for the backbone: its weights, its tokenizer and the chat template.

    Raises:
        UserError: they are others.
    """
    if settings.from_record is None:
        return
    earlier = _named(settings)
    change, then = changed_base(settings, earlier), earlier.weights
    if change is None and then is not None:
        before, now = then.sha256 or then.revision, weights.sha256 or weights.revision
        change = f"weights {before[:8]} then, {str(now)[:8]} now" if before and before != now else None
    if change is not None:
        raise UserError(
            f"from_record={settings.from_record}: backbone={settings.backbone.name} is another than that of that run "
            f"({change}). Put its files back, or leave out from_record."
        )


def _named(settings: Settings) -> Record:
    """Returns the record of the run that `from_record` names."""
    folder = Path(settings.output_dir)
    names = (path.parent for path in sorted(folder.glob(f"*/{FILE_NAME}")))
    found = next((path for path in names if path.name.endswith(f"-{settings.from_record}")), None)
    record = None if found is None else read_own_record(found)
    if record is None:
        raise UserError(
            f"from_record={settings.from_record}: no run in {folder} has this identity. Give the last part of the "
            "name of a run's folder."
        )
    return record
