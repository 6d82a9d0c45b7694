"""The cross-entropy of a language-model head, whose logits become their own gradient where they stand.

A head over 50,257 words makes the largest tensors of a training step: logits, their softmax, and the gradients of both.
Here there is one of them, in the precision of the matrix products. The loss of some rows at a time, while these are in
the cache, needs nothing else; and what the way back needs of the logits is known with the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CACHED = 2**20  # logits that a CPU looks at in one go
LAUNCHED = 2**26  # and an accelerator
ALIGNED = 64  # words: rows of other widths are slow to multiply in 16 bits
OfLogits = Callable[[Tensor, Tensor], Tensor]  # (N, words) and targets (N,) -> what is summed over them


def summed_cross_entropy(hidden: Tensor, head: nn.Module, targets: Tensor, one_pass: OfLogits | None = None) -> Tensor:
    """`F.cross_entropy(head(hidden), targets, reduction="sum")` for hidden states (N, C) and targets (N,), in fp32.

    Section 5.1. All targets count, and `head` is one that `fits`. Equal up to rounding; under autocast the gradient of
    each logit is rounded to that precision, as it is without this. `one_pass` is `in_one_pass` compiled: for
    training, it takes the place of several steps.
    """
    if _on_cpu_without_gradients(hidden):
        return _summed(head(hidden), targets, partial(_of_rows, with_gradients=False))
    with_gradients = torch.is_grad_enabled()
    loss: Tensor = _HeadLoss.apply(hidden, head.weight, targets, with_gradients, one_pass)  # type: ignore[no-untyped-call]
    return loss


def fits(hidden: Tensor, head: nn.Module) -> bool:
    """Whether that is for this head: a plain Linear without bias, or any that a CPU only asks for its logits."""
    return (type(head) is nn.Linear and head.bias is None) or _on_cpu_without_gradients(hidden)


def _on_cpu_without_gradients(hidden: Tensor) -> bool:
    return hidden.device.type == "cpu" and not torch.is_grad_enabled()


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, with_gradients: bool, one_pass: OfLogits | None
    ) -> Tensor:
        words, device = weight.shape[0], hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        x, w = hidden.to(dtype), _aligned(weight, dtype)
        logits = F.linear(x, w)  # (N, words and what aligns them, which is 0 and stays so)
        total = _summed(logits[:, :words], targets, one_pass or partial(_of_rows, with_gradients=with_gradients))
        if with_gradients:
            ctx.save_for_backward(x, w, logits)
            ctx.kinds = hidden.dtype, weight.dtype, words
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, w, of_logits = ctx.saved_tensors
        of_hidden, of_weight, words = ctx.kinds
        wanted_hidden, wanted_weight, *_ = ctx.needs_input_grad
        # w.T @ of_logits.T is faster than of_logits @ w
        return (
            (w.T @ of_logits.T).T.to(of_hidden) * gradient if wanted_hidden else None,
            (of_logits.T @ x)[:words].to(of_weight).mul_(gradient) if wanted_weight else None,
            None,
            None,
            None,
        )


def _summed(logits: Tensor, targets: Tensor, of_rows: OfLogits) -> Tensor:
    """What `of_rows` sums over all rows (N, words), given some at a time."""
    most = max((CACHED if logits.device.type == "cpu" else LAUNCHED) // logits.shape[1], 1)
    rows = 1 << (most.bit_length() - 1)  # batches are multiples of powers of 2, mostly: one shape to compile for
    total = torch.zeros((), device=logits.device)
    for some, target in zip(torch.split(logits, rows), torch.split(targets, rows), strict=True):
        total += of_rows(some, target)
    return total


def _of_rows(logits: Tensor, targets: Tensor, with_gradients: bool) -> Tensor:
    """The sum over the rows (N, words); with gradients these take the place of the logits."""
    target = targets[:, None]
    p = torch.softmax(logits.float(), dim=-1)
    # the likeliest word has exp(0) of the sum that softmax divides by
    log_sum = logits.amax(dim=-1, keepdim=True) - p.amax(dim=-1, keepdim=True).log()
    total = (log_sum - logits.gather(1, target)).sum()
    if with_gradients:
        logits.copy_(p.scatter_add_(1, target, -torch.ones_like(target, dtype=p.dtype)))
    return total


def in_one_pass(logits: Tensor, targets: Tensor) -> Tensor:
    """As `_of_rows` with gradients: to be compiled, which makes one pass over each row of it.

    Not compiled it is the slower of the two.
    """
    wide, target = logits.float(), targets[:, None]
    top = wide.amax(dim=-1, keepdim=True)
    powers = torch.exp(wide - top)
    total = powers.sum(dim=-1, keepdim=True)
    loss = (top + total.log() - wide.gather(1, target)).sum()
    words = torch.arange(logits.shape[1], device=logits.device)
    logits.copy_(powers / total - (words == target).float())
    return loss


def _aligned(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """`weight` in `dtype`; in 16 bits with rows of zeros up to a multiple of ALIGNED."""
    if dtype.itemsize > 2:
        return weight.to(dtype)
    words, width = weight.shape
    aligned = weight.new_empty(-(-words // ALIGNED) * ALIGNED, width, dtype=dtype)
    aligned[:words] = weight
    aligned[words:] = 0
    return aligned
