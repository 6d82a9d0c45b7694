"""Cross-entropy of a language-model head in which the gradient overwrites the logits.

With a vocabulary of 50,257 tokens, the largest tensors of a training step are the logits, their softmax and the
gradients of both. This loss allocates only one of them, in the precision of the matrix products. The forward pass
computes loss and gradient together for a chunk of rows at a time, while the chunk is in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CPU_CHUNK = 2**20  # logits in a chunk
GPU_CHUNK = 2**26
ALIGNMENT = 64  # 16-bit matrix products are slow if the vocabulary size is not a multiple of this
ChunkLoss = Callable[[Tensor, Tensor], Tensor]  # logits (N, V) and targets (N,) -> summed loss


def summed_cross_entropy(
    hidden: Tensor, head: nn.Module, targets: Tensor, chunk_loss: ChunkLoss | None = None
) -> Tensor:
    """`F.cross_entropy(head(hidden), targets, reduction="sum")` in fp32 for hidden states (N, C) and targets (N,).

    Section 5.1. All targets count, and `supports(hidden, head)` must hold. The result is equal up to rounding. Under
    autocast, the gradients of the logits are rounded to its precision, as they are without this function.
    `chunk_loss` is a compiled `loss_to_compile`, for training only.
    """
    if _without_gradients_on_cpu(hidden):
        return _sum_chunks(head(hidden), targets, partial(_chunk_loss, with_gradients=False))
    with_gradients = torch.is_grad_enabled()
    loss: Tensor = _HeadLoss.apply(hidden, head.weight, targets, with_gradients, chunk_loss)  # type: ignore[no-untyped-call]
    return loss


def supports(hidden: Tensor, head: nn.Module) -> bool:
    """Whether `summed_cross_entropy` works for this head.

    It works for a Linear layer without bias. On the CPU without gradients it works for every head.
    """
    return (type(head) is nn.Linear and head.bias is None) or _without_gradients_on_cpu(hidden)


def _without_gradients_on_cpu(hidden: Tensor) -> bool:
    return hidden.device.type == "cpu" and not torch.is_grad_enabled()


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, with_gradients: bool, chunk_loss: ChunkLoss | None
    ) -> Tensor:
        vocab_size, device = weight.shape[0], hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        x, w = hidden.to(dtype), _aligned(weight, dtype)
        logits = F.linear(x, w)  # (N, aligned vocabulary): the padding columns are 0
        total = _sum_chunks(
            logits[:, :vocab_size], targets, chunk_loss or partial(_chunk_loss, with_gradients=with_gradients)
        )
        if with_gradients:
            ctx.save_for_backward(x, w, logits)  # the logits are their gradients by now
            ctx.kinds = hidden.dtype, weight.dtype, vocab_size
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, w, logits_gradient = ctx.saved_tensors
        hidden_dtype, weight_dtype, vocab_size = ctx.kinds
        needs_hidden, needs_weight, *_ = ctx.needs_input_grad
        of_hidden = of_weight = None
        if needs_hidden:  # w.T @ logits_gradient.T is faster than logits_gradient @ w
            of_hidden = (w.T @ logits_gradient.T).T.to(hidden_dtype) * gradient
        if needs_weight:
            of_weight = logits_gradient.T @ x
            if len(of_weight) > vocab_size:  # autograd cannot add a tied embedding's gradient in place to a slice
                of_weight = of_weight[:vocab_size]
            of_weight = of_weight.to(weight_dtype).mul_(gradient)
        return of_hidden, of_weight, None, None, None


def _sum_chunks(logits: Tensor, targets: Tensor, chunk_loss: ChunkLoss) -> Tensor:
    """Sum `chunk_loss` over chunks of the rows of logits (N, V)."""
    most = max((CPU_CHUNK if logits.device.type == "cpu" else GPU_CHUNK) // logits.shape[1], 1)
    rows = 1 << (most.bit_length() - 1)  # batches are mostly multiples of powers of 2: only one shape to compile
    total = torch.zeros((), device=logits.device)
    for chunk, target in zip(torch.split(logits, rows), torch.split(targets, rows), strict=True):
        total += chunk_loss(chunk, target)
    return total


def _chunk_loss(logits: Tensor, targets: Tensor, with_gradients: bool) -> Tensor:
    """Summed loss of logits (N, V); `with_gradients` overwrites the logits with their gradients."""
    target = targets[:, None]
    p = torch.softmax(logits.float(), dim=-1)
    # the largest logit contributes exp(0) = 1 to the sum that softmax divides by
    log_sum = logits.amax(dim=-1, keepdim=True) - p.amax(dim=-1, keepdim=True).log()
    total = (log_sum - logits.gather(1, target)).sum()
    if with_gradients:
        logits.copy_(p.scatter_add_(1, target, -torch.ones_like(target, dtype=p.dtype)))
    return total


def loss_to_compile(logits: Tensor, targets: Tensor) -> Tensor:
    """`_chunk_loss` with gradients, written so that the compiled code makes one pass over each row.

    Without compilation this is slower than `_chunk_loss`.
    """
    wide, target = logits.float(), targets[:, None]
    top = wide.amax(dim=-1, keepdim=True)
    powers = torch.exp(wide - top)
    total = powers.sum(dim=-1, keepdim=True)
    loss = (top + total.log() - wide.gather(1, target)).sum()
    tokens = torch.arange(logits.shape[1], device=logits.device)
    logits.copy_(powers / total - (tokens == target).float())
    return loss


def _aligned(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """`weight` in `dtype`; a 16-bit copy gets rows of zeros up to a multiple of ALIGNMENT."""
    if dtype.itemsize > 2:
        return weight.to(dtype)
    vocab_size, width = weight.shape
    aligned = weight.new_empty(-(-vocab_size // ALIGNMENT) * ALIGNMENT, width, dtype=dtype)
    aligned[:vocab_size] = weight
    aligned[vocab_size:] = 0
    return aligned
