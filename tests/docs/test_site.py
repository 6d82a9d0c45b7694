"""docs/ as a site: every link leads somewhere, and nothing comes from the web."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.stages.project import ROOT

pytest.importorskip("material", reason="the extra docs is not installed")
WEB = re.compile(
    r"""<(?:script|img|iframe|source|link(?![^>]*rel="?canonical))[^>]*\s(?:src|href)=["']?(?:https?:)?//[^\s>"']+"""
)
IN_STYLES = re.compile(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)\"']+")


def build(project: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    return subprocess.run(words, cwd=project, check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of docs/ with its site."""
    made = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "docs", made / "docs")
    shutil.copyfile(ROOT / "mkdocs.yml", made / "mkdocs.yml")
    done = build(made)
    assert done.returncode == 0, done.stderr
    return made


def test_every_page_is_in_the_site(project: Path) -> None:
    sources = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    pages = {path.relative_to(project / "site").with_suffix("") for path in (project / "site").rglob("*.html")}
    assert {path.with_name("index") if path.name == "README" else path for path in sources} <= pages


def test_no_page_loads_anything_from_the_web(project: Path) -> None:
    assert WEB.search('<script src="https://example.org/a.js">')
    for path in (project / "site").rglob("*"):
        if path.suffix in (".html", ".css"):
            found = (WEB if path.suffix == ".html" else IN_STYLES).findall(path.read_text("utf-8"))
            assert found == [], path


@pytest.mark.parametrize("link", ["[a](missing.md)", "[a](data.md#missing)", "[a](../llm)", "![a](missing.png)"])
def test_a_broken_link_fails(project: Path, tmp_path: Path, link: str) -> None:
    shutil.copytree(project / "docs", tmp_path / "docs")
    shutil.copyfile(project / "mkdocs.yml", tmp_path / "mkdocs.yml")
    with (tmp_path / "docs/errors.md").open("a") as page:
        page.write(f"\n{link}\n")
    done = build(tmp_path)
    assert done.returncode != 0
    assert "errors.md" in done.stderr


def test_search_finds_a_page_without_a_server(page: Any, project: Path) -> None:
    page.goto((project / "site/index.html").as_uri())
    if page.viewport_size["width"] < 600:
        page.click("label[for=__search][class*=header]")
    page.locator("input[name=query]").press_sequentially("McNemar")  # the search listens to keys
    page.wait_for_selector(".md-search-result__item a")
    found = page.locator(".md-search-result__link").evaluate_all("all => all.map(one => one.href)")
    assert any("experiments.html" in address for address in found)
    assert all(address.startswith(("file:", "data:", "blob:", "about:")) for address in page.requests)
