"""The pages of `llm compare` and `llm report` as files in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm.common import files
from llm.compare import report
from llm.compare.comparison import compare
from llm.compare.pages import comparison
from llm.compare.snapshot import resolve
from tests.llm.compare.conftest import N, write_run

LONG = "a" * 300 + "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"


def opened(page: Any, text: str, name: str = "page.html") -> str:
    """Open the page as a file; return the text on it. It must ask for nothing else."""
    files.write_text(name, text)
    address = Path(name).resolve().as_uri()
    page.goto(address)
    assert page.requests == [address]
    return str(page.inner_text("body"))


@pytest.fixture
def changed(project: Path) -> Path:
    """A workspace with other answers and messages than HEAD, long and with markup."""
    write_run(wrong=range(2, 14), scores=[10] * N, answer=lambda _: LONG, params={"seed": 2, "judge": {"prompt": "b"}})
    files.write_csv("data/spam/test.csv", ["Label", "Text"], [[n % 2, LONG] for n in range(N)])
    return project


def test_compare(page: Any, changed: Path) -> None:
    said = opened(page, comparison(compare(resolve("HEAD"), resolve("workspace"))))
    assert "worse" in said
    assert page.locator("text=judge.prompt").first.is_visible()
    assert page.locator("script, img").count() == 0
    assert page.title() != "run"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_report(page: Any, changed: Path, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    said = opened(page, report.page())
    assert LONG in said
    assert page.locator("figure svg").first.bounding_box()["width"] > 100
    more = page.locator("details", has_text="more answers")
    before = len(said)
    more.locator("summary").press("Enter")
    assert len(page.inner_text("body")) > before
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert (brightness(ink) > brightness(paper)) == (scheme == "dark")
    assert page.locator("script, img").count() == 0


def brightness(color: str) -> int:
    return sum(int(part) for part in color[4:-1].split(","))
