"""One of several ranks with gloo: `python -m tests.llm.plan.two_ranks <ddp|fsdp> <folder>`.

Writes what it measured to <folder>/<rank>.json.
"""

import json
import os
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from llm.common.ranks import TIMEOUT
from llm.model.gpt import GPT
from llm.train.optim import AdamW
from tests import tiny
from tests.llm.plan.shapes import LENGTH, ROWS, SHAPE


class Messages(TorchDispatchMode):
    """Counts the bytes of the whole tensor of each collective operation; an all-reduce sends it twice."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        if "c10d" in name:
            tensors = [t for arg in args for t in (arg if isinstance(arg, (list, tuple)) else [arg])]
            sizes = [t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor)]
            self.bytes += max(sizes, default=0) * (2 if "allreduce" in name else 1)
        return func(*args, **(kwargs or {}))


def local(tensor):
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def size(tensors):
    return sum(local(tensor).numel() * tensor.element_size() for tensor in tensors)


def main() -> None:
    how, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=float(os.environ[TIMEOUT])))
    model = GPT(SHAPE)
    if how == "fsdp":
        for block in model.transformer.h:
            fully_shard(block)
        module = fully_shard(model)
    else:
        module = DistributedDataParallel(model)
    optimizer = AdamW(model, replace(tiny.TRAIN, batch_size=ROWS))
    for number in range(2):  # the first step is not like the others
        messages = Messages()
        with messages:
            module(torch.randint(SHAPE.vocab_size, (ROWS, LENGTH))).square().mean().backward()
        gradients = size(p.grad for p in model.parameters())
        if number == 0:
            optimizer.step(1e-3)
            optimizer.zero_grad()
    moments = size(t for name, t in optimizer.state().items() if not name.endswith(".step"))
    found = {"weights": size(model.parameters()), "gradients": gradients, "moments": moments}
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(found | {"messages": messages.bytes}))
    del module  # before the group: the last reference to it would wait for threads that wait for this one
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
