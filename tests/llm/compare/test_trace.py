"""`llm trace` on a pipeline of two stages, with the real DVC; each printed command is run as printed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from llm.book.runs import with_python
from llm.cli.parser import main
from llm.common import files, params
from tests.forks import warm
from tests.llm.compare.conftest import git, new_repository

ROOT = Path(__file__).parents[3]
PIPED = {"capture_output": True, "text": True}
DVC_YAML = """
stages:
  words:
    cmd: python words.py
    params: [words]
    deps: [words.py, source.txt]
    outs: [data/words]
  model:
    cmd: python model.py
    params: [model.size]
    deps: [model.py, data/words]
    outs: [models/a]
    metrics:
      - reports/a.json: {cache: false}
"""
WORDS = """
import pathlib, ruamel.yaml
folder = pathlib.Path("data/words"); folder.mkdir(parents=True, exist_ok=True)
n = ruamel.yaml.YAML(typ="safe").load(open("params.yaml"))["words"]
text = open("source.txt").read()
(folder / "one.txt").write_text(text * n)
(folder / "two.txt").write_text(text.upper() * n)
"""
MODEL = """
import pathlib, ruamel.yaml
size = ruamel.yaml.YAML(typ="safe").load(open("params.yaml"))["model"]["size"]
for name in ("models/a", "reports"):
    pathlib.Path(name).mkdir(parents=True, exist_ok=True)
