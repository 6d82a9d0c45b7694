"""`llm repro` on a pipeline of one stage, with the real DVC."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from llm.cli.parser import main
from llm.common import git_here

ROOT = Path(__file__).parents[3]
DVC_YAML = """
stages:
  one:
    cmd: exec python one.py
    deps: [one.py]
    outs: [out.txt]
"""
BEYOND = """
  reason_two:
    cmd: exec python one.py
    deps: [one.py]
    outs: [two.txt]
"""
SLEEPS = """
import os, signal, sys, time
def stop(number, frame):
    open("stopped", "w").write(signal.Signals(number).name)
    sys.exit(128 + number)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
open("pid.tmp", "w").write(str(os.getpid()))
os.rename("pid.tmp", "pid")
time.sleep(60)
"""
WRITES = "import sys; open('out.txt', 'w').write(sys.executable)"


@pytest.fixture
def folder(tmp_path):
    """A project without git whose stage writes which interpreter runs it."""
    (tmp_path / ".dvc").mkdir()
    shutil.copyfile(ROOT / ".dvc/config", tmp_path / ".dvc/config")
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    (tmp_path / "one.py").write_text(WRITES)
    return tmp_path


def start(folder, *words):
    """Start it in an environment that is not activated, in a process group of its own."""
    environment = {**os.environ, "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "llm", "repro", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen(command, cwd=folder, env=environment, **pipes)


def repro(folder, *words):
    with start(folder, *words) as process:
        out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for(path):
    end = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    return path.read_text()


@pytest.mark.slow
def test_repro_runs_what_has_changed_and_shows_the_report(folder):
    code, out, err = repro(folder)
    assert (code, err) == (0, "")
    assert (folder / "out.txt").read_text() == sys.executable  # though `python` on PATH is another or none
    assert out.index("DVC works without git") < out.index("Running stage 'one'") < out.index("\nNext:\n")
    code, out, _ = repro(folder)
    assert code == 0
    assert "Running stage" not in out
    code, out, _ = repro(folder, "--force", "one")
    assert code == 0
    assert "Running stage 'one'" in out


@pytest.mark.slow
def test_stages_of_appendix_f_run_only_if_they_are_named(folder):
    (folder / "dvc.yaml").write_text(DVC_YAML + BEYOND)
    (folder / "one.py").write_text("open('out.txt', 'w').write('1'); open('two.txt', 'w').write('2')")
    assert "reason_two" not in repro(folder)[1]
    assert "Running stage 'reason_two'" in repro(folder, "reason_two")[1]


@pytest.mark.slow
@pytest.mark.parametrize("names", [["one"], []])
def test_words_after_two_dashes_are_options_of_dvc(folder, names):
    (folder / "dvc.yaml").write_text(DVC_YAML + BEYOND)
    code, out, _ = repro(folder, *names, "--", "--dry")
    assert code == 0
    assert "Running stage 'one'" in out
    assert "reason_two" not in out
    assert not (folder / "out.txt").exists()


@pytest.mark.parametrize(
    ("words", "announced", "run"),
    [
        ([], ["one"], ["one"]),
        (["--", "--dry", "-k"], ["one"], ["--dry", "-k", "one"]),
        (["reason_two", "--", "--dry"], ["reason_two"], ["--dry", "reason_two"]),
        (["--force"], None, ["--force", "one"]),
    ],
)
def test_options_alone_leave_the_chapters(folder, monkeypatch, words, announced, run):
    (folder / "dvc.yaml").write_text(DVC_YAML + BEYOND)
    monkeypatch.chdir(folder)
    given = {}
    monkeypatch.setattr("llm.cli.plan.announce", lambda names: given.update(announced=names))
    monkeypatch.setattr("llm.cli.repro.run_dvc", lambda words: given.update(run=words) or "")
    main(["repro", *words])
    assert (given.get("announced"), given["run"]) == (announced, run)


@pytest.mark.parametrize(("targets", "number"), [([], 1), (["reason_two"], 1), (["dvc.yaml"], 2)])
def test_a_plan_is_of_the_stages_that_a_run_would_take(folder, monkeypatch, capsys, targets, number):
    (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    (folder / "dvc.yaml").write_text(DVC_YAML + BEYOND)
    monkeypatch.chdir(folder)
    main(["plan", "--brief", *targets])
    assert capsys.readouterr().out.startswith(f"plan: {number} of {number} stages run; ")


@pytest.mark.slow
def test_the_exit_code_of_dvc_is_passed_on_without_a_report(folder):
    (folder / "one.py").write_text("raise SystemExit(3)")
    code, out, err = repro(folder)
    assert code == 255
    assert "exited with 3" in err
    assert "Next:" not in out


@pytest.mark.slow
def test_ctrl_c_ends_the_stage_and_dvc_and_leaves_with_one_line(folder):
    (folder / "one.py").write_text(SLEEPS)
    with start(folder) as process:
        pid = int(wait_for(folder / "pid"))
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert err.splitlines()[-1] == (
        "error: interrupted: by SIGINT; finished stages are kept | fix: run the same command again"
    )
    assert (folder / "stopped").read_text() == "SIGINT"
    assert not psutil.pid_exists(pid)
    (folder / "one.py").write_text(WRITES)
    assert repro(folder)[0] == 0


@pytest.mark.slow
def test_sigterm_is_passed_on_to_the_stage(folder):
    (folder / "one.py").write_text(SLEEPS)
    with start(folder) as process:
        pid = int(wait_for(folder / "pid"))
        process.terminate()
        _, err = process.communicate(timeout=300)
    assert process.returncode == 143
    assert err.splitlines()[-1].startswith("error: terminated: by SIGTERM; ")
    assert (folder / "stopped").read_text() == "SIGTERM"
    assert not psutil.pid_exists(pid)


@pytest.mark.slow
def test_a_killed_dvc_is_named(folder):
    (folder / "one.py").write_text(SLEEPS)
    with start(folder) as process:
        pid = int(wait_for(folder / "pid"))
        psutil.Process(pid).parent().kill()
        psutil.Process(pid).kill()
        _, err = process.communicate(timeout=300)
    assert process.returncode == 137
    assert err.splitlines()[-1].startswith("error: dvc was killed: by SIGKILL; ")


def test_repair_follows_the_folder_into_git_and_out_of_it(folder):
    local = folder / ".dvc/config.local"
    local.write_text("[cache]\n    type = copy\n")

    def repair():
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "llm", "repair"]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout

    assert repair() == "DVC works without git from now on: .dvc/config.local\n"
    assert repair() == ""
    assert "no_scm = true" in local.read_text()
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    assert repair() == "DVC works with git from now on: .dvc/config.local\n"
    assert repair() == ""
    assert "no_scm" not in local.read_text()
    assert "type = copy" in local.read_text()


def test_repair_finds_the_git_of_a_larger_repository(tmp_path):
    (project := tmp_path / "a" / "pröject").mkdir(parents=True)
    assert not git_here.holds(project)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert git_here.holds(project)
    (tmp_path / ".gitignore").write_text("/a/\n")  # as a copy below .work
    assert not git_here.holds(project)
    (project / ".git").mkdir()
    assert git_here.holds(project)


def test_a_circle_ends_it_with_what_to_do(folder):
    (folder / "dvc.yaml").write_text(DVC_YAML.replace("deps: [one.py]", "deps: [out.txt]"))
    process = start(folder)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors.count("error:")) == (2, 1)
    assert "one: a circle, in which a stage would start from its own output | fix: copy that model" in errors
