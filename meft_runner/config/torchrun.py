"""What torchrun and its like say in the environment: how many processes train together, and which one this is."""

import os

from meft_runner.errors import UserError

_TOGETHER = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # all of them, or each trains alone


def process_count() -> int:
    """Returns how many processes train together.

    Raises:
        UserError: the environment says something else than torchrun would.
    """
    count = _number("WORLD_SIZE", 1)
    missing = [name for name in _TOGETHER if not os.environ.get(name)]
    if (count > 1 or _number("LOCAL_RANK", -1) >= 0) and missing:
        raise UserError(
            f"WORLD_SIZE={count}: {', '.join(missing)} not set beside it in the environment. "
            "Start several processes with torchrun, or unset WORLD_SIZE and LOCAL_RANK."
        )
    if rank() >= max(count, 1):  # what the first process alone tells and writes would be lost
        raise UserError(f"RANK={rank()}: expected 0 to {count - 1} with WORLD_SIZE={count}. Unset it without torchrun.")
    return count


def rank() -> int:
    """Returns which of the processes this is; the first, 0, prints and writes for all.

    Raises:
        UserError: the environment says something else than torchrun would.
    """
    return _number("RANK", 0)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name)
    if text is None:
        return default
    if not text.isdecimal() and text != str(default):
        raise UserError(f"{name}={text}: expected a number in the environment. torchrun sets it; unset it otherwise.")
    return int(text)
