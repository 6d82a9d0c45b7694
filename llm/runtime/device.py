"""Settings of device, precision, threads and memory allocator.

torch is imported inside the functions: `llm report` uses this module and should start quickly.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from llm.common import params
from llm.common.cores import cores
from llm.common.errors import RESOURCES, UserError
from llm.common.params import Problem, positive
from llm.runtime import kernels

if TYPE_CHECKING:
    import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # mallopt(3)
MADV_HUGEPAGE, HUGE_PAGE = 14, 2**21  # madvise(2); bytes
COMPILERS = ("g++", "clang++")
MOST_THREADS = 1024  # far more would only compete for the cores


@dataclass(frozen=True)
class RuntimeConfig:
    """Explicit values, no `auto`: the same parameters must give the same results."""

    precision: Literal["fp32", "bf16"]
    device: Literal["cpu", "cuda", "mps"]
    threads: int  # it decides the order of additions, and so the exact results
    keep_pages: bool  # let glibc keep freed memory instead of returning it to the system (Linux)
    fused_loss: bool  # compute the next-token loss without storing all logits
    kernels: Literal["native", "portable"] = "native"  # portable: the same results on every x86-64 CPU (kernels.py)
    ranks: int = 1  # processes that share each training
    sharding: Literal["ddp", "fsdp"] = "ddp"  # ddp: each rank has all weights; fsdp: a part of them
    log_every: int = 1  # updates between two readings of loss and gradient norm on cuda; others read every update
    tf32: bool = False  # fp32 matrix products with 10 bits of the fraction, on tensor cores (NVIDIA GPUs)
    checkpoint_activations: bool = False  # less memory, more time: see `Transformer.run`

    def problems(self) -> Iterator[Problem]:
        yield from positive(self, "threads", "log_every", "ranks")
        needs = {"precision": "fp32", "device": "cpu", "fused_loss": False}
        other = [name for name, value in needs.items() if getattr(self, name) != value]
        if self.kernels == "portable" and other:
            what = f"portable, but {other[0]} is {getattr(self, other[0])!r}".replace("True", "true")
            yield "kernels", what, "set it to native, or use precision fp32, device cpu and fused_loss false"
        if self.tf32 and self.device != "cuda":
            yield "tf32", f"true, but device is {self.device}", "set it to false"
        if self.threads > MOST_THREADS:
            yield "threads", f"{self.threads} is above {MOST_THREADS}", "give the number of cores"


def set_up_device(config: RuntimeConfig) -> torch.device:
    """Apply the settings to this process and return the device. Call it before creating large tensors.

    CUDA uses deterministic kernels; an operation without one raises RuntimeError, which ends a stage with one line.
    Raises UserError if the device is missing.
    """
    import torch

    if config.keep_pages:
        keep_pages()
    if config.kernels == "portable":
        kernels.use_portable()
    torch.set_num_threads(config.threads)
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[config.device]:
        what = f"{config.device!r} is not available on this machine"
        raise UserError("params.yaml: runtime.device", what, "run `python -m llm use auto`", RESOURCES)
    if config.device == "cuda":
        if "LOCAL_RANK" in os.environ:  # one of several ranks
            _take_own_gpu(int(os.environ["LOCAL_RANK"]))
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)  # with warn_only, gradients of fused attention would vary
        torch.backends.cuda.matmul.allow_tf32 = config.tf32
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device(config.device)


def _take_own_gpu(number: int) -> None:
    """Let the rank with this number on this machine compute on a GPU of its own."""
    import torch

    there = torch.cuda.device_count()
    if number >= there:
        ranks = os.environ.get("LOCAL_WORLD_SIZE", number + 1)
        what = f"{ranks} of them are on this machine, which has {there} GPU{'s' * (there != 1)}"
        raise UserError("params.yaml: runtime.ranks", what, "give a rank for each GPU", RESOURCES)
    torch.cuda.set_device(number)


def set_up_from_params() -> RuntimeConfig:
    """Apply and return the section `runtime` of params.yaml; without that file, fp32 on the CPU."""
    import torch

    if params.PARAMS.is_file():
        config = params.read_section(RuntimeConfig, "runtime")
    else:
        config = RuntimeConfig("fp32", "cpu", torch.get_num_threads(), keep_pages=False, fused_loss=False)
    set_up_device(config)
    return config


def keep_pages() -> bool:
    """Make glibc's malloc keep freed memory, in huge pages if available; returns whether it does (Linux with glibc).

    By default, memory of large tensors goes back to the system and comes again with a page fault for each page. On CPUs
    that takes more than half of a training step. Huge pages are requested for half of the machine's memory, without
    using it yet.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL("libc.so.6")
    never = -1
    if not (libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, never)):
        return False
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY  # reserved addresses count too
    if not limited and (heap := libc.malloc(size)):
        start, end = -(-heap // HUGE_PAGE) * HUGE_PAGE, (heap + size) // HUGE_PAGE * HUGE_PAGE
        libc.madvise(start, end - start, MADV_HUGEPAGE)
        libc.free(heap)
    return True


def autocast(config: RuntimeConfig) -> AbstractContextManager[Any]:
    """The context for forward passes: bf16 matrix products with fp32 weights, or nothing for fp32."""
    import torch

    if config.precision == "fp32":
        return nullcontext()
    return torch.autocast(config.device, dtype=torch.bfloat16)


def without_autocast(config: RuntimeConfig) -> AbstractContextManager[Any]:
    """The context for backward passes inside `autocast`, which keeps the weights that it has converted."""
    import torch

    return nullcontext() if config.precision == "fp32" else torch.autocast(config.device, enabled=False)


def detect(ranks: RuntimeConfig | None = None) -> RuntimeConfig:
    """The fastest settings for this machine, for as many `ranks` as are given there.

    Apple GPUs are not chosen, since they were never measured.
    """
    import torch

    if torch.cuda.is_available():
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        found = RuntimeConfig("bf16" if bf16 else "fp32", "cuda", cores(), True, True, log_every=10, tf32=True)
    else:
        found = RuntimeConfig("bf16" if cpu_has_bf16() else "fp32", "cpu", cores(), True, True)
    if ranks is None:
        return found
    return replace(found, ranks=ranks.ranks, sharding=ranks.sharding, threads=max(1, cores() // ranks.ranks))


def fastest_attention(config: RuntimeConfig, context: int) -> Literal["sdpa", "eager"]:
    """The fastest attention to train with: on CPUs in bf16, eager is faster for short contexts."""
    return "eager" if (config.device, config.precision) == ("cpu", "bf16") and context <= 256 else "sdpa"


def compiles(config: RuntimeConfig) -> bool:
    """Whether compiled training passes are faster: on NVIDIA GPUs, if there is a C++ compiler."""
    return config.device == "cuda" and any(map(shutil.which, COMPILERS))


def fastest_dropout(config: RuntimeConfig, compiled: bool) -> Literal["each", "packed"]:
    """The fastest random numbers for dropout: packed on CPUs, unless PyTorch compiles the model."""
    return "packed" if config.device == "cpu" and not compiled else "each"


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 matrices in hardware. Emulation is slower than fp32."""
    flags = cpu_flags()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def cpu_flags() -> list[str]:
    """The instruction sets and other features that Linux names for the CPU; empty elsewhere."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            line = next((line for line in file if line.lower().startswith(("flags", "features"))), "")
    except OSError:
        return []
    return line.partition(":")[2].split()
