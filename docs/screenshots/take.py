"""Take the pictures in this folder, of every page of the project at the width of a desktop and of a phone.

It needs Chromium, the extra `browser`, and a project with an experiment to compare with:

    apt-get install chromium            # or: brew install chromium
    .venv/bin/python -m pip install -c constraints.txt playwright
    make repro
    dvc exp run -S finetune_spam.trainable=last_block -n last-block finetune_spam
    .venv/bin/python docs/screenshots/take.py [last-block]

ROOT sets another project folder, OUT another folder for the pictures, CHROMIUM another browser, and ONLY the pictures,
such as "report compare".
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

HERE = Path(__file__).resolve().parent
ROOT = Path(os.environ.get("ROOT") or HERE.parents[1])
OUT = Path(os.environ.get("OUT") or HERE)
SIZES = {"desktop": (1280, 800), "phone": (390, 780)}
FOLD = (174, 24)  # the arrow of MLflow's side bar, which leaves no place for the page on a phone
COLOURS = 128  # of a picture: a third of the bytes, and the eye sees no difference

# Settings of MLflow's UI in the browser: light mode, without the panels that it opens on the first visit.
SETTINGS = {
    "_mlflow_dark_mode_toggle_enabled": "false",
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.workflowType_v1": '"machine_learning"',
}

# The UI shows the paths of artifacts on this machine. They are removed from the pictures.
WITHOUT_PATHS = """() => {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode())
        if (/file:\\/\\/|^Path:/.test(walker.currentNode.data)) walker.currentNode.data = "";
}"""
# As on a slow network, so that the picture shows an answer that is being written.
SLOWLY = """() => {
    const read = ReadableStreamDefaultReader.prototype.read;
    ReadableStreamDefaultReader.prototype.read = async function () {
        const found = await read.call(this);
        await new Promise((done) => setTimeout(done, 500));
        return found;
    };
}"""
ANSWERED = "!document.querySelector('.writing') && !document.querySelector('#chat form button').disabled"
BOTH_ANSWERED = "!document.querySelector('#compare .writing') && document.querySelector('.answer').textContent"


def main() -> None:
    """Write and serve the pages, and take the pictures."""
    browser_path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if browser_path is None or not (ROOT / "mlflow.db").is_file():
        sys.exit("error: take.py: chromium or mlflow.db is missing | fix: see its docstring")
    experiment = sys.argv[1] if len(sys.argv) > 1 else "last-block"
    with tempfile.TemporaryDirectory() as pages, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        if wanted("report", "compare", "plots"):
            take_files(browser, Path(pages), experiment)
        views = {f"serve-{act.__name__.partition('_')[0]}": act for act in (chat, next_token, classify, side_by_side)}
        if wanted(*views):
            with serving("serve") as address:
                for name, view in views.items():
                    take(browser, name, address, view, settle=0)
        if wanted("runs", "run", "curves", "runs-compare"):
            with serving("ui") as address:
                take_runs(browser, f"{address}#")
        browser.close()


def wanted(*names: str) -> bool:
    """Whether ONLY names one of these pictures, or is not set."""
    return not os.environ.get("ONLY") or bool(set(names) & set(os.environ["ONLY"].split()))


def take_files(browser: Browser, folder: Path, experiment: str) -> None:
    """The pages that are files: report, comparison and plots."""
    run("llm", "report", "--html", str(folder / "report.html"))
    run("llm", "compare", "HEAD", experiment, "--html", str(folder / "compare.html"))
    run("dvc", "plots", "show", "--out", str(folder / "plots"))
    take(browser, "report", (folder / "report.html").as_uri())
    take(browser, "compare", (folder / "compare.html").as_uri())
    take(browser, "plots", (folder / "plots/index.html").as_uri(), lambda page: page.wait_for_selector("figure svg"))


def chat(page: Page) -> None:
    """A conversation while the third answer is written."""
    page.wait_for_selector("body[data-ready]")
    for text in ("What is the opposite of hot?", "Name the past tense of run."):
        page.fill("#chat textarea", text)
        page.keyboard.press("Enter")
        page.wait_for_function(ANSWERED)
    page.evaluate(SLOWLY)
    page.fill("#chat textarea", "What is the opposite of tall?")
    page.keyboard.press("Enter")
    page.wait_for_function("(document.querySelector('.writing')?.textContent.length ?? 0) > 8")


def next_token(page: Page) -> None:
    """Candidates and attention."""
    page.click("#tab-next")
    for name, value in (("layer", "3"), ("temperature", "0.7"), ("top_k", "10")):
        page.fill(f"#next [name={name}]", value)
    page.click("#next form button")
    page.wait_for_selector(".attention button")


def classify(page: Page) -> None:
    """A message, its probabilities, and the tokens that mattered."""
    page.click("#tab-classify")
    page.click("#classify form button")
    page.wait_for_selector(".importance span")


def side_by_side(page: Page) -> None:
    """The answers of two models."""
    page.click("#tab-compare")
    page.fill("#compare textarea", "What is the opposite of hot?")
    page.click("#compare form button")
    page.wait_for_function(BOTH_ANSWERED)


def take_runs(browser: Browser, ui: str) -> None:
    """MLflow's pages: all runs, the newest run of the whole pipeline, the charts of a training, two runs compared."""
    experiment, parents = pipeline_runs()
    newest, before = parents[0], parents[-1]
    runs = f"{ui}/experiments/{experiment}/runs"
    training = next(run for parent in parents for name, run in stages(parent) if name in ("pretrain", "finetune_spam"))
    two = f"runs={json.dumps([before, newest])}&experiments={json.dumps([experiment])}"
    take(browser, "runs", f"{runs}?workflowType=machine_learning&viewStateShareKey=headlines", dismiss, settle=4)
    take(browser, "run", f"{runs}/{newest}", lambda page: shown(page, "Parameters"), settle=2)
    take(browser, "curves", f"{runs}/{training}/model-metrics", charts, settle=2)
    take(browser, "runs-compare", f"{ui}/compare-runs?{two}", only_differences, settle=2)


