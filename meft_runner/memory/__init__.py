"""The memory of a training step: followed on a CPU, read off the allocator on CUDA, or predicted from shapes."""

from meft_runner.memory.meters import CudaMeter, Meter, TrackedMeter
from meft_runner.memory.probe import meter_for, probe
from meft_runner.memory.step import AUTOCAST, StepMemory, measure_step, tensor_bytes
from meft_runner.memory.training import TrainingStep, training_step

__all__ = [
    "AUTOCAST",
    "CudaMeter",
    "Meter",
    "StepMemory",
    "TrackedMeter",
    "TrainingStep",
    "measure_step",
    "meter_for",
    "probe",
    "tensor_bytes",
    "training_step",
]
