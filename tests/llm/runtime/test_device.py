"""Device, precision, threads, and the memory allocator."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llm.common.cores import cores
from llm.common.errors import RESOURCES, UserError
from llm.runtime import device
from llm.runtime.device import (
    RuntimeConfig,
    autocast,
    compiles,
    detect,
    fastest_attention,
    fastest_dropout,
    set_up_device,
)

GLIBC = platform.system() == "Linux" and platform.libc_ver()[0] == "glibc"

# The sizes, in KiB, of the mappings that may have huge pages.
LIST_HUGE = """
import re, sys
from llm.runtime import device
if sys.argv[1] == "keep":
    assert device.keep_pages()
with open("/proc/self/smaps") as file:
    for mapping in re.split(r"(?m)^(?=[0-9a-f]+-)", file.read()):
        if re.search(r"^VmFlags:.* hg", mapping, re.M):
            print(re.search(r"^Size: *([0-9]+) kB", mapping, re.M)[1])
"""

# Minor page faults of 10 tensors of 40 MB, made and freed one after the other.
COUNT_FAULTS = """
import resource, sys, torch
from llm.runtime import device
if sys.argv[1] == "keep":
    assert device.keep_pages()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.set_num_threads(1)
for turn in range(2):  # the first warms up
    before = faults()
    for _ in range(10):
        torch.ones(10_000_000)
