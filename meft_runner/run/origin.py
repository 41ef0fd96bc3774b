"""The earlier run with whose trained weights a run begins: found in its folder, and held against the run's settings.

Nothing heavy is imported here, so that a mistake is told at once.
"""

from dataclasses import replace
from glob import escape
from pathlib import Path
from typing import Any

from meft_runner.config import Settings, meaning
from meft_runner.config.fields import as_typed
from meft_runner.errors import UserError
from meft_runner.files import digest
from meft_runner.records.record import FILE_NAME
from meft_runner.records.schema import CompleteRecord
from meft_runner.run.finished import check_weights, complete_record, recorded_settings
from meft_runner.run.reuse import ADAPTER, WEIGHTS

KEY = "method.start_from"
_SHOWN = 10  # digits of the weights' digest that a run's settings have
# Settings of methods that say how a run trains and where it begins; all others make the model what it is.
_OF_TRAINING = {
    f"method.{name}"
    for name in (
        "started_from", "checkpointing", "reversal", "grid_bits", "chunks", "strict", "offload", "stored_layers",
        "budget", "dropout", "adapter_dropout", "init_constant", "init_noise", "zero_start",
    )
}  # fmt: skip


def with_origin(settings: Settings) -> Settings:
    """Returns settings that name the weights with which their run begins; those that begin anew as they are.

    Args:
        settings: with the folder of an earlier run, and where they are those of a record the name of its weights too.

    Raises:
        UserError: there is no such run, it is not complete, its weights are damaged or are not those of the record, or
            it has made another model than these settings do.
    """
    if settings.method.start_from is None:
        return settings
    directory = _found(settings)
    record = complete_record(directory, KEY)
    check_weights(directory, record, KEY)
    _check_same_model(settings, directory, record)
    name = origin_name(directory, record)
    then = settings.method.started_from
    if then not in (None, name):
        raise UserError(
            f"from_record={settings.from_record}: began with the weights {then} of {directory}, which now holds "
            f"{name}. Restore that run, or begin with the present one by {KEY}=."
        )
    return replace(settings, method=replace(settings.method, start_from=str(directory), started_from=name))


def origin_name(directory: Path, record: CompleteRecord) -> str:
    """Returns what tells a run's trained weights from others: its identity, and the beginning of their digest."""
    return f"{record.identity}-{weights_digest(directory, record)[:_SHOWN]}"


def weights_digest(directory: Path, record: CompleteRecord) -> str:
    """Returns the SHA-256 of a run's trained weights, which have been held against its record."""
    stamp = (record.files or {}).get(f"{ADAPTER}/{WEIGHTS}")
    return digest(directory / ADAPTER / WEIGHTS) if stamp is None else stamp.sha256


def _found(settings: Settings) -> Path:
    """Returns the folder of the earlier run; that of a record's settings may have moved to the other runs."""
    directory, name = Path(str(settings.method.start_from)), settings.method.started_from
    if name is None or (directory / FILE_NAME).is_file():
        return directory
    others = sorted(Path(settings.output_dir).glob(f"*-{escape(name.partition('-')[0])}/{FILE_NAME}"))
    return others[0].parent if others else directory


def _check_same_model(settings: Settings, directory: Path, record: CompleteRecord) -> None:
    """Makes sure that a run's trained weights have the same places, and mean the same, in the model of other settings.

    Raises:
        UserError: they have not; the message names what differs.
    """
    earlier = recorded_settings(directory, record, KEY)
    then, now = _model(earlier), _model(settings)
    for key in {**then, **now}:  # the backbone and the method's name first
        if then.get(key) != now.get(key):
            there, here = _typed(key, then, earlier), _typed(key, now, settings)
            raise UserError(
                f"{KEY}={directory}: trained with {there}, this run has {here}, which makes another model. Take "
                f"{there}, or begin with another run."
            )


def _model(settings: Settings) -> dict[str, Any]:
    """Returns the settings that make a run's model what it is, but for the backbone's weights themselves."""
    own = {
        key: value
        for key, value in meaning(settings).items()
        if key.startswith("method.") and key != "method.name" and key not in _OF_TRAINING
    }
    own |= {"method.reversal": None if settings.method.reverses else "off"}
    return {
        "backbone": settings.backbone.name, "backbone.repeat": settings.backbone.repeat or 1,
        "backbone.weights": settings.backbone.weights.name,
        "method": settings.method.name, **own,
    }  # fmt: skip


def _typed(key: str, model: dict[str, Any], settings: Settings) -> str:
    """Returns a setting and its value as they could be typed; one that is left out at its default has that."""
    if key == "method.reversal":
        return f"{key}={model.get(key) or 'exact'}"
    return f"{key}={model[key] if key in model else as_typed(getattr(settings.method, key.partition('.')[2], None))}"
