"""DVC around our stages: failing, killed, doubled, with a damaged cache and every type of link; the same bytes after.

The stage is a download from a server of ours, which keeps its answer back until a test lets it go.
"""

from __future__ import annotations

import hashlib
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llm.common import files
from llm.common.errors import UserError
from tests.stages.project import ROOT, Project

pytestmark = pytest.mark.slow

STAGE, OUT = "download@spam", "data/raw/spam"
BODY = b"ham\tsee you at noon\nspam\twin a prize now\n"


class Server:
    """Answers with `body` once it may; knows when it has been asked."""

    def __init__(self) -> None:
        self.asked, self.may = threading.Event(), threading.Event()
        self.reset()
        owner = self

        class Exchange(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.asked.set()
                owner.may.wait(300)
                with suppress(ConnectionError):  # who asked has been killed
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(owner.body)))
                    self.end_headers()
                    self.wfile.write(owner.body)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Exchange)
        self.http.daemon_threads = True
        self.http.block_on_close = False
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def reset(self) -> None:
        self.asked.clear()
        self.may.set()
        self.body = BODY

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/spam.tsv"


@pytest.fixture(scope="module")
def one_server() -> Iterator[Server]:
    one = Server()
    yield one
    one.http.shutdown()
    one.http.server_close()


@pytest.fixture
def server(one_server: Server) -> Iterator[Server]:
    yield one_server
    one_server.reset()  # also lets go who still waits for an answer