print(faults() - before)
"""

# MB that a process holds before, while and after it has 100 tensors of 2 MB, and when it has given them back.
GIVE_BACK = """
import torch
from llm.runtime import device, machine
assert device.keep_pages()
def held():
    with open("/proc/self/statm") as file:
        print(int(file.read().split()[1]) * 4096 // 10**6)
held()
many = [torch.ones(500_000) for _ in range(100)]
last = torch.ones(1000)
held()
del many
held()
machine.give_back()
held()
"""


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def said(code: str, how: str) -> list[int]:
    """The numbers printed by a process with or without `keep_pages`."""
    done = subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.skipif(not GLIBC, reason="the allocator is not glibc's")
def test_kept_pages_can_be_given_back() -> None:
    before, full, freed, given_back = said(GIVE_BACK, "keep")
    assert min(full, freed) > before + 150
    assert given_back < before + 50


@pytest.mark.slow
@pytest.mark.skipif(not GLIBC, reason="the allocator is not glibc's")
def test_kept_pages_do_not_fault_again() -> None:
    (kept,), (given_back,) = said(COUNT_FAULTS, "keep"), said(COUNT_FAULTS, "give back")
    assert kept * 10 < given_back


@pytest.mark.skipif(not GLIBC, reason="the allocator is not glibc's")
@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="the system has no huge pages")
@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY, reason="addresses are limited")
def test_half_of_the_memory_may_use_huge_pages() -> None:
    half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 / 2**10
    assert said(LIST_HUGE, "give back") == []
    (huge,) = said(LIST_HUGE, "keep")
    assert 0.99 * half < huge <= half


@pytest.mark.skipif(not GLIBC, reason="the allocator is not glibc's")
def test_no_addresses_are_reserved_under_a_limit() -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))\n"
    assert said(limit + LIST_HUGE, "keep") == []


def test_keep_pages_is_harmless_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert device.keep_pages() is False


def test_setup_sets_the_threads_and_returns_the_device() -> None:
    torch.set_num_threads(1)
    assert set_up_device(RuntimeConfig("fp32", "cpu", 2, False, True)) == torch.device("cpu")
    assert torch.get_num_threads() == 2


def test_missing_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"runtime\.device: 'cuda' is not available on this machine") as caught:
        set_up_device(RuntimeConfig("fp32", "cuda", 1, False, True))
    assert caught.value.code == RESOURCES


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_applies_to_matrix_products(precision: Any, dtype: torch.dtype) -> None:
    with autocast(RuntimeConfig(precision, "cpu", 1, False, True)):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


ASKED_OF_CUDA = """
import os, torch
from llm.runtime.device import RuntimeConfig, set_up_device
torch.cuda.is_available = lambda: True
for device, tf32 in (("cpu", False), ("cuda", False), ("cuda", True)):
    set_up_device(RuntimeConfig("fp32", device, 1, False, True, tf32=tf32))
    strict = torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    print(device, strict, os.environ.get("CUBLAS_WORKSPACE_CONFIG"), torch.backends.cuda.matmul.allow_tf32)
"""


@pytest.mark.slow
def test_cuda_uses_deterministic_algorithms_and_tf32_if_asked() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "CUBLAS_WORKSPACE_CONFIG"}
    command = [sys.executable, "-c", ASKED_OF_CUDA]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["cpu False None False", "cuda True :4096:8 False", "cuda True :4096:8 True"]


@pytest.mark.parametrize(
    ("environment", "gpus", "taken", "what"),
    [
        ({}, 1, [], None),
        ({"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, 2, [1], None),
        ({"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, 1, [], "2 of them are on this machine, which has 1 GPU"),
        ({"LOCAL_RANK": "4"}, 4, [], "5 of them are on this machine, which has 4 GPUs"),
    ],
)
def test_each_rank_has_a_gpu_of_its_own(monkeypatch, environment, gpus, taken, what):
    found: list[int] = []
    for name, value in (("is_available", lambda: True), ("device_count", lambda: gpus), ("set_device", found.append)):
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda _on: None)
    for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "CUBLAS_WORKSPACE_CONFIG"):
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = RuntimeConfig("fp32", "cuda", 1, False, True, ranks=2)
    if what is None:
        set_up_device(config)
    else:
        with pytest.raises(UserError, match=rf"params.yaml: runtime.ranks: {what} \| fix: give a rank") as caught:
            set_up_device(config)
        assert caught.value.code == RESOURCES
    assert found == taken


@pytest.mark.parametrize(("device", "wrong"), [("cpu", ["tf32"]), ("mps", ["tf32"]), ("cuda", [])])
def test_tf32_needs_an_nvidia_gpu(device: Any, wrong: list[str]) -> None:
    assert [name for name, *_ in RuntimeConfig("fp32", device, 1, False, True, tf32=True).problems()] == wrong


@pytest.mark.parametrize(
    ("device", "compiler", "expected"), [("cuda", "g++", True), ("cuda", "", False), ("cpu", "g++", False)]
)
def test_passes_are_compiled_on_gpus_with_a_compiler(
    monkeypatch: pytest.MonkeyPatch, device: Any, compiler: str, expected: bool
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name if name == compiler else None)
    assert compiles(RuntimeConfig("bf16", device, 1, False, True)) == expected


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_detected_precision_follows_the_gpu(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: precision == "bf16")
    assert (detect().device, detect().precision) == ("cuda", precision)


def test_detected_settings_are_valid_here() -> None:
    config = detect()
    assert not list(config.problems())
    assert set_up_device(config).type == config.device


@pytest.mark.parametrize(("has_bf16", "precision"), [(True, "bf16"), (False, "fp32")])
def test_detected_precision_follows_the_cpu(monkeypatch: pytest.MonkeyPatch, has_bf16: bool, precision: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "cpu_has_bf16", lambda: has_bf16)
    assert detect().precision == precision


@pytest.mark.parametrize(("threads", "fine"), [(0, False), (1, True), (1024, True), (1025, False)])
def test_too_few_and_too_many_threads_are_problems(threads: int, fine: bool) -> None:
    found = [name for name, *_ in RuntimeConfig("fp32", "cpu", threads, False, True).problems()]
    assert found == ([] if fine else ["threads"])


@pytest.mark.parametrize(
    ("device", "precision", "context", "expected"),
    [
        ("cpu", "bf16", 256, "eager"),
        ("cpu", "bf16", 257, "sdpa"),
        ("cpu", "fp32", 64, "sdpa"),
        ("cuda", "bf16", 64, "sdpa"),
    ],
)
def test_eager_attention_is_fastest_for_short_contexts_in_bf16_on_cpus(device, precision, context, expected):
    assert fastest_attention(RuntimeConfig(precision, device, 1, False, True), context) == expected


@pytest.mark.parametrize(
    ("device", "compiled", "expected"), [("cpu", False, "packed"), ("cpu", True, "each"), ("cuda", False, "each")]
)
def test_packed_dropout_is_fastest_on_cpus_without_compiling(device, compiled, expected):
    assert fastest_dropout(RuntimeConfig("fp32", device, 1, False, True), compiled) == expected


def test_the_fastest_settings_keep_the_ranks_and_divide_the_cores() -> None:
    alone = device.detect()
    for ranks, threads in ((1, cores()), (2, max(1, cores() // 2)), (10**6, 1)):
        found = device.detect(replace(alone, ranks=ranks, sharding="fsdp"))
        assert found == replace(alone, ranks=ranks, sharding="fsdp", threads=threads)
