"""Where and how tensors are computed: device, precision, threads, and the allocator that lets CPUs run at speed.

torch is imported inside the functions: `llm report` uses this module and should start quickly.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, make_dataclass
from typing import TYPE_CHECKING, Any, Literal

from llm.common import params
from llm.common.errors import RESOURCES, UserError
from llm.common.params import Problem, positive
from llm.runtime import kernels

if TYPE_CHECKING:
    import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # mallopt(3)
MADV_HUGEPAGE, HUGE_PAGE = 14, 2**21  # madvise(2), and what a CPU can look up at once
MOST_THREADS = 1024  # with many more, a machine does nothing but switch between them


@dataclass(frozen=True)
class RuntimeConfig:
    """Explicit values, never `auto`: the same parameters must mean the same bytes."""

    precision: Literal["fp32", "bf16"]
    device: Literal["cpu", "cuda", "mps"]
    threads: int  # the number of threads decides the order of additions, hence the bits
    keep_pages: bool  # let glibc keep freed memory, in huge pages, instead of giving it back and faulting it in again
    fused_loss: bool  # the loss of the next token without keeping logits
    kernels: Literal["native", "portable"] = "native"  # portable: the same bytes on every x86-64 CPU (kernels.py)

    def problems(self) -> Iterator[Problem]:
        """Contradictions between these values."""
        yield from positive(self, "threads")
        needs = {"precision": "fp32", "device": "cpu", "fused_loss": False}
        other = [name for name, value in needs.items() if getattr(self, name) != value]
        if self.kernels == "portable" and other:
            what = f"portable, but {other[0]} is {getattr(self, other[0])!r}".replace("True", "true")
            yield "kernels", what, "set it to native, or use precision fp32, device cpu and fused_loss false"
        if self.threads > MOST_THREADS:
            yield "threads", f"{self.threads} is above {MOST_THREADS}", "give the number of cores"


def set_up_device(config: RuntimeConfig) -> torch.device:
    """Apply the settings to this process, before its first large tensor, and return the device.

    CUDA is asked for kernels that add up in the same order every time; PyTorch warns where it has none. Raises
    UserError where the device is not there.
    """
    import torch

    if config.keep_pages:
        keep_pages()
    if config.kernels == "portable":
        kernels.use_portable()
    torch.set_num_threads(config.threads)
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[config.device]:
        what = f"{config.device!r} is not on this machine"
        raise UserError("params.yaml: runtime.device", what, "run `python -m llm use auto`", RESOURCES)
    if config.device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device(config.device)


def set_up_from_params() -> RuntimeConfig:
    """Apply the section `runtime` of params.yaml and return it; fp32 on the CPU in a folder without that file."""
    import torch

    if params.PARAMS.is_file():
        schema = make_dataclass("Settings", [("runtime", RuntimeConfig)])
        config: RuntimeConfig = params.read(schema).runtime
    else:
        config = RuntimeConfig("fp32", "cpu", torch.get_num_threads(), keep_pages=False, fused_loss=False)
    set_up_device(config)
    return config


def keep_pages() -> bool:
    """Make glibc's malloc hold on to freed memory; says whether it took effect (Linux with glibc only).

    By default a large tensor is a fresh `mmap`, or memory that was trimmed off the heap when the last one was freed,
    and its pages fault in one by one; on CPUs that costs more than half of a training step. What the heap can grow to
    (half of the memory; none of it is used yet) is asked for in huge pages, where the system has them.
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
    limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY  # what is reserved counts there
    if not limited and (heap := libc.malloc(size)):
        start, end = -(-heap // HUGE_PAGE) * HUGE_PAGE, (heap + size) // HUGE_PAGE * HUGE_PAGE
        libc.madvise(start, end - start, MADV_HUGEPAGE)
        libc.free(heap)
    return True


def autocast(config: RuntimeConfig) -> AbstractContextManager[Any]:
    """The context that forward passes run in: bf16 matrix products over fp32 weights, or nothing."""
    import torch

    if config.precision == "fp32":
        return nullcontext()
    return torch.autocast(config.device, dtype=torch.bfloat16)


def detect() -> RuntimeConfig:
    """The fastest settings of this machine; an Apple GPU is never chosen, nobody has measured one."""
    import torch

    if torch.cuda.is_available():
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return RuntimeConfig("bf16" if bf16 else "fp32", "cuda", _cores(), True, True)
    return RuntimeConfig("bf16" if cpu_has_bf16() else "fp32", "cpu", _cores(), True, True)


def fastest_attention(config: RuntimeConfig, context: int) -> Literal["sdpa", "eager"]:
    """For training on windows of `context` tokens: CPUs compute short ones in bf16 faster step by step."""
    return "eager" if (config.device, config.precision) == ("cpu", "bf16") and context <= 256 else "sdpa"


def fastest_dropout(config: RuntimeConfig, compiled: bool) -> Literal["each", "packed"]:
    """Where the random numbers of dropout come from: accelerators draw each as fast, and compilers only each."""
    return "packed" if config.device == "cpu" and not compiled else "each"


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 matrices in hardware; others only emulate it, slower than fp32."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
