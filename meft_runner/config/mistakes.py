"""Errors that are the user's to mend, in one or two lines: the key, the value, what was expected, the fix."""

from collections.abc import Iterable
from dataclasses import fields

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from meft_runner.config import METHODS, TASKS
from meft_runner.errors import UserError, nearest


def explain(error: BaseException) -> str | None:
    """Returns an error that is the user's to mend in one or two lines, None where it is of another kind."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _explain_config(error)
    if isinstance(error, OSError):
        return f"{error}. A file or folder is in the way, missing or not readable."
    return None


def _explain_config(error: Exception) -> str:
    if isinstance(error, MissingConfigException) and error.options is not None:
        return _unknown_choice(error)
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read as key=value. Quote a value with special characters: 'key=\"a b\"'."
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) else error
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return _unknown_key(cause)
    if isinstance(cause, ValidationError):
        return f"{cause.full_key}: {_first_line(cause)}."
    return _first_line(error)


def choices(options: Iterable[str]) -> list[str]:
    """Returns the names a user can choose: those that begin with _ are building blocks."""
    return sorted(name for name in options if not name.startswith("_"))


def _unknown_choice(error: MissingConfigException) -> str:
    group, _, name = (error.missing_cfg_file or "").partition("/")
    known = choices(error.options or ())
    return f"{group}={name}: there is no such {group}, {nearest(name, known)}expected {', '.join(known)}."


def _unknown_key(cause: OmegaConfBaseException) -> str:
    key = str(cause.full_key)
    group, _, name = key.rpartition(".")
    parent = cause.parent_node
    known = choices(map(str, parent)) if isinstance(parent, DictConfig) else []
    schemas: dict[str, type] = {"method": METHODS, "task": TASKS}.get(group, {})  # type: ignore[assignment]
    owners = [owner for owner, schema in schemas.items() if name in {field.name for field in fields(schema)}]
    if owners and isinstance(parent, DictConfig):
        having = ", ".join(owners) + (" tasks" if group == "task" else "")
        return f"{key}: {group}={parent.name} has no such setting ({having} have). Leave it out, or change the {group}."
    where = f"{group} has" if group else "there are"
    return f"{key}: no such setting, {nearest(name, known)}{where} {', '.join(known)}."


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
