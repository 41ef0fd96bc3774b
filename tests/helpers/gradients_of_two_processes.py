"""Run by torchrun in a test: DDP's gradients on two half batches against one process on the whole batch."""

import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from meft_runner.backbones.answers import IGNORED
from tests.helpers.models import batch, gradients, meft_settings, peft_settings, prepared

METHODS = {
    "meft1": meft_settings("meft1"),
    "meft1 that learns its merge": meft_settings("meft1", merge="learned", zero_start=True),
    "lora": peft_settings("lora", "off"),
    "lora reversed": peft_settings("lora", init_noise=0.1),
    "meft1 of a language model": meft_settings("meft1"),
}


def main():
    dist.init_process_group("gloo")
    for name, method in METHODS.items():
        compare(name, method)
    dist.barrier()
    # torch 2.13 can wait for ever when a DDP model is freed while a gloo thread waits for the interpreter's lock.
    os._exit(0)


kept = []  # models in DDP, for the same reason


def compare(name, method):
    rank, kind = dist.get_rank(), "llama-answers" if "language model" in name else "bert"
    whole = batch(kind, rows=8, padding=None)
    if kind != "bert":
        whole["labels"][:4, -2:] = IGNORED  # the first process has fewer tokens to learn

    alone = prepared(method, kind, dropout=0.0)
    alone(**whole).loss.backward()

    together = DistributedDataParallel(prepared(method, kind, dropout=0.0))
    kept.append(together)
    half = {key: tensor[4 * rank : 4 * rank + 4] for key, tensor in whole.items()}
    if kind == "bert":
        loss = together(**half).loss
    else:  # as the Trainer does, since DDP takes the mean of the gradients
        items = (whole["labels"][:, 1:] != IGNORED).sum()
        loss = together(**half, num_items_in_batch=items).loss * dist.get_world_size()
    loss.backward()

    expected = gradients(alone)
    for key, gradient in gradients(together.module).items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-5, atol=1e-5 * expected[key].abs().max().item())
    print(f"rank {rank}, {name}: {len(expected)} gradients agree", flush=True)


if __name__ == "__main__":
    main()
