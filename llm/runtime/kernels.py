"""`runtime.kernels: portable`: the same results, bit by bit, on every x86-64 CPU with AVX2, from AMD or Intel.

PyTorch, oneDNN and MKL choose their code by instruction set, and MKL also by vendor. Two steps fix the choice:

- `pin` limits all three to AVX2 through environment variables, which they read when torch is imported.
- `use_portable` computes fp32 matrix products with oneDNN instead of MKL. It replaces PyTorch's kernels below autograd,
  so models do not change: forward and backward passes, einsum and attention all use the new ones.

PyTorch's exp, log and sqrt of whole tensors still use MKL. Training and decoding do not need them.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llm.common import params
from llm.common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

PINNED = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2,STRICT"}
_LIBRARY: list[Any] = []  # torch removes the kernels together with this object


def pin() -> None:
    """Set the variables if params.yaml asks for portable kernels. Call it before torch is imported.

    Afterwards it does nothing: the variables would not change this process, but those that it starts, and the compiler.
    """
    if "torch" in sys.modules:
        return
    try:
        runtime = params.load().get("runtime") if params.PARAMS.is_file() else None
    except UserError:  # reported later, when the whole file is read
        return
    if isinstance(runtime, Mapping) and runtime.get("kernels") == "portable":
        os.environ.update(PINNED)


def use_portable() -> bool:
    """Use the portable kernels in this process; returns whether its results are portable on this CPU."""
    import torch

    if not _LIBRARY and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        # Fused attention uses MKL. Without it, PyTorch computes attention from matrix products.
        torch.backends.cuda.enable_flash_sdp(False)  # despite its name, it applies to CPUs too
        library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
        _LIBRARY.append(library)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about replacing a kernel
            for name, kernel in (("mm", mm), ("addmm", addmm), ("bmm", bmm), ("baddbmm", baddbmm), ("mv", mv)):
                library.impl(name, kernel, "CPU", allow_override=True)  # type: ignore[no-untyped-call]
    return bool(_LIBRARY) and torch.backends.cpu.get_cpu_capability() == "AVX2"


def mm(a: Tensor, b: Tensor) -> Tensor:
    """(M, K) @ (K, N)."""
    import torch

    if not _fits(a, b):
        return torch.ops.aten.mm.out(a, b, out=a.new_empty(a.shape[0], b.shape[1]))  # type: ignore[no-any-return]
    return torch.ops.mkldnn._linear_pointwise.default(a, b.t(), None, "none", [], "")  # type: ignore[no-any-return]


def addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * bias + alpha * (M, K) @ (K, N)."""
    import torch

    if (beta, alpha) == (1, 1) and bias.shape == b.shape[1:] and _fits(a, b):
        return torch.ops.mkldnn._linear_pointwise.default(a, b.t(), bias, "none", [], "")  # type: ignore[no-any-return]
    return beta * bias + alpha * mm(a, b)


def bmm(a: Tensor, b: Tensor) -> Tensor:
    """(G, M, K) @ (G, K, N): a convolution of G groups with kernels of 1 x 1."""
    import torch

    (G, M, K), N = a.shape, b.shape[2]
    if not _fits(a, b):
        return torch.ops.aten.bmm.out(a, b, out=a.new_empty(G, M, N))  # type: ignore[no-any-return]
    convolution = torch.ops.aten.mkldnn_convolution.default
    x, weight = b.reshape(1, G * K, 1, N), a.reshape(G * M, K, 1, 1)
    return convolution(x, weight, None, [0, 0], [1, 1], [1, 1], G).view(G, M, N)  # type: ignore[no-any-return]


def baddbmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * bias + alpha * (G, M, K) @ (G, K, N)."""
    return beta * bias + alpha * bmm(a, b)


def mv(a: Tensor, b: Tensor) -> Tensor:
    """(M, K) @ (K,)."""
    return mm(a, b[:, None])[:, 0]


def _fits(a: Tensor, b: Tensor) -> bool:
    import torch

    return a.dtype == b.dtype == torch.float32 and a.numel() > 0 and b.numel() > 0