@pytest.fixture(scope="module")
def checked_once(one_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project.create(tmp_path_factory.mktemp("checked") / "project")
    shutil.copytree(ROOT / "data/web", made.folder / "data/web")
    made.set(tracking={"enabled": False}, runtime={"kernels": "native"}, download={"spam": source(one_server, BODY)})
    assert made.repro("check") == ["check"]
    return made


@pytest.fixture(scope="module")
def downloaded_once(checked_once: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = checked_once.copy(tmp_path_factory.mktemp("downloaded") / "project")
    assert made.repro(STAGE) == [STAGE]
    return made


@pytest.fixture
def checked(checked_once: Project, server: Server, tmp_path: Path) -> Project:
    """A project whose parameters are checked, and nothing is downloaded."""
    return checked_once.copy(tmp_path / "project")


@pytest.fixture
def project(downloaded_once: Project, server: Server, tmp_path: Path) -> Project:
    """A project with the download."""
    return downloaded_once.copy(tmp_path / "project")


def source(server: Server, body: bytes) -> dict[str, object]:
    pin = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}
    return {"source": "data/web", "files": [{"name": "spam.tsv", "url": server.url, **pin}]}


def cached(project: Project) -> dict[str, bytes]:
    """Every object of the cache; beside them it records runs, of `check` too."""
    return project.bytes(".dvc/cache/files")


def out(project: Project) -> bytes:
    return (project.folder / OUT / "spam.tsv").read_bytes()


def stage_ended(project: Project) -> bool:
    """Whether the stage has given its lock back within two minutes."""
    for _ in range(1200):
        try:
            with files.lock(project.folder / ".work" / STAGE / "lock"):
                return True
        except UserError:
            time.sleep(0.1)
    return False


def test_a_failed_stage_that_is_committed_by_force_leaves_nothing_wrong(project, server):
    lock, objects = (project.folder / "dvc.lock").read_bytes(), cached(project)
    project.set(download={"spam": source(server, BODY + b"ham\tone more\n")})  # not what the server sends
    assert project.run("dvc", "repro", STAGE, ok=False).returncode != 0

    project.run("dvc", "commit", "-f", STAGE, ok=False)

    assert set(cached(project)) <= set(objects)  # nothing half-done is kept
    server.body = BODY + b"ham\tone more\n"
    project.repro(STAGE)
    assert out(project) == server.body
    assert not set(cached(project)) <= set(objects)  # the control: what is done is kept
    server.body = BODY
    project.set(download={"spam": source(server, BODY)})
    project.repro(STAGE)
    assert out(project) == BODY
    assert (project.folder / "dvc.lock").read_bytes() == lock


def test_after_a_failed_stage_the_old_output_is_one_checkout_away(project, server):
    lock = (project.folder / "dvc.lock").read_bytes()
    server.body = BODY.swapcase()
    project.set(download={"spam": source(server, BODY + b"ham\tone more\n")})
    assert project.run("dvc", "repro", STAGE, ok=False).returncode != 0
    assert not (project.folder / OUT / "spam.tsv").exists()  # the control: there is something to bring back
    project.run("dvc", "checkout", STAGE)
    assert out(project) == BODY
    entry = lock[lock.index(STAGE.encode()) :]
    assert (project.folder / "dvc.lock").read_bytes().endswith(entry)


def test_after_a_failed_stage_the_values_from_before_bring_its_reports_back_too(tmp_path):
    project, stage, results = Project.create(tmp_path / "project"), "tokenize@spam", ("data/spam", "reports/tokenize")
    project.set(tracking={"enabled": False})
    before = (project.folder / "params.yaml").read_bytes()
    project.repro(stage)
    good = project.bytes(*results)
    project.set(tokenize={"spam": {"labels": {"good": "good", "bad": "bad"}}})  # not those of the file
    assert project.run("dvc", "repro", stage, ok=False).returncode != 0
    assert project.bytes("reports/tokenize") == {}  # the control: there is something to bring back
    (project.folder / "params.yaml").write_bytes(before)
    project.repro(stage)
    assert project.bytes(*results) == good != {}


def test_a_second_repro_beside_a_running_one_changes_nothing(checked, server):
    server.may.clear()
    with checked.start("dvc", "repro", STAGE) as first:
        assert server.asked.wait(300)
        before = checked.bytes("data", "reports")
        second = checked.run("dvc", "repro", STAGE, ok=False)
        assert checked.bytes("data", "reports") == before
        server.may.set()
        _, err = first.communicate()
    assert second.returncode != 0, second.stdout
    assert first.returncode == 0, err
    assert out(checked) == BODY
    assert checked.repro(STAGE) == []  # the control: alone it may


@pytest.mark.parametrize(
    "shell", ["", pytest.param("/bin/sh", marks=pytest.mark.long), pytest.param("/bin/bash", marks=pytest.mark.long)]
)  # dvc runs its commands in this one
def test_a_stage_ends_with_the_dvc_that_started_it(shell, checked, server):
    server.may.clear()
    with checked.start("dvc", "repro", STAGE, env={"SHELL": shell}) as process:
        assert server.asked.wait(300)
        process.send_signal(signal.SIGKILL)
        ended = stage_ended(checked)  # its output pipes stay open until then
        process.communicate()
    assert ended
    assert not (checked.folder / OUT / "spam.tsv").exists()
    server.may.set()
    assert STAGE in checked.repro(STAGE)
    assert out(checked) == BODY


def test_a_stage_on_its_own_goes_on_when_its_parent_is_killed(checked, server):
    """Control of the one above: without DVC nothing ends it."""
    server.may.clear()
    with checked.start("stages.download", "spam") as process:
        assert server.asked.wait(300)
        assert process.poll() is None
        with pytest.raises(UserError), files.lock(checked.folder / ".work" / STAGE / "lock"):
            pass
        server.may.set()
        process.communicate()
    assert process.returncode == 0


@pytest.mark.parametrize(
    "kind", ["copy", pytest.param("hardlink", marks=pytest.mark.long), pytest.param("symlink", marks=pytest.mark.long)]
)
def test_every_type_of_link_to_the_cache_gives_the_same(kind, checked, server):
    (checked.folder / ".dvc/config.local").write_text(f"[core]\n    no_scm = true\n[cache]\n    type = {kind}\n")
    checked.repro(STAGE)
    first = cached(checked)
    path = checked.folder / OUT / "spam.tsv"
    linked = {"copy": False, "hardlink": path.stat().st_nlink > 1, "symlink": path.is_symlink()}
    assert linked[kind] == (kind != "copy")
    server.body = BODY + b"ham\tone more\n"
    checked.set(download={"spam": source(server, server.body)})
    checked.repro(STAGE)
    assert out(checked) == server.body
    assert {name: cached(checked)[name] for name in first} == first  # not written through the link
    checked.set(download={"spam": source(server, BODY)})
    checked.repro(STAGE)
    assert out(checked) == BODY
    objects = cached(checked)
    path.chmod(0o644)
    path.write_bytes(b"by hand")
    assert (cached(checked) == objects) == (kind == "copy")  # the control: a link can be written through


def damaged_object(project: Project) -> Path:
    """Turn the case of the letters in the object of our output."""
    md5 = hashlib.md5(BODY).hexdigest()
    (name,) = [name for name in cached(project) if name.endswith(f"{md5[:2]}/{md5[2:]}")]
    path = project.folder / name
    path.chmod(0o644)
    path.write_bytes(BODY.swapcase())
    path.chmod(0o444)
    return path


def found_damage(project: Project) -> str:
    done = project.run("llm", "fsck", ok=False)
    assert done.returncode == 3
    return done.stderr.splitlines()[-1]


def repaired(project: Project) -> str:
    said = project.run("llm", "fsck", "--repair").stdout
    assert said.splitlines()[-1].endswith("outputs match dvc.lock")
    assert out(project) == BODY
    assert project.run("llm", "fsck").stdout.splitlines()[-1] == said.splitlines()[-1]
    return said


def test_a_damaged_object_comes_from_the_output_on_the_disk(project, server):
    project.run("dvc", "config", "--local", "cache.type", "copy")
    path = damaged_object(project)
    line = found_damage(project)
    assert line.startswith(f"error: {OUT}: is as recorded; in the DVC cache ")
    assert line.endswith("fsck --repair` copies it into the cache")
    assert f"{OUT}: copied into the cache" in repaired(project)
    assert path.read_bytes() == BODY
    assert path.stat().st_mode & 0o777 == 0o444


def test_a_damaged_output_comes_from_the_cache(project, server):
    (project.folder / OUT / "spam.tsv").unlink()
    (project.folder / OUT / "spam.tsv").write_bytes(BODY.swapcase())
    assert found_damage(project).endswith("fsck --repair` takes it from the cache")
    assert f"{OUT}: taken from the cache" in repaired(project)


def test_a_damaged_object_without_an_output_comes_from_the_remote(project, server):
    project.run("dvc", "remote", "add", "--local", "-d", "store", str(project.folder / "store"))
    project.run("dvc", "push", STAGE)
    damaged_object(project)
    shutil.rmtree(project.folder / OUT)
    assert found_damage(project).endswith(f"fsck --repair` pulls it from the remote or runs {STAGE} again")
    assert f"{OUT}: pulled from the remote" in repaired(project)


def test_a_damaged_object_without_an_output_or_a_remote_is_made_again(project, server):
    damaged_object(project)
    shutil.rmtree(project.folder / OUT)
    project.run("dvc", "checkout", STAGE, ok=False)
    assert f"runs {STAGE} again" in found_damage(project)
    assert f"run again: {STAGE}" in repaired(project)


def cut_lock(project: Project) -> None:
    lock = project.folder / "dvc.lock"
    lock.write_bytes(lock.read_bytes()[:-40] + b"\n  - path: '")


def cut_lock_between(project: Project) -> None:
    """Where what is left is YAML still, but not a lock."""
    lock = project.folder / "dvc.lock"
    lock.write_text(lock.read_text().rpartition("- path: ")[0] + "- path:")


def empty_lock(project: Project) -> None:
    (project.folder / "dvc.lock").write_bytes(b"")


def cut_rwlock(project: Project) -> None:
    (project.folder / ".dvc/tmp/rwlock").write_text('{"data/raw')


def empty_run(project: Project) -> None:
    """As a dvc that was killed between making the folder of a run and moving the run there."""
    (folder,) = (path for path in (project.folder / ".dvc/cache/runs").glob("*/*") if mentions(path, STAGE))
    for path in folder.iterdir():
        path.unlink()
    lock = project.folder / "dvc.lock"
    shutil.rmtree(project.folder / OUT)
    lock.write_text(lock.read_text().partition(f"  {STAGE}:")[0])


def mentions(folder: Path, stage: str) -> bool:
    return any(stage.replace("@", " ") in path.read_text() for path in folder.iterdir())


@pytest.mark.parametrize(
    "leave",
    [
        pytest.param(cut_lock, id="lock"),
        pytest.param(cut_lock_between, id="lock between", marks=pytest.mark.long),
        pytest.param(empty_lock, id="empty lock", marks=pytest.mark.long),
        pytest.param(cut_rwlock, id="rwlock"),
        pytest.param(empty_run, id="run"),
    ],
)
def test_what_a_killed_dvc_leaves_is_repaired(leave, project, server):
    assert project.run("llm", "repair").stdout == ""
    lock = (project.folder / "dvc.lock").read_bytes()
    leave(project)
    assert project.run("dvc", "repro", STAGE, ok=False).returncode != 0  # without repair

    said = project.run("llm", "repair").stdout

    assert len(said.splitlines()) == 1
    project.repro(STAGE)
    assert out(project) == BODY
    assert (project.folder / "dvc.lock").read_bytes() == lock
    assert project.run("llm", "repair").stdout == ""


def test_nothing_is_repaired_beside_a_dvc_at_work(project, server):
    cut_rwlock(project)
    with files.lock(project.folder / ".dvc/tmp/lock"):
        done = project.run("llm", "repair", ok=False)
    assert done.returncode == 7
    assert "DVC is running" in done.stderr
    assert (project.folder / ".dvc/tmp/rwlock").read_text() == '{"data/raw'


def test_where_no_dvc_can_work_there_is_nothing_to_repair(tmp_path):
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    done = Project(tmp_path).run("llm", "repair", ok=False, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}: you are not inside of a DVC repository")
