"""The next-token loss with training passes compiled by `torch.compile`, which fuses several operations in one kernel.

Only the blocks and the loss of a chunk of logits are compiled. Embeddings and the matrix product of the head are not.
The model itself does not change, so evaluations and samples run uncompiled.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from llm.common.errors import RESOURCES, UserError
from llm.data.batches import Batch
from llm.model.gpt import GPT
from llm.model.rope import rotation
from llm.runtime.device import COMPILERS, cpu_flags
from llm.train import fused_loss, losses
from llm.train.task import Sums

WHERE = "params.yaml: pretrain.compile"


def use_cache_of_this_cpu() -> None:
    """Let PyTorch keep compiled code in a folder for CPUs with these instruction sets, below its usual one.

    The names of its entries (PyTorch 2.13) do not tell the width of vectors, nor what `-march=native` means. Code made
    on another CPU, or with another ATEN_CPU_CAPABILITY, would be taken: the losses are NaN, or the process crashes.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir  # slow to import

    chosen = os.environ.get("ATEN_CPU_CAPABILITY", "")  # the compiler reads it now, and PyTorch read it at its import
    sets = " ".join([chosen, torch.backends.cpu.get_cpu_capability(), *sorted(cpu_flags())])
    name = "cpu-" + hashlib.sha256(sets.encode()).hexdigest()[:16]
    folder = Path(cache_dir())
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder if folder.name == name else folder / name)


class CompiledNextToken:
    """Summed cross-entropy of the next token, in nats (section 5.1), for one model.

    Equal to `losses.next_token_of(fused)` up to rounding, except that dropout draws other random numbers. Each window
    size is compiled at its first batch, which takes a few seconds. Raises UserError (code RESOURCES) if there is no
    C++ compiler, or it fails.
    """

    def __init__(self, model: GPT, fused: bool) -> None:
        if not any(shutil.which(name) for name in (os.environ.get("CXX", ""), *COMPILERS)):
            raise UserError(
                WHERE, "no C++ compiler is installed", f"install {COMPILERS[0]}, or set it to false", RESOURCES
            )
        use_cache_of_this_cpu()
        self._fused, self._uncompiled = fused, losses.next_token_of(fused)
        self._chunk_loss = torch.compile(fused_loss.loss_to_compile, dynamic=False)
        self._blocks = [torch.compile(block, dynamic=False) for block in model.transformer.h]

    def __call__(self, model: nn.Module, batch: Batch) -> Sums:
        """Compute the loss; `model` must be the one given to the constructor."""
        if not model.training:
            return self._uncompiled(model, batch)
        assert isinstance(model, GPT)
        from torch._dynamo.exc import BackendCompilerFailed  # slow to import

        try:
            return {"loss": self._loss(model, batch)}
        except BackendCompilerFailed as error:
            raise _failed(error.inner_exception) from error

    def _loss(self, model: GPT, batch: Batch) -> Tensor:
        # With a tied head, the gradient of the embedding is added to the dense one of the head. A second dense
        # gradient, mostly zeros, would only cost memory bandwidth.
        sparse = model.config.tie_head and batch.inputs.device.type == "cpu"
        x = model.transformer.embed(batch.inputs, sparse=sparse)
        turned = rotation(model.config, torch.arange(x.shape[1], device=x.device))
        for block in self._blocks:
            x = model.transformer.run(block, x, None, None, turned)
        hidden = model.transformer.ln_f(x)
        return losses.next_token_loss(hidden, model.lm_head, batch, self._fused, self._chunk_loss)


def _failed(error: Exception) -> UserError:
    """The error line, with what the C++ compiler said first, if it was that."""
    said = str(getattr(error, "output", "")) or f"{type(error).__name__}: {error}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    what = next((line for line in lines if "error" in line.lower()), lines[0])[:300]
    packages = f"{COMPILERS[0]} and the headers of Python (Debian: python3-dev)"
    fix = f"install {packages}; or remove {os.environ['TORCHINDUCTOR_CACHE_DIR']}; or set it to false"
    return UserError(WHERE, f"PyTorch's compiler failed: {what}", fix, RESOURCES)