def shown(page: Page, text: str) -> None:
    """Wait until the page shows a heading that starts with the text."""
    page.get_by_text(text).last.wait_for(timeout=90_000)


def charts(page: Page) -> None:
    """Wait until the charts are drawn."""
    page.wait_for_selector(".js-plotly-plot .main-svg", timeout=90_000)


def dismiss(page: Page) -> None:
    """Close the note on a shared view."""
    page.locator("[data-component-id='mlflow.experiment_page.shared_view.dismiss']").click()


def only_differences(page: Page) -> None:
    """Scroll past the charts to the tables, which list what differs first."""
    shown(page, "Parameters")
    for switch in page.get_by_role("switch").all():
        if switch.is_visible() and switch.get_attribute("aria-checked") == "false":
            switch.click()
    page.get_by_text("Parameters", exact=True).last.evaluate("found => found.scrollIntoView()")


def take(
    browser: Browser, name: str, address: str, act: Callable[[Page], object] | None = None, settle: float = 0.5
) -> None:
    """Open a page in each size, act on it, wait until it is drawn, and save the picture."""
    if not wanted(name):
        return
    for size, (width, height) in SIZES.items():
        dark = size == "phone" and address.count("#") == 0
        # `wait_for_function` evaluates a string, which a page itself may not
        page = browser.new_page(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", bypass_csp=True
        )
        page.add_init_script(f"try {{ Object.assign(localStorage, {json.dumps(SETTINGS)}) }} catch {{}}")
        page.on("pageerror", lambda error: print(f"{address}: {error}", file=sys.stderr))
        page.goto(address)
        if act:
            act(page)
        if size == "phone" and "#" in address:
            page.mouse.click(*FOLD)
        page.wait_for_timeout(settle * 1000)
        page.evaluate(WITHOUT_PATHS)
        save(OUT / f"{name}-{size}.png", page.screenshot(animations="disabled"))
        page.close()


def save(path: Path, png: bytes) -> None:
    """Write the picture with few colours."""
    OUT.mkdir(parents=True, exist_ok=True)
    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)
    print(f"{path} {path.stat().st_size // 1000} kB")


def pipeline_runs() -> tuple[str, list[str]]:
    """The experiment, and its runs of `dvc repro` and of DVC experiments, the newest first."""
    rows = query(
        "SELECT experiment_id, run_uuid FROM runs WHERE lifecycle_stage = 'active' AND run_uuid IN"
        " (SELECT value FROM tags WHERE key = 'mlflow.parentRunId') ORDER BY start_time DESC"
    )
    if not rows:
        sys.exit("error: mlflow.db: has no run of `dvc repro` | fix: run `make repro`")
    return str(rows[0][0]), [run for _, run in rows]


def stages(parent: str) -> list[tuple[str, str]]:
    """Name and run of the stages of a run, the longest first."""
    children = (
        "SELECT name, run_uuid FROM runs JOIN tags USING (run_uuid)"
        " WHERE key = 'mlflow.parentRunId' AND value = ? ORDER BY start_time - end_time"
    )
    return query(children, parent)


def query(sql: str, *values: str) -> list[Any]:
    """Rows of the database of the UI."""
    with closing(sqlite3.connect(ROOT / "mlflow.db")) as database:
        return database.execute(sql, values).fetchall()


def run(module: str, *words: str) -> None:
    """Run a command of the project to its end."""
    subprocess.run([sys.executable, "-m", module, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def serving(command: str) -> Iterator[str]:
    """The address of `llm serve` or `llm ui`, which is stopped at the end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "llm", command, "--port", str(port)]
    server = subprocess.Popen(words, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        while server.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        else:
            sys.exit(f"error: take.py: `llm {command}` did not start | fix: see the error above")
        yield f"http://127.0.0.1:{port}/"
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()


if __name__ == "__main__":
    main()
