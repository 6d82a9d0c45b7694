"""A browser for the tests of pages. Without Playwright or Chromium they skip."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

PROGRAM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
SIZES = {"desktop": (1200, 800), "phone": (390, 780)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if PROGRAM is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(params=SIZES)
def page(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """An empty page, as wide as a desktop or a phone. At the end it must have no error and no part beyond its width.

    `page.requests` holds the addresses that it asked for.
    """
    width, height = SIZES[request.param]
    opened = browser.new_page(viewport={"width": width, "height": height})
    errors: list[str] = []
    opened.requests = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("request", lambda asked: opened.requests.append(asked.url))
    yield opened
    wide = opened.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0, f"{wide} pixels too wide"
    assert errors == []
    opened.close()
