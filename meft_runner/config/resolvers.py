"""What conf/ computes; imported for its effect, also by the processes that a launcher starts."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

from omegaconf import OmegaConf

from meft_runner.config.compatibility import help_text
from meft_runner.config.torchrun import process_count


def times(factor: float, value: float) -> float:
    """Returns the product, of decimal numbers: 3 times 1e-4 is 3e-4."""
    return float(f"{factor * value:.12g}")


def share(part: float, whole: int) -> int:
    """Returns a part of a number of layers: 0.25 of 24 is 6."""
    return int(part * whole)


def pick(level: float, values: Sequence[Any]) -> Any:
    """Returns the value of a level: the first one of 0, and the last one beyond the end."""
    return values[min(int(level), len(values) - 1)]


_SMALL = ("cola", "mrpc", "rte", "stsb")  # GLUE's tasks of up to 10,000 rows, which need more epochs


def by_size(task: str, small: Any, large: Any) -> Any:
    """Returns the value for small tasks, or that for large ones."""
    return small if task in _SMALL else large


def by_task(task: str, values: Mapping[str, Any], other: Any) -> Any:
    """Returns the value that stands beside a task's name, or that for all others."""
    return values.get(task, other)


def processes() -> int | None:
    """Returns how many processes torchrun has started to train together; None for one alone."""
    count = process_count()
    return count if count > 1 else None


def register_variants(table: Mapping[str, Mapping[Any, Any]]) -> None:
    """Makes `${variant:meft1,scale_1}` an entry of a table, and `${variant:meft1,merge,post}` one deeper inside."""

    def variant(*keys: Any) -> Any:
        entry = reduce(lambda found, key: found[key], keys, table)
        return list(entry) if isinstance(entry, tuple) else entry  # OmegaConf has no tuples

    OmegaConf.register_new_resolver("variant", variant, replace=True)


OmegaConf.register_new_resolver("meft_compatibility", help_text, replace=True)  # for the help text
OmegaConf.register_new_resolver("processes", processes, replace=True)
OmegaConf.register_new_resolver("times", times, replace=True)
OmegaConf.register_new_resolver("pick", pick, replace=True)
OmegaConf.register_new_resolver("share", share, replace=True)
OmegaConf.register_new_resolver("by_size", by_size, replace=True)
OmegaConf.register_new_resolver("by_task", by_task, replace=True)
