"""Fixtures that several folders of tests share."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from llm.data import tokenizer
from llm.model.config import ModelConfig
from llm.runtime import kernels
from tests import tiny
from tests.browser import browser, page  # noqa: F401 - fixtures
from tests.forks import Forks

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as where a script starts the tests in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or all that they start would ignore it too
settings.register_profile("tests", deadline=None)  # the first of many calls may wait for a busy machine
settings.load_profile("tests")
torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other

TEXT = (
    "Every effort moves you. The quick brown fox doesn't jump over the lazy dogs, 12 of them; naïve café 東京 🙂!\n" * 3
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A long test is a slow one too. Files with slow tests come first: the last would keep one process busy alone."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """What was imported so far stays. Each full garbage collection would walk over it, a tenth of the CPU time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Any:
    """Where LLM_MIRROR is set, a test that needs it must not be skipped."""
    report = yield
    if report.skipped and "LLM_MIRROR" in str(report.longrepr) and "LLM_MIRROR" in os.environ:
        report.outcome = "failed"
    return report


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder of original files: GPT-2's vocabulary, The Verdict, the book's data."""
    if "LLM_MIRROR" not in os.environ:
        pytest.skip("LLM_MIRROR is not set")
    return Path(os.environ["LLM_MIRROR"])


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tokenizer with 300 tokens."""
    folder = tmp_path_factory.mktemp("vocabulary")
    tokenizer.train([TEXT], 300, folder)
    return folder


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """A process with torch and most of our code loaded, whose forks run modules and may be killed."""
    with Forks() as running:
        yield running


@pytest.fixture
def model_config() -> Callable[..., ModelConfig]:
    """Make a tiny ModelConfig; keyword arguments change its fields."""
    return lambda **changes: replace(tiny.MODEL, **changes)


@pytest.fixture(autouse=True)
def native_kernels() -> Iterator[None]:
    """Portable kernels stay for the rest of the process, so tests use them in processes of their own only."""
    yield
    assert not kernels._LIBRARY
