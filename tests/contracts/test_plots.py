"""The page of `dvc plots` works offline, its texts are no markup, and every curve and table has a plot."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from dvc.repo import Repo
from dvc_render import vega_templates
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "plots/page.html"
TEMPLATES = ROOT / ".dvc/plots"
EVIL = "</script></plaintext><img src=x onerror=alert(1)>"


class Scripts(HTMLParser):
    """The scripts of a page up to <plaintext>, which ends the markup, and what would be loaded."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.loads: list[str] = []
        self.policy = ""
        self._inside = False
        self.feed(page.split("<plaintext>", maxsplit=1)[0])

    def handle_starttag(self, tag, attrs):
        self._inside = tag == "script"
        self.loads += [value for name, value in attrs if name in ("src", "href")]
        if dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs)["content"]

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        if self._inside:
            self.scripts.append(data)


def test_only_the_scripts_in_the_page_may_run_and_nothing_is_loaded():
    page = Scripts(PAGE.read_text("utf-8"))
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts]
    assert len(hashes) == 4  # Vega, Vega-Lite, Vega-Embed, ours
    assert set(re.findall(r"'sha256-([^']+)'", page.policy)) == set(hashes)
    assert page.policy.startswith("default-src 'none';")
    assert "unsafe-inline' '" not in page.policy.split("script-src")[1]
    assert page.loads == []


def test_the_page_is_built_from_its_parts():
    page = PAGE.read_text("utf-8")
    assert Scripts(page).scripts[-1] == (ROOT / "plots/show.js").read_text("utf-8")
    head, _, tail = (ROOT / "plots/template.html").read_text("utf-8").partition("SCRIPT_HASHES")
    assert page.startswith(head)
    assert page.endswith(tail.partition("SCRIPTS")[2])
    assert page.count("{plot_divs}") == 1


def test_dvc_uses_the_page():
    config = (ROOT / ".dvc/config").read_text()
    (template,) = re.findall(r"html_template = (.*)", config)
    assert (ROOT / ".dvc" / template).resolve() == PAGE


def test_every_licence_is_there():
    text = (ROOT / "plots/LICENSES.txt").read_text("utf-8")
    source = (ROOT / "plots/build.py").read_text("utf-8")
    names = re.findall(r'^    "([a-z0-9-]+@[0-9.]+)":', source, re.MULTILINE)
    assert len(names) == 9
    assert all(f"{name}\n" in text for name in names)


def test_every_table_in_the_reports_has_a_plot():
    with Repo(str(ROOT)) as repo:
        outs = [out for stage in repo.index.stages for out in stage.outs if out.plot]
        plotted = {out.def_path: out.plot if isinstance(out.plot, dict) else {} for out in outs}
    paths = {path.relative_to(ROOT).as_posix() for path in (ROOT / "reports").rglob("*.csv")}
    paths |= {f"reports/{name}.json" for name in ("respond/responses", "evaluate_with_judge/scores")}
    assert paths <= set(plotted)
    for path, properties in plotted.items():
        assert "y" in properties, path  # else DVC draws the last column, whatever it is
    ours = {path.stem for path in TEMPLATES.glob("*.json")}
    used = {properties["template"] for properties in plotted.values() if "template" in properties}
    assert ours <= used <= ours | {template.DEFAULT_NAME for template in vega_templates.TEMPLATES}


def test_declared_columns_are_in_the_reports():
    declared = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text("utf-8"))["plots"]
    for plot in declared:
        ((_, properties),) = plot.items()
        for path, columns in properties["y"].items():
            header = (ROOT / path).read_text("utf-8").splitlines()[0].split(",")
            assert {properties["x"], *columns} <= set(header), path


@pytest.fixture
def drawn(tmp_path) -> str:
    """The page that DVC writes for a table with a hostile text."""
    with Repo.init(str(tmp_path), no_scm=True):
        pass
    shutil.copytree(TEMPLATES, tmp_path / ".dvc/plots", dirs_exist_ok=True)
    (tmp_path / ".dvc/config.local").write_text(f"[core]\n    no_scm = true\n[plots]\n    html_template = {PAGE}\n")
    rows = [{"instruction": EVIL, "model_response": f"{EVIL}\nvar spec = 1", "score": 7}]
    (tmp_path / "responses.json").write_text(json.dumps(rows))
    (tmp_path / "scores.json").write_text(json.dumps(rows))
    text = "plots:\n  - responses.json: {template: texts, x: instruction, y: model_response}\n"
    (tmp_path / "dvc.yaml").write_text(text + "  - scores.json: {template: histogram, y: score}\n")
    command = [sys.executable, "-m", "dvc", "plots", "show"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    return (tmp_path / "dvc_plots/index.html").read_text("utf-8")


def test_a_hostile_text_stays_data(drawn):
    """It lies after <plaintext>, which nothing ends. Our script reads the lines that hold a plot as JSON."""
    markup, _, data = drawn.partition("<plaintext>")
    assert EVIL not in markup
    starts = [line.strip() for line in data.splitlines() if line.strip().startswith("var spec = ")]
    specs = [json.loads(line.removeprefix("var spec = ").removesuffix(";")) for line in starts]
    assert len(specs) == 2
    assert specs[0]["data"]["values"][0]["instruction"] == EVIL
    assert "DVC_METRIC" not in json.dumps(specs)


def test_plots_are_drawn_from_the_file_alone(page, drawn, tmp_path):
    address = (tmp_path / "dvc_plots/index.html").as_uri()
    page.goto(address)
    page.wait_for_function("document.querySelectorAll('figure svg').length === 2")
    assert page.requests == [address]
    assert page.title() == "Plots"
    assert page.locator("main script, main img").count() == 0
