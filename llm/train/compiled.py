"""A next-token loss whose training passes are compiled by PyTorch: kernels that do several steps in one go.

What is compiled are the blocks, and what the fused loss does with logits; embeddings and products of the head stay as
they are, and the model itself is left alone: evaluations and samples run as without.
"""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn

from llm.common.errors import RESOURCES, UserError
from llm.data.batches import Batch
from llm.model.gpt import GPT
from llm.train import fused_loss, losses
from llm.train.task import Sums

COMPILERS = ("g++", "clang++")


class CompiledNextToken:
    """The sum over the targets of the cross-entropy of the next token, in nats (section 5.1), for one model.

    Equal to `losses.next_token_of(fused)` up to rounding, but for the numbers that dropout draws. Each size of window
    is compiled once, at its first batch, which takes some seconds. Raises UserError (code RESOURCES) where there is no
    C++ compiler.
    """

    def __init__(self, model: GPT, fused: bool) -> None:
        if not any(shutil.which(name) for name in (os.environ.get("CXX", ""), *COMPILERS)):
            fix = f"install {COMPILERS[0]}, or set it to false"
            raise UserError("params.yaml: pretrain.compile", "needs a C++ compiler, and none is here", fix, RESOURCES)
        self._fused, self._uncompiled = fused, losses.next_token_of(fused)
        self._of_logits = torch.compile(fused_loss.in_one_pass, dynamic=False)
        self._blocks = [torch.compile(block, dynamic=False) for block in model.transformer.h]

    def __call__(self, model: nn.Module, batch: Batch) -> Sums:
        """As the losses of `losses.py`; `model` is the one whose blocks were compiled, its weights as they are now."""
        if not model.training:
            return self._uncompiled(model, batch)
        assert isinstance(model, GPT)
        # added to what a tied head has of all words; a second such gradient, mostly zeros, would only go through memory
        sparse = model.config.tie_head and batch.inputs.device.type == "cpu"
        x = model.transformer.embed(batch.inputs, sparse=sparse)
        for block in self._blocks:
            x = block(x, None, None)
        hidden = model.transformer.ln_f(x)
        return {"loss": losses.next_token_loss(hidden, model.lm_head, batch.targets, self._fused, self._of_logits)}