text = pathlib.Path("data/words/one.txt").read_text()
pathlib.Path("models/a/weights").write_text(text[:size])
pathlib.Path("reports/a.json").write_text(str(size))
"""


def dvc(*words: str) -> None:
    done = subprocess.run([warm(), "-m", "dvc", *words], check=False, env=with_python(), **PIPED)
    assert done.returncode == 0, done.stdout + done.stderr


def write_params(words: int, size: int) -> None:
    runtime = params.load(ROOT / "params.yaml")["runtime"]  # which the report of `llm repro` reads
    files.write_text("params.yaml", yaml.safe_dump({"words": words, "model": {"size": size}, "runtime": runtime}))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with a remote and two commits: the model of 5 letters, then the one of 7."""
    folder = tmp_path_factory.mktemp("trace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        new_repository(patch)
        (folder / ".dvc").mkdir()
        shutil.copyfile(ROOT / ".dvc/config", ".dvc/config")
        ignored = ".dvc/cache\n.dvc/tmp\n.dvc/config.local\n/store\n/data\n/models\n/.work\n"
        texts = {"dvc.yaml": DVC_YAML, "words.py": WORDS, "model.py": MODEL, "source.txt": "abc", ".gitignore": ignored}
        for name, text in texts.items():
            files.write_text(name, text)
        for number, size in enumerate((5, 7)):
            write_params(4, size)
            dvc("repro", "-q")
            git("add", "-A")
            git("commit", "-q", "-m", f"run {number}")
    return folder


@pytest.fixture
def project(made, tmp_path, monkeypatch):
    """A copy of it as the working directory."""
    folder = tmp_path / "project"
    shutil.copytree(made, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", with_python()["PATH"])  # as in an environment that is activated
    monkeypatch.setenv("COLUMNS", "100")
    return folder


@pytest.fixture
def trace(project, capsys):
    """Run `llm trace`; return its exit code and what it printed on both streams."""

    def run(*words: str) -> tuple[int, str, str]:
        try:
            main(["trace", *words])
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def command(out: str) -> str:
    """The printed command."""
    return out.rstrip().splitlines()[-1].removeprefix("  ")


def run_as_printed(out: str) -> None:
    """Run the printed command in a shell, as in an environment that is activated."""
    environment = os.environ | {"PATH": f"{warm().parent}{os.pathsep}{with_python()['PATH']}"}
    done = subprocess.run(command(out), check=False, shell=True, env=environment, **PIPED)
    assert done.returncode == 0, f"{command(out)}\n{done.stdout}{done.stderr}"


def test_a_folder_is_traced_both_ways(trace):
    code, out, err = trace("data/words")
    assert (code, err) == (0, "")
    md5 = files.dvc_md5("data/words")
    assert f"data/words  {md5}" in out
    assert "stage words" in out
    assert out.index("run 0") < out.index("run 1")  # the first and the last commit
    assert "source.txt" in out
    assert "a source" in out
    used = out[out.index("Used by") : out.index("Held by")]
    assert f"models/a  {files.dvc_md5('models/a')[:12]}" in used
    assert used.count("model ") >= 2  # with size 5 and with size 7
    assert max(map(len, out.splitlines()[:-1])) <= 100


def test_all_shows_the_tree_up_to_the_sources(trace):
    assert "source.txt" not in trace("models/a")[1]
    assert f"source.txt  {files.dvc_md5('source.txt')[:12]}  a source" in trace("models/a", "--all")[1]


def test_a_folder_of_outputs_is_made_by_their_stages(trace):
    lock = yaml.safe_load(Path("dvc.lock").read_text())
    for name in ("a", "b"):
        outs = [{"path": f"data/answers/{name}", "md5": name * 32}]
        deps = [{"path": "models/a", "md5": files.dvc_md5("models/a")}]
        lock["stages"][f"answer@{name}"] = {"cmd": f"answer {name}", "deps": deps, "outs": outs}
    reads = {"data/answers": "c" * 32, "data/words/one.txt": files.dvc_md5("data/words/one.txt")}
    deps = [{"path": path, "md5": md5} for path, md5 in reads.items()]
    outs = [{"path": "reports/sum.json", "md5": "d" * 32}]
    lock["stages"]["sum"] = {"cmd": "sum", "deps": deps, "outs": outs}
    files.write_text("dvc.lock", yaml.safe_dump(lock, sort_keys=False))
    near = trace("reports/sum.json")[1]
    assert f"data/answers  {'c' * 12}  by answer@a, answer@b" in near
    assert f"data/words/one.txt  {reads['data/words/one.txt'][:12]}  by words" in near
    assert "source" not in near[near.index("Made from (") :].partition("\n")[2].partition("Held by")[0]
    assert "source.txt" in trace("reports/sum.json", "--all")[1]
    assert "stage answer@a, answer@b: each makes a part of it" in trace("data/answers")[1]


def test_a_file_an_md5_and_its_start_name_the_same_artifact(trace):
    md5 = files.dvc_md5("models/a")
    inner = files.dvc_md5("models/a/weights")
    absolute, roundabout = str(Path("models/a").absolute()), "data/words/../../models/./a"
    for what in ("models/a", "models/a/weights", absolute, roundabout, md5, md5[:8], inner, inner[:8]):
        code, out, err = trace(what)
        assert (code, err) == (0, "")
        assert f"models/a  {md5}" in out
        assert ("the file" in out) == (what in ("models/a/weights", inner, inner[:8])), what


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nothing", "no output or input of a stage, no md5 in dvc.lock, git or the cache of runs, and no MLflow run"),
        ("data", "'data' holds 1 artifacts: data/words | fix: name one of these"),
        ("f" * 32, "no MLflow run"),
        ("models/a/weight", "is not in the output models/a | fix: did you mean models/a/weights?"),
        ("models/a/weights/x", "is not in the output models/a | fix: "),
        ("models/a/../nothing", "no output or input of a stage"),
        ("source.txt/x", "is not in the output source.txt | fix: name source.txt"),
    ],
)
def test_what_stands_for_nothing_is_a_wrong_command_line(trace, what, said):
    code, _, err = trace(what)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1


def test_without_the_program_git_it_tells_what_it_tells_without_a_repository(trace, tmp_path, monkeypatch):
    assert "run 0" in trace("data/words")[1]
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    found = [trace(what) for what in ("data/words", "reports/a.json")]
    shutil.rmtree(".git")
    files.write_text(".dvc/config.local", "[core]\n    no_scm = true\n")
    assert found == [trace(what) for what in ("data/words", "reports/a.json")]
    assert [(code, err) for code, _, err in found] == [(0, "")] * 2
    assert f"data/words  {files.dvc_md5('data/words')}" in found[0][1]
    assert "run 0" not in found[0][1]


@pytest.mark.slow
def test_the_printed_command_restores_from_the_cache(trace):
    md5 = files.dvc_md5("models/a")
    shutil.rmtree("models/a")
    out = trace("models/a")[1]
    assert command(out) == "python -m dvc checkout models/a"
    run_as_printed(out)
    assert files.dvc_md5("models/a") == md5


@pytest.mark.slow
def test_it_overwrites_a_changed_output_and_says_so(trace):
    md5 = files.dvc_md5("models/a")
    Path("models/a/weights").unlink()  # perhaps a hard link into the cache
    files.write_text("models/a/weights", "other")
    out = trace("models/a")[1]
    assert "it overwrites what is there now" in out
    run_as_printed(out)
    assert files.dvc_md5("models/a") == md5


