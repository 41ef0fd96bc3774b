"""One run: composed, trained, recorded, and what it leaves.

What conf/ reads from the table of variants (`composing`) is known as soon as anything here is imported, also in the
processes that a launcher starts.
"""

from meft_runner.run import composing

__all__ = ["composing"]
