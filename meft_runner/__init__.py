"""Memory-efficient fine-tuning by reversible adapters (MEFT, arXiv 2306.00477)."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# What training loops of others call, by the module that has it; torch is imported when one of them is first used.
_INTERFACE = {
    "make_reversible": "reversal",
    "predict_memory": "memory",
    "reversal_report": "report",
    "save_adapter": "adapters",
    "load_adapter": "adapters",
}
__all__ = ["__version__", "load_adapter", "make_reversible", "predict_memory", "reversal_report", "save_adapter"]


def __getattr__(name: str) -> Any:
    if name not in _INTERFACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.api.{_INTERFACE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_INTERFACE})