@pytest.mark.slow
@pytest.mark.parametrize("default", [True, False], ids=["default", "named"])
def test_the_printed_command_restores_from_a_remote(trace, tmp_path, default):
    md5 = files.dvc_md5("models/a")
    dvc("remote", "add", *(["-d"] if default else []), "store", str(tmp_path / "store"))
    dvc("push", "-q", "-r", "store")
    shutil.rmtree(".dvc/cache/files")
    shutil.rmtree("models/a")
    out = trace("models/a")[1]
    assert command(out) == f"python -m dvc pull{'' if default else ' -r store'} models/a"
    run_as_printed(out)
    assert files.dvc_md5("models/a") == md5


@pytest.mark.slow
def test_a_damaged_object_is_taken_from_the_remote(trace, tmp_path):
    md5, name = files.dvc_md5("models/a"), files.dvc_md5("models/a/weights")
    dvc("remote", "add", "-d", "store", str(tmp_path / "store"))
    dvc("push", "-q")
    path = Path(".dvc/cache/files/md5", name[:2], name[2:])
    path.unlink()
    path.write_text("bad")
    path.chmod(0o444)
    shutil.rmtree("models/a")
    out = trace("models/a")[1]
    assert f"damaged:{path.absolute()}" in "".join(out.split())  # it may be folded
    run_as_printed(out)
    assert files.dvc_md5("models/a") == md5


@pytest.mark.slow
@pytest.mark.parametrize("holder", ["cache", "remote"])
def test_an_earlier_version_comes_back_with_its_lock(trace, tmp_path, holder):
    shutil.rmtree("models/a")
    git("checkout", "-q", "HEAD~1", "--", "dvc.lock")
    dvc("checkout", "-q", "models/a")
    md5 = files.dvc_md5("models/a")
    if holder == "remote":
        dvc("remote", "add", "-d", "store", str(tmp_path / "store"))
        dvc("push", "-q", "models/a")
    git("checkout", "-q", "HEAD", "--", "dvc.lock")
    if holder == "remote":
        shutil.rmtree(".dvc/cache/files")
    out = trace(md5)[1]
    rev = git("rev-parse", "HEAD~1")[:12]
    assert command(out).startswith(f"git checkout {rev} -- dvc.lock && python -m dvc ")
    shutil.rmtree("models/a")
    run_as_printed(out)
    assert files.dvc_md5("models/a") == md5


@pytest.mark.slow
def test_a_report_comes_from_git(trace):
    Path("reports/a.json").unlink()
    out = trace("reports/a.json")[1]
    assert command(out) == f"git checkout {git('rev-parse', 'HEAD')[:12]} -- reports/a.json"
    run_as_printed(out)
    assert Path("reports/a.json").read_text() == "7"


@pytest.mark.slow
def test_what_only_the_disk_holds_is_not_made_again(trace):
    shutil.rmtree(".dvc/cache/files")
    assert trace("models/a")[1].rstrip().endswith("nowhere else: copy it before a run or a checkout replaces it")


@pytest.mark.slow
def test_what_nothing_holds_is_made_again(trace):
    md5, old = files.dvc_md5("models/a"), git("rev-parse", "HEAD~1")[:12]
    shutil.rmtree(".dvc/cache/files")
    shutil.rmtree("models/a")
    out = trace("models/a")[1]
    assert command(out) == "python -m llm repro model"
    write_params(4, 9)  # now the stage would make another model
    out = trace("models/a")[1]
    assert command(out).startswith(f"git worktree add .work/trace/{git('rev-parse', 'HEAD')[:12]} ")
    run_as_printed(out)
    assert old not in command(out)
    assert files.dvc_md5(Path(".work/trace", git("rev-parse", "HEAD")[:12], "models/a")) == md5


@pytest.mark.slow
def test_a_run_that_no_lock_records_comes_from_the_cache_of_runs(trace):
    write_params(4, 3)
    dvc("repro", "-q")
    md5 = files.dvc_md5("models/a")
    git("checkout", "-q", "--", "dvc.lock", "params.yaml")
    code, out, _ = trace(md5)
    assert code == 0
    assert "cache of runs" in out
    run_as_printed(out)
    assert files.dvc_md5("restored-a") == md5
