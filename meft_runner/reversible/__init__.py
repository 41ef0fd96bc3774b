"""The reversible engine: stacks of coupled blocks whose activations are rebuilt in backward.

Usable by itself: it imports torch and nothing else of this project.
"""

from meft_runner.reversible.block import BlockInputs, ReversibleBlock, TokenwiseModule
from meft_runner.reversible.coupling import Coupling
from meft_runner.reversible.monitor import ReversalError, ReversalMonitor, StreamOverflowError
from meft_runner.reversible.stack import ReversibleStack
from meft_runner.reversible.stages import Stage
from meft_runner.reversible.streams import MODES, ExactStreams, FloatStreams

__all__ = [
    "MODES",
    "BlockInputs",
    "Coupling",
    "ExactStreams",
    "FloatStreams",
    "ReversalError",
    "ReversalMonitor",
    "ReversibleBlock",
    "ReversibleStack",
    "Stage",
    "StreamOverflowError",
    "TokenwiseModule",
]
