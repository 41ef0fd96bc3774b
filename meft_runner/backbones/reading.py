"""Where transformers, tokenizers and torch read a user's files: what goes wrong there is told in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import shorten

import torch
from huggingface_hub.errors import StrictDataclassError

from meft_runner.backbones.sources import refused
from meft_runner.config import BackboneSettings
from meft_runner.errors import UserError

_LONGEST_REASON = 200  # characters


@contextmanager
def reading(backbone: BackboneSettings, source: str, what: str) -> Iterator[None]:
    """Explains what goes wrong inside as something about a backbone's files.

    Inside, libraries read files that a user provided and nothing of ours computes. They raise whatever their code
    runs into, tokenizers plain `Exception`s, so that every class is caught; only memory is not the files' fault.

    Args:
        backbone: the backbone's settings.
        source: what `find_source` returned.
        what: is read: weights, configuration, tokenizer, image processor.

    Raises:
        UserError: anything went wrong.
    """
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise refused(backbone, source, f"its {what} cannot be loaded ({_reason(error, source)})") from error


def _reason(error: BaseException, source: str) -> str:
    """Returns what an error says in a part of a line; messages of some libraries are pages long."""
    if isinstance(error, StrictDataclassError) and error.__cause__ is not None:
        error = error.__cause__  # around it stands the same once more
    text = shorten(str(error).replace(f"{source}/", ""), _LONGEST_REASON, placeholder="...").rstrip(".")
    says_enough = " " in text
    return text if says_enough else f"{type(error).__name__}: {text}".rstrip(": ")
