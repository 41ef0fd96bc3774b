"""Errors of torch and of the engine that a run's settings cause, in one line each."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import psutil
import torch

from meft_runner.config import MethodSettings, PeftSettings, Settings
from meft_runner.config.methods import OFFLOAD
from meft_runner.errors import UserError
from meft_runner.reversible.monitor import StreamOverflowError

_GIB = 2**30
_WORDS = ("can't allocate memory", "out of memory", "alloc_failed")  # of torch's plain RuntimeErrors


@contextmanager
def explaining(too_large: Callable[[], UserError]) -> Iterator[None]:
    """Explains what goes wrong inside where what was asked for is to blame.

    Args:
        too_large: makes what is said where memory ran out.

    Raises:
        UserError: memory ran out, or the streams of a reversible model grew too large.
    """
    try:
        yield
    except StreamOverflowError as error:
        raise UserError(str(error)) from error
    except (MemoryError, RuntimeError) as error:
        if not is_of_memory(error):
            raise
        raise too_large() from error


def explained(settings: Settings, device: torch.device) -> AbstractContextManager[None]:
    """Explains what goes wrong inside where a run's settings are to blame: see `explaining`."""
    return explaining(lambda: out_of_memory(settings, device))


def out_of_memory(settings: Settings, device: torch.device) -> UserError:
    """Returns what to say and to try where a run does not fit into memory."""
    reversible, question = _with_reversal(settings.method)
    batch = settings.training.batch_size
    smaller = [f"training.batch_size={batch // 2}"] if batch > 1 else []
    scored = settings.training.rows_scored_at_once
    sizes = f"training.batch_size={batch}"
    if scored > batch:
        sizes += f", training.eval_batch_size={scored}"
        smaller.append(f"training.eval_batch_size={batch}")
    backbone, method = settings.backbone.name, settings.method.name
    ways = [*reversible, *smaller] if isinstance(settings.method, PeftSettings) else [*smaller, *reversible]
    on_gpu, moves = device.type == "cuda", _moves_to_host(settings.method)
    if on_gpu and not moves and _is_exact(settings.method):
        ways = ["method.offload=true", *ways]
    total = torch.cuda.get_device_properties(device).total_memory if on_gpu else psutil.virtual_memory().total
    return UserError(
        f"out of memory: {backbone} with method={method} and {sizes} does not fit into this "
        f"{'GPU' if on_gpu else 'machine'}{', or what waits on the host not into its memory' if moves else ''}. "
        f"Try {' or '.join(ways) or 'a smaller model'}; "
        f"meft-memory backbone={backbone} {question} fit={total // _GIB}GiB tells what fits."
    )


def _with_reversal(method: MethodSettings) -> tuple[list[str], str]:
    """Returns settings with which layers keep no activations, and how to ask what they need."""
    if method.reverses:
        return [], f"method=[{','.join(dict.fromkeys([method.name, 'meft1']))}]"
    if isinstance(method, PeftSettings):
        return ["method.reversal=exact", "method=meft1"], f"method=[{method.name},meft1] method.reversal=exact"
    return ["method=meft1"], f"method=[{method.name},meft1]"


def _is_exact(method: MethodSettings) -> bool:
    reversal = getattr(method, "reversal", None)
    return reversal is not None and reversal.name == "exact"


def _moves_to_host(method: MethodSettings) -> bool:
    """Tells whether what a method keeps for backward waits in the host's memory, which may run out too."""
    return getattr(method, "offload", False) or getattr(method, "checkpointing", False) == OFFLOAD


def free_memory() -> int:
    """Returns the bytes of the machine's memory that are free."""
    return psutil.virtual_memory().available


def is_of_memory(error: BaseException) -> bool:
    """Tells whether an error says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(error).lower() for words in _WORDS)
