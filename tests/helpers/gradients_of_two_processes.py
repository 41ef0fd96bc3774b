"""Run by torchrun in a test: DDP's gradients on two half batches against one process on the whole batch."""

import os
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from meft_runner.config import LoraSettings
from tests.helpers.models import batch, gradients, meft_settings, prepared


def main(method_name):
    method = LoraSettings(name="lora", learning_rate=1e-3) if method_name == "lora" else meft_settings("meft1")
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    whole = batch(rows=8, padding=None)

    alone = prepared(method, dropout=0.0)
    alone(**whole).loss.backward()

    together = DistributedDataParallel(prepared(method, dropout=0.0))
    half = {name: tensor[4 * rank : 4 * rank + 4] for name, tensor in whole.items()}
    together(**half).loss.backward()

    expected = gradients(alone)
    for name, gradient in gradients(together.module).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-5 * expected[name].abs().max().item())
    print(f"rank {rank}: {len(expected)} gradients agree", flush=True)
    dist.barrier()
    # torch 2.13 can wait for ever when a DDP model is freed while a gloo thread waits for the interpreter's lock.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
