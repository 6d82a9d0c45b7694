"""The ranks of a training: processes that share each batch, and keep the same weights or a part of them each.

The micro-batches of a batch are numbered. Each rank computes a run of them. Losses, gradients and evaluations are sums
over all ranks, and dropout is seeded by the number of the micro-batch. So the results are those of one process, up to
the order of additions. See appendix A.9 for DistributedDataParallel; FSDP2 (`fully_shard`) keeps a part of the weights,
gradients and moments on each rank. Other work, such as answering prompts, is done in pieces (`Alone.each`).
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn

from llm.common.ranks import TIMEOUT
from llm.data.batches import IGNORED, Batch
from llm.model.gpt import Transformer
from llm.runtime.device import RuntimeConfig
from llm.train.divided import divided_like, whole

if TYPE_CHECKING:
    from llm.train.task import Loss, Sums

P = TypeVar("P")
R = TypeVar("R")


class Alone:
    """One process: the whole batch, the whole model."""

    rank, size = 0, 1
    sharded = False  # whether each rank has a part of the weights only

    def prepare(self, model: nn.Module, loss: Loss) -> tuple[nn.Module, Loss]:
        """The module whose parameters are trained, and the loss to call with it."""
        return model, loss

    def split(self, batch: Batch, size: int | None) -> Iterator[Batch]:
        """The micro-batches of all ranks: of `size` rows, or with None, one for each rank."""
        return batch.split(size or -(-len(batch.inputs) // self.size))

    def micro_batches(self, batch: Batch, size: int | None) -> list[tuple[int, Batch]]:
        """The micro-batches of this rank with their numbers in the batch."""
        return list(enumerate(self.split(batch, size)))

    def each(self, work: Callable[[P], R], pieces: Sequence[P]) -> list[R]:
        """`work` of each piece, in order. The ranks take turns: the first one does piece 0, the second one piece 1, ...

        A piece is computed as one process would, so its result has the same bits.
        """
        return [work(piece) for piece in pieces]

    def last(self, is_last: bool) -> None:
        """Say before each backward pass whether it is the last of an update."""

    def total(self, numbers: Tensor) -> Tensor:
        """The sums of `numbers` over all ranks."""
        return numbers

    def highest(self, number: int) -> int:
        """The highest `number` of all ranks."""
        return number

    def gather(self, model: nn.Module) -> None:
        """Copy the trained weights into the model of the task, on every rank."""

    @contextmanager
    def whole(self, model: nn.Module) -> Iterator[None]:
        """Inside the block, the model of the task can be used: it has the trained weights, on the device."""
        yield

    def scatter(self, model: nn.Module) -> None:
        """Copy the weights of the task's model into the trained module."""

    def end(self, model: nn.Module) -> None:
        """Leave the training with the task's model. On all ranks but the first, the process ends here."""

    def leave(self) -> None:
        """End the work on several ranks: of the processes, only the first one goes on."""


ALONE = Alone()


class Ranks(Alone):
    """One of several processes with the same task. Each method is called by all ranks, in the same order."""

    def __init__(self, runtime: RuntimeConfig) -> None:
        import torch.distributed as dist

        if not dist.is_initialized():
            seconds = timedelta(seconds=float(os.environ[TIMEOUT]))
            dist.init_process_group("nccl" if runtime.device == "cuda" else "gloo", timeout=seconds)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._device, self.sharded = runtime.device, runtime.sharding == "fsdp"
        self._module: Any = None  # what is called: DistributedDataParallel, or the sharded objective
        self._trained: nn.Module | None = None  # the sharded copy of the model; None with ddp

    def prepare(self, model: nn.Module, loss: Loss) -> tuple[nn.Module, Loss]:
        if self.sharded:
            plain = model.to("cpu")  # until `end`; first, so that the device never holds two whole models
            model = copy.deepcopy(plain).to(self._device)
            self._trained, self._module = model, _shard(Objective(model, loss), self._device, self.size)
        else:
            self._module = _replicate(Objective(model, loss))
        return model, lambda _model, batch: cast("Sums", self._module(batch))

    def micro_batches(self, batch: Batch, size: int | None) -> list[tuple[int, Batch]]:
        numbered = list(enumerate(self.split(batch, size)))
        each = -(-len(numbered) // self.size)
        mine = numbered[self.rank * each : (self.rank + 1) * each]
        while len(mine) < each:  # every rank makes the same number of passes
            mine.append((len(numbered), _empty(numbered[0][1])))
        return mine

    def each(self, work: Callable[[P], R], pieces: Sequence[P]) -> list[R]:
        import torch.distributed as dist

        found: list[list[R]] = [[] for _ in range(self.size)]
        dist.all_gather_object(found, [work(piece) for piece in pieces[self.rank :: self.size]])
        return [found[number % self.size][number // self.size] for number in range(len(pieces))]

    def last(self, is_last: bool) -> None:
        if not self.sharded:  # gradients are added up on each rank, and exchanged once
            self._module.require_backward_grad_sync = is_last

    def total(self, numbers: Tensor) -> Tensor:
        import torch.distributed as dist

        sums = numbers.to(self._device, torch.double)
        dist.all_reduce(sums)
        return sums

    def highest(self, number: int) -> int:
        import torch.distributed as dist

        found = torch.tensor(number, device=self._device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    @torch.no_grad()
    def gather(self, model: nn.Module) -> None:
        if self._trained is not None:
            trained = dict(self._trained.named_parameters())
            for name, parameter in model.named_parameters():
                parameter.copy_(whole(trained[name]))

    @contextmanager
    def whole(self, model: nn.Module) -> Iterator[None]:
        if self._trained is None:
            yield
            return
        self.gather(model)
        model.to(self._device)
        yield
        model.to("cpu")

    @torch.no_grad()
    def scatter(self, model: nn.Module) -> None:
        if self._trained is not None:
            trained = dict(self._trained.named_parameters())
            for name, parameter in model.named_parameters():
                trained[name].copy_(divided_like(trained[name], parameter))

    def end(self, model: nn.Module) -> None:
        self._trained = self._module = None
        model.to(self._device)
        self.leave()

    def leave(self) -> None:
        import torch.distributed as dist

        dist.destroy_process_group()
        if self.rank:
            raise SystemExit(0)


class Objective(nn.Module):
    """Model and loss as one module, so that all parameters are used within its forward pass."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Batch) -> Sums:
        return self.loss(self.model, batch)


def ranks_of(runtime: RuntimeConfig) -> Alone:
    """The ranks of this stage. Without a launcher, this process is the only one."""
    return Ranks(runtime) if runtime.ranks > 1 and "WORLD_SIZE" in os.environ else ALONE


def _replicate(objective: Objective) -> nn.Module:
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    def add(_state, bucket):  # type: ignore[no-untyped-def]  # DDP checks annotations, and refuses those in quotes
        """The sum over ranks; by default DDP takes the mean."""
        done = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
        return done.then(lambda future: future.value()[0])

    # of LoRA's gradients, which are transposed; they are copied
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    module = DistributedDataParallel(objective)
    module.register_comm_hook(None, add)
    return module


def _shard(objective: Objective, device: str, size: int) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(device, (size,))
    for module in list(objective.modules()):
        if isinstance(module, Transformer):  # elsewhere, a block may be used without calling it as a module
            for block in module.h:
                fully_shard(block, mesh=mesh)
    fully_shard(objective, mesh=mesh)
    for module in objective.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no mean
    return objective


def _empty(batch: Batch) -> Batch:
    """One row that counts nothing."""
    (row, *_rest) = batch.split(1)
    return replace(row, targets=torch.full_like(row.targets, IGNORED))
