"""Trains small models on a device that is not the CPU: tensors that are left on the CPU are errors.

Torch makes up a device for which only shapes are computed. It stays known to the process, which is therefore one of
its own: `python -m tests.helpers.second_device bert llama`.
"""

import sys

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from meft_runner.memory.fake import SilentMonitor
from meft_runner.methods.layers import reversible_stacks
from tests.helpers.models import batch, meft_settings, peft_settings, prepared

NAME = "elsewhere"
METHODS = {
    "meft1": lambda: meft_settings("meft1"),
    "meft2 stored": lambda: meft_settings("meft2", "stored"),
    "meft3 learned": lambda: meft_settings("meft3", merge="learned"),
    "meft3 chunks": lambda: meft_settings("meft3", chunks=8),  # of rows and of tokens
    "meft1 float": lambda: meft_settings("meft1", "float"),
    "meft1 kept": lambda: meft_settings("meft1", stored_layers=1),
    "lora": lambda: peft_settings("lora", scale_1="1/16", chunks=8),
}


class Module(_DummyBackendModule):
    """What torch asks a device for besides."""

    def get_amp_supported_dtype(self):
        return [torch.bfloat16]


def train(kind, method):
    """Runs a forward and a backward pass, of which all that is left must be on the device."""
    model, inputs = prepared(METHODS[method](), kind), batch(kind)
    for stack in reversible_stacks(model):
        stack.monitor = SilentMonitor()  # there are no values to check
    with FakeTensorMode():
        move(model)
        there = {name: like(tensor) for name, tensor in inputs.items()}
        loss = model(**there).loss
        loss.backward()
    left = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert left
    assert {tensor.device.type for tensor in (loss, *left)} == {NAME}


def move(model):
    made = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    made.setdefault(id(tensor), (tensor, moved(tensor)))
                    tensors[name] = made[id(tensor)][1]


def moved(tensor):
    new = like(tensor)
    return torch.nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else new


def like(tensor):
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=NAME)


if __name__ == "__main__":
    _setup_privateuseone_for_python_backend(NAME, Module())
    for each in sys.argv[1:]:
        for method in METHODS:
            train(each, method)
            print(each, method, flush=True)
