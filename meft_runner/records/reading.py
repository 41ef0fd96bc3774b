"""Files of JSON that others may have written: read with care, and refused in one line."""

import json
import math
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Never

from pydantic import ValidationError

from meft_runner.errors import UserError, printable


def content_and_text(path: Path, largest: int | None = None) -> tuple[dict[str, Any], str] | None:
    """Returns what a file of JSON holds, and its text; None where there is no file.

    Args:
        path: the file.
        largest: bytes that it may have; None for any.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no object of JSON with each name once and finite numbers alone.
    """
    try:
        about = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(about.st_mode):  # reading a pipe would wait for ever
        raise ValueError("not a regular file")
    if largest is not None and about.st_size > largest:
        raise ValueError(f"larger than {largest // 2**20} MiB")
    text = path.read_text(encoding="utf-8")
    content = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
    if not isinstance(content, dict):
        raise ValueError("not an object")
    return content, text


@contextmanager
def explaining(path: Path, what: str) -> Iterator[None]:
    """Explains what goes wrong inside as a file that is not what it should be, in one line.

    Raises:
        UserError: it is not.
    """
    try:
        yield
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        reason = f"{'.'.join(map(str, problem['loc'])) or 'record'}: {problem['msg']}"
    except RecursionError:
        reason = "nested too deep"
    except OSError as error:
        reason = error.strerror or str(error)
    except ValueError as error:
        reason = str(error)
    else:
        return
    raise UserError(f"{path}: not {what} of this program ({printable(reason[:200])}).")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(name for name in content if sum(name == key for key, _ in pairs) > 1)
        raise ValueError(f"{twice} is there twice")
    return content


def _refuse(text: str) -> Never:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large a number")
    return number
