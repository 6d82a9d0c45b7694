"""Publishing across file systems, on real mounts: full, read-only, with a quota. Skipped where none can be made."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BEFORE = """
import errno, os, signal, sys
from pathlib import Path
from llm.common import publishing
from llm.common.errors import *
work, models = Path("work"), Path("models")
def build(size=1000, name="m"):
    folder = work / name
    (folder / "deep").mkdir(parents=True, exist_ok=True)
    (folder / "weights").write_bytes(b"w" * size)
    (folder / "deep" / "config.json").write_text("{}")
    return folder
def content(folder):
    return {p.relative_to(folder).as_posix(): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
NEW = {"deep/config.json": 2, "weights": 1000}
"""


def mounted(folder: Path, body: str, mount: str = "mount -t tmpfs -o size=1m,mode=1777 tmpfs models") -> str:
    """Run Python code where `models` is a mount of its own, seen by this code only; return what it prints."""
    (folder / "models").mkdir(exist_ok=True)
    (folder / "work").mkdir(exist_ok=True)
    folder.chmod(0o755)
    space = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        tried = subprocess.run([*space, "sh", "-c", mount], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare here: file systems cannot be mounted")
    if tried.returncode:
        pytest.skip(f"cannot be mounted here: {mount}: {tried.stderr.splitlines()[0]}")
    command = [*space, "sh", "-c", f'{mount} && exec "$0" -c "$1"', sys.executable, BEFORE + textwrap.dedent(body)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_rename_across_file_systems_is_impossible(tmp_path):
    """A control: without copying, publishing would fail here."""
    body = """
        try:
            build().replace(models / "m")
        except OSError as error:
            print(error.errno == errno.EXDEV)
        """
    assert mounted(tmp_path, body) == "True\n"


def test_a_folder_and_a_file_are_published_across_file_systems(tmp_path):
    body = """
        for _ in range(2):  # the second time, over the old ones
            publishing.publish(build(), models / "m")
            (work / "a.json").write_text("1")
            publishing.publish(work / "a.json", models / "deep" / "a.json")
        print(content(models / "m") == NEW, (models / "deep/a.json").read_text())
        print(sorted(os.listdir(models)), os.listdir(models / "deep"), os.listdir(work))
        """
    assert mounted(tmp_path, body) == "True 1\n['deep', 'm'] ['a.json'] []\n"


def test_a_full_disk_keeps_the_old_output_and_names_the_new_one(tmp_path):
    body = """
        publishing.publish(build(), models / "m")
        try:
            publishing.publish(build(3_000_000), models / "m")
        except UserError as error:
            print(error.code == RESOURCES, error)
        print(content(models / "m") == NEW, os.listdir(models))
        """
    printed = mounted(tmp_path, body).splitlines()
    assert printed[0].startswith("True models/m: cannot be written: No space left on device; it needs 3,000,002 bytes")
    assert printed[0].endswith(" free | fix: free some space and run it again")
    assert printed[1] == "True ['m']"


def test_what_a_kill_leaves_is_removed_by_the_next_run(tmp_path):
    body = """
        fsync, calls = os.fsync, []
        pid = os.fork()
        if pid == 0:
            os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)  # in the middle of the copy
            publishing.publish(build(), models / "m")
        os.waitpid(pid, 0)
        print(os.listdir(models))
        publishing.publish(build(), models / "m")
        print(content(models / "m") == NEW, os.listdir(models))
        """
    assert mounted(tmp_path, body) == "['.m.copy']\nTrue ['m']\n"


def test_a_read_only_disk_is_named(tmp_path):
    body = """
        try:
            publishing.publish(build(), models / "m")
        except UserError as error:
            print(error.code == DATA, error)
        """
    printed = mounted(tmp_path, body, "mount -t tmpfs -o size=1m,ro tmpfs models")
    what = "models/m: cannot be written: Read-only file system | fix: make its folder writable and run it again"
    assert printed == f"True {what}\n"


def test_a_quota_is_a_lack_of_room(tmp_path):
    body = """
        os.setgroups([])
        os.setuid(65534)  # limits do not hold for root
        try:
            publishing.publish(work / "m", models / "m")
        except UserError as error:
            print(error.code == RESOURCES, error)
        print(os.listdir(models))
        """
    mount = "mount -t tmpfs -o size=9m,mode=1777,usrquota,usrquota_block_hardlimit=1M tmpfs models"
    printed = mounted(tmp_path, "build(3_000_000)\nos.chmod(work, 0o777)\n" + textwrap.dedent(body), mount).splitlines()
    assert printed[0].startswith("True models/m: cannot be written: Disk quota exceeded")
    assert printed[1] == "[]"


def test_a_whole_stage_publishes_across_file_systems(tmp_path):
    """The engine of the stages, with `.work` and `models` on different mounts."""
    text = (ROOT / "params.yaml").read_text("utf-8").replace("enabled: true", "enabled: false", 1)
    (tmp_path / "params.yaml").write_text(text, "utf-8")
    body = """
        from stages.run import stage
        with stage("pretrain", None) as run:
            deep = run.out("models/m") / "deep"
            deep.mkdir(parents=True)
            (deep / "config.json").write_text("{}")
            run.write_metrics({"loss": 1.0})
        print(content(models), Path("reports/pretrain/metrics.json").is_file(), os.listdir(".work/pretrain"))
        """
    assert mounted(tmp_path, body) == "{'m/deep/config.json': 2} True ['lock']\n"
