"""Errors that are the user's to mend, in one or two lines: the key, the value, what was expected, the fix."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from meft_runner.config.fields import settings_of
from meft_runner.config.methods import METHODS
from meft_runner.config.overrides import check_name
from meft_runner.config.run import Settings
from meft_runner.config.tasks import TASKS
from meft_runner.errors import UserError, first_line, nearest, reason_of

_SHOWN_HEAD, _SHOWN_TAIL = 260, 130  # characters of a long message: what was given stands first, the fix last
_EXTRAS = {"joblib": "joblib", "submitit_slurm": "slurm", "submitit_local": "slurm"}  # of ours, by Hydra's launcher
_HIDDEN = ("hydra", "_target_")  # nothing to set
_NOT_NULL = re.compile(r"^field '.*' is not Optional$")
_RESOLVING = re.compile(r"^UserError raised while resolving interpolation: ")


def explain(error: BaseException) -> str | None:
    """Returns an error that is the user's to mend in one or two lines, None where it is of another kind."""
    message = _message(error)
    return None if message is None else _shortened(message)


@contextmanager
def naming_paths(settings: Settings) -> Iterator[None]:
    """Names the setting where the system refuses a file or folder inside one that was set.

    Raises:
        UserError: it has refused one.
    """
    try:
        yield
    except OSError as error:
        for key, value, notes in settings_of(settings):
            if notes.path and value and error.filename and Path(value) in [p := Path(str(error.filename)), *p.parents]:
                raise UserError(f"{key}={value}: {_system_message(error)}") from error
        raise


def _message(error: BaseException) -> str | None:
    match error:
        case UserError():
            return str(error)
        case HydraException() | OmegaConfBaseException():
            return _config_message(error)
        case OSError():
            return _system_message(error)
        case UnicodeDecodeError():
            return f"a file is not UTF-8 text ({error.reason}, byte {error.start + 1}). Save it as UTF-8."
    if isinstance(error, MemoryError) or _is_torch_memory_error(error):
        return (
            "out of memory. Lower training.batch_size or task.max_length, or take method=lora method.reversal=exact or "
            "method=meft1; meft-memory backbone=... method=... fit=8GiB says what fits."
        )
    return None


def _is_torch_memory_error(error: BaseException) -> bool:
    """Tells by names, since torch takes seconds to import; on a CPU it has no class of its own for it."""
    on_gpu = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return on_gpu or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))


def _system_message(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{reason_of(error)}. A file or folder is in the way, missing, full or not readable."


def _config_message(error: HydraException | OmegaConfBaseException) -> str:
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        return _unknown_file(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) else error
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return _unknown_key(cause)
    key = f"{cause.full_key}: " if isinstance(cause, OmegaConfBaseException) and cause.full_key else ""
    return f"{key}{_NOT_NULL.sub('expected a value, not null', _RESOLVING.sub('', first_line(cause or error)))}."


def _unknown_file(error: MissingConfigException) -> str:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    if group == "hydra/launcher":
        extra = _EXTRAS.get(name)
        fix = f"pip install 'meft-runner[{extra}]'." if extra else "Install its plugin."
        return f"launcher: {name} is not installed. {fix}"
    try:
        check_name(group, name)
    except UserError as unknown:
        return str(unknown)
    return f"{group}={name}: its file in conf/ cannot be found."


def _unreadable(override: str) -> str:
    key, equals, value = override.partition("=")
    example = (
        f"'{key}=\"{value}\"'" if re.fullmatch(r"[\w.]+", key) and equals and '"' not in value else "'key=\"a b\"'"
    )
    return f"{override}: cannot be read as key=value. Quote a value with special characters: {example}."


def _unknown_key(cause: OmegaConfBaseException) -> str:
    key = str(cause.full_key)
    group, _, name = key.rpartition(".")
    parent = cause.parent_node
    known = sorted(name for name in map(str, parent) if name not in _HIDDEN) if isinstance(parent, DictConfig) else []
    schemas: dict[str, dict[str, type[Any]]] = {"method": {**METHODS}, "task": {**TASKS}}
    owners = [
        owner for owner, schema in schemas.get(group, {}).items() if name in {each.name for each in fields(schema)}
    ]
    if owners and isinstance(parent, DictConfig):
        having = ", ".join(owners) + (" tasks" if group == "task" else "")
        return f"{key}: {group}={parent.name} has no such setting ({having} have). Leave it out, or change the {group}."
    where = f"{group} has" if group else "there are"
    return f"{key}: no such setting, {nearest(name, known)}{where} {', '.join(known)}."


def _shortened(message: str) -> str:
    """Returns at most two lines, without what a terminal would obey and without the middle of what is very long."""
    text = "\n".join(message.splitlines()[:2])
    printable = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    if len(printable) <= _SHOWN_HEAD + _SHOWN_TAIL:
        return printable
    return f"{printable[:_SHOWN_HEAD]} ... {printable[-_SHOWN_TAIL:]}"
