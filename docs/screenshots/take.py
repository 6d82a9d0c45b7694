"""Take the screenshots of the MLflow UI in this folder.

The script needs Chromium and Playwright, which are not requirements of the project:

    apt-get install chromium            # or: brew install chromium
    python -m venv /tmp/shots && /tmp/shots/bin/pip install playwright
    PATH="$PWD/.venv/bin:$PATH" /tmp/shots/bin/python docs/screenshots/take.py

The first `python` on PATH runs the UI and must be that of the project's environment. CHROMIUM sets another browser,
ROOT another project folder, and OUT another folder for the pictures.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).resolve().parent
ROOT = Path(os.environ.get("ROOT") or HERE.parents[1])
OUT = Path(os.environ.get("OUT") or HERE)
SIZE = {"width": 1440, "height": 860}
LARGEST_BYTES = 300_000

# Settings of the UI in the browser: light mode, without the chat panel that MLflow opens on the first visit.
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


def main() -> None:
    """Start the UI, take the pictures and stop the UI."""
    browser_path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if browser_path is None or not (ROOT / "mlflow.db").is_file():
        sys.exit("error: take.py: chromium or mlflow.db is missing | fix: install chromium and run `make repro`")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(["python", "-m", "llm", "ui", "--port", str(port)], cwd=ROOT, start_new_session=True)
    try:
        wait_for(server, port)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
            page = browser.new_page(viewport=SIZE)
            page.add_init_script(f"for (const [k, v] of Object.entries({json.dumps(SETTINGS)})) localStorage[k] = v")
            take_all(page, f"http://127.0.0.1:{port}/#")
            browser.close()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def take_all(page: Page, ui: str) -> None:
    """Open the page of each picture and take it."""
    experiment, parent, stages = newest_repro()
    runs = f"{ui}/experiments/{experiment}/runs"

    page.goto(f"{runs}?workflowType=machine_learning&viewStateShareKey=headlines")
    page.locator("[data-component-id='mlflow.experiment_page.shared_view.dismiss']").click()
    page.locator("[col-id='attributes.`Run Name`'] button").first.click()  # expands the newest run
    take(page, "runs")

    curves = stages.get("pretrain") or next(iter(stages.values()))
    page.goto(f"{runs}/{curves}/model-metrics")
    take(page, "curves", seconds=5)

    page.goto(f"{runs}/{parent}")
    take(page, "parameters")

    judge = stages.get("evaluate_with_judge") or curves
    table = first_table(judge)
    page.goto(f"{runs}/{judge}/artifacts" + (f"/{table}" if table else ""))
    take(page, "table")

    page.goto(f"{ui}/models")
    page.get_by_role("button", name="Try it now").click()  # an introduction that MLflow shows on the first visit
    page.wait_for_timeout(1000)
    page.locator("a[href*='#/models/']").first.click()
    take(page, "models")


def take(page: Page, name: str, seconds: float = 3) -> None:
    """Wait until the page is drawn, and save the picture."""
    page.wait_for_timeout(seconds * 1000)
    path = OUT / f"{name}.png"
    OUT.mkdir(parents=True, exist_ok=True)
    page.evaluate(WITHOUT_PATHS)
    page.screenshot(path=path, animations="disabled")
    size = path.stat().st_size
    print(f"{path} {size // 1000} kB" + (" (too large)" if size > LARGEST_BYTES else ""))


def newest_repro() -> tuple[str, str, dict[str, str]]:
    """The experiment, the newest run of `dvc repro`, and the runs of its stages by name."""
    rows = query(
        "SELECT experiment_id, run_uuid FROM runs WHERE lifecycle_stage = 'active' AND run_uuid IN"
        " (SELECT value FROM tags WHERE key = 'mlflow.parentRunId') ORDER BY start_time DESC LIMIT 1"
    )
    if not rows:
        sys.exit("error: mlflow.db: has no run of `dvc repro` | fix: run `make repro`")
    experiment, parent = rows[0]
    children = (
        "SELECT name, run_uuid FROM runs JOIN tags USING (run_uuid) WHERE key = 'mlflow.parentRunId' AND value = ?"
    )
    return str(experiment), parent, dict(query(children, parent))


def first_table(run: str) -> str | None:
    """The artifact path of the first table that the run logged, if any."""
    rows = query("SELECT value FROM tags WHERE key = 'mlflow.loggedArtifacts' AND run_uuid = ?", run)
    return json.loads(rows[0][0])[0]["path"] if rows else None


def query(sql: str, *values: str) -> list[Any]:
    """Rows of the database of the UI."""
    with closing(sqlite3.connect(ROOT / "mlflow.db")) as database:
        return database.execute(sql, values).fetchall()


def wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    """Wait until the UI accepts connections; exit if it has ended."""
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if server.poll() is not None:
            sys.exit("error: take.py: the UI did not start | fix: see the error above")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
