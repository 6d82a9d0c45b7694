"""The console itself: its help, names, suggestions, launcher and completion."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import shtab

from llm.cli import parser, program, project
from llm.common import params
from llm.evaluate.judge_config import JudgeConfig
from stages.schema import AllParams

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
SYSTEM = "/usr/bin:/bin"
ACTIVATED = f"{BIN}:{SYSTEM}"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project with the parameters and profiles only, in an activated environment."""
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", ACTIVATED)
    return tmp_path


@pytest.fixture
def launcher(tmp_path):
    """`.venv/bin/llm`, as the Makefile's own line installs it, beside an interpreter."""
    made = tmp_path / "moved" / ".venv" / "bin"
    made.mkdir(parents=True)
    rules = (ROOT / "Makefile").read_text("utf-8")
    (line,) = re.findall(r"^\t@(install .*llm/cli/launcher) \.venv/bin/llm$", rules, re.M)
    subprocess.run([*line.split(), str(made / "llm")], cwd=ROOT, check=True)
    (made / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (made / "python").chmod(0o755)
    return made / "llm"


def left(capsys, *words):
    """The exit code of a command that ends the process, and what it printed."""
    with pytest.raises(SystemExit) as end:
        parser.main(words)
    return end.value.code, capsys.readouterr()


def refused(capsys, *words):
    code, printed = left(capsys, *words)
    assert (code, printed.out) == (2, "")
    return printed.err


def run(*command, path=ACTIVATED, cwd=ROOT):
    environment = {**os.environ, "PATH": path}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_without_arguments_the_help_is_shown():
    asked, plain = run(sys.executable, "-m", "llm", "--help"), run(sys.executable, "-m", "llm")
    assert (plain.returncode, plain.stderr) == (0, "")
    assert plain.stdout == asked.stdout


def test_the_help_lists_every_command_once_below_its_heading(capsys):
    _, printed = left(capsys, "--help")
    lines = printed.out.splitlines()
    headings = [line for line in lines if re.fullmatch(r"[A-Z]\w+:", line)]
    assert headings == ["Pipeline:", "Models:", "Judge:", "Book:", "Shell:"]
    listed = [line.split()[0] for line in lines[lines.index("Pipeline:") :] if line.startswith("  ")]
    assert listed == list(commands())


def commands():
    (found,) = [action.choices for action in parser.parser()._actions if isinstance(action.choices, dict)]
    return found


def test_the_version_is_that_of_pyproject(capsys, monkeypatch, tmp_path):
    said = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    code, printed = left(capsys, "--version")
    assert (code, printed.out) == (0, f"{said}\n")
    monkeypatch.setattr(program, "PYPROJECT", tmp_path / "pyproject.toml")
    for name, version in (("other", "unknown"), ("llm_from_scratch_pipeline", "7.8.9")):
        metadata = tmp_path / f"{name}-7.8.9.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 7.8.9\n")
        monkeypatch.syspath_prepend(tmp_path)
        assert program.version() == version


LOADED = """
import atexit, sys
from llm.cli.parser import main
atexit.register(lambda: print("loaded:", {"torch", "mlflow", "dvc", "pandas"} & set(sys.modules)))
main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["report"], ["use", "--list"], ["use", "smok"], ["completion", "bash"], ["x"]]
)
def test_what_needs_no_model_does_not_import_torch_or_mlflow(words):
    assert run(sys.executable, "-c", LOADED, *words).stdout.endswith("loaded: set()\n")


@pytest.mark.parametrize(
    ("words", "what", "fix"),
    [
        (["repor"], "'repor' is not a command", "did you mean report?"),
        (["xyz"], "'xyz' is not a command", "see `python -m llm --help`"),
        (["--verson"], "--verson is not an option", "did you mean --version?"),
        (["generate", "--modle", "x", "text"], "--modle is not an option", "did you mean --model?"),
        (["generate", "--max-tokens=3"], "--max-tokens is not an option", "did you mean --max-new-tokens?"),
        (["report", "--xyz"], "--xyz is not an option", "see `python -m llm report --help`"),
        (["report", "now"], "'now' is one argument too many", "see `python -m llm report --help`"),
        (
            ["judge", "a.json", "--backend", "olama"],
            "--backend: 'olama' is not one of reference, ollama, openai",
            "did you mean ollama?",
        ),
        (["completion", "bsh"], "shell: 'bsh' is not one of bash, zsh, tcsh", "did you mean bash?"),
        (["judge"], "the following arguments are required: file", "see `python -m llm judge --help`"),
    ],
)
def test_a_wrong_command_line_is_refused_with_the_nearest_name(words, what, fix, folder, capsys):
    assert refused(capsys, *words) == f"error: command line: {what} | fix: {fix}\n"


def test_the_choices_of_judge_are_those_of_its_section():
    options = {action.dest: action.choices for action in commands()["judge"]._actions}
    hints = get_type_hints(JudgeConfig)
    assert all(options[name] == get_args(hints[name]) for name in ("backend", "prompt", "reply"))


# --- names of profiles ---


@pytest.mark.parametrize(("name", "file"), [("smoke", "smoke.yaml"), ("ablation/small", "ablation/small.yaml")])
def test_use_takes_the_name_of_a_profile(name, file, folder, capsys):
    parser.main(["use", name])
    by_name = (folder / "params.yaml").read_bytes()
    assert by_name != (ROOT / "params.yaml").read_bytes()
    assert f"params.yaml: configs/{file} applied" in capsys.readouterr().out
    shutil.copyfile(ROOT / "params.yaml", folder / "params.yaml")
    parser.main(["use", f"configs/{file}"])
    assert (folder / "params.yaml").read_bytes() == by_name


def test_a_file_comes_before_a_name(folder, capsys):
    (folder / "smoke").write_text("pretrain: {lr: 0.5}\n")
    parser.main(["use", "smoke"])
    assert params.read(AllParams).pretrain.lr == 0.5


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("smok", "did you mean smoke?"),
        ("configs/smok.yaml", "did you mean smoke?"),
        ("smoke.yaml", "did you mean smoke?"),
        ("ablation/smal", "did you mean ablation/small?"),
        ("aut", "did you mean auto?"),
        ("configs", "name one of these"),
        ("xyz", "name one of these"),
    ],
)
def test_an_unknown_profile_is_refused_with_the_near_one_and_all_names(name, fix, folder, capsys):
    before = (folder / "params.yaml").read_bytes()
    names = ", ".join(project.profile_names())
    what = f"{name!r} is neither a file nor one of the profiles {names}"
    assert refused(capsys, "use", name) == f"error: command line: {what} | fix: {fix}\n"
    assert (folder / "params.yaml").read_bytes() == before


@pytest.mark.slow
def test_the_list_of_profiles_is_what_use_takes(folder, capsys):
    parser.main(["use", "--list"])
    listed = capsys.readouterr().out.splitlines()
    assert listed[0] == "auto"
    assert "ablation/chapter6" not in listed  # the table of variants, no profile
    assert len(listed) == len(list((folder / "configs").rglob("*.yaml")))
    for name in listed[1:]:
        shutil.copyfile(ROOT / "params.yaml", folder / "params.yaml")
        parser.main(["use", name])


# --- what to type ---


@pytest.mark.parametrize("script", ["/anywhere/llm/__main__.py", "/anywhere/.venv/bin/llm"])
@pytest.mark.parametrize("where", ["activated", "in the project", "elsewhere"])
def test_hints_say_what_works_in_the_users_shell(script, where, tmp_path, monkeypatch):
    made = tmp_path / ".venv" / "bin"
    made.mkdir(parents=True)
    (made / "python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "argv", [script])
    monkeypatch.setattr(sys, "executable", str(made / "python"))
    monkeypatch.setenv("PATH", f"{made}:{SYSTEM}" if where == "activated" else SYSTEM)
    monkeypatch.chdir(tmp_path if where == "in the project" else ROOT)
    before = {"activated": "", "in the project": ".venv/bin/", "elsewhere": f"{made}/"}[where]
    assert program.program() == before + ("llm" if script.endswith("bin/llm") else "python -m llm")
    assert program.dvc() == f"{before}python -m dvc"


# --- the launcher and the installed script ---


def test_the_launcher_runs_the_code_of_the_current_folder(launcher, tmp_path):
    assert run(str(launcher), "report", "--help").stdout.startswith("usage: llm report")
    copy = tmp_path / "copy"
    (copy / "llm").mkdir(parents=True)
    (copy / "llm/__main__.py").write_text("import sys\nprint('the copy', sys.argv)\n")
    assert run(str(launcher), "a  b", "*", cwd=copy).stdout == "the copy ['llm', 'a  b', '*']\n"


def test_the_launcher_finds_the_code_with_a_safe_path_too(launcher, monkeypatch):
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    assert "No module named llm" in run(sys.executable, "-m", "llm", "--help").stderr  # the control
    assert run(str(launcher), "report", "--help").stdout.startswith("usage: llm report")


def test_the_launcher_passes_the_exit_code_on(launcher):
    done = run(str(launcher), "repor")
    assert done.returncode == 2
    assert done.stderr == "error: command line: 'repor' is not a command | fix: did you mean report?\n"


def test_the_launcher_outside_of_a_project_says_where_to_go(launcher, tmp_path):
    done = run(str(launcher), "report", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}: no llm/__main__.py here | fix: change to the project's folder\n"


def test_the_launcher_holds_no_absolute_path_and_is_found_on_the_path(launcher):
    assert not re.search(r"[ \"'=]/(?!dev/null)", launcher.read_text("utf-8").partition("\n")[2])
    assert run("llm", "--version", path=f"{launcher.parent}:{SYSTEM}").returncode == 0


def test_the_script_of_pyproject_is_the_parser():
    project_table = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project_table["scripts"] == {"llm": f"{parser.main.__module__}:{parser.main.__name__}"}


# --- completion ---

TRY = """
cd "$2" && eval "$(llm completion bash)"
read -ra COMP_WORDS <<< "$1"
[[ $1 == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
_shtab_llm
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("llm rep", ["repro", "report", "repair"]),
        ("llm use smok", ["smoke"]),
        ("llm use ablation/", ["ablation/random-124M", "ablation/small"]),
        ("llm generate --mod", ["--model"]),
        ("llm judge --backend o", ["ollama", "openai"]),
        ("llm judge pyproj", ["pyproject.toml"]),
        ("llm agree a.json pyproj", ["pyproject.toml"]),
        ("llm generate --model confi", ["configs"]),
        ("llm completion ", ["bash", "zsh", "tcsh"]),
    ],
)
def test_bash_completes(typed, offered, launcher):
    done = run("bash", "-c", TRY, "bash", typed, str(ROOT), path=f"{launcher.parent}:{SYSTEM}")
    assert (done.stdout.split(), done.stderr) == (offered, "")


@pytest.mark.parametrize("shell", parser.SHELLS)
def test_the_completion_is_for_llm_however_it_was_asked_for(shell, capsys, monkeypatch):
    scripts = []
    for argv in ("llm/__main__.py", ".venv/bin/llm"):
        monkeypatch.setattr(sys, "argv", [argv])
        parser.main(["completion", shell])
        scripts.append(capsys.readouterr().out)
    assert scripts[0] == scripts[1] == shtab.complete(parser.parser("llm"), shell) + "\n"


def test_every_command_has_its_help(capsys):
    for name in commands():
        code, printed = left(capsys, name, "--help")
        assert (code, printed.err) == (0, "")
        assert printed.out.startswith("usage: ")


STOP_IN_IMPORTS = """
import os, signal, sys

class Finder:
    def find_spec(self, name, *_):
        if name == "llm.cli.parser":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("installed", [False, True])
def test_ctrl_c_during_the_imports_is_one_line(installed, launcher, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(STOP_IN_IMPORTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = run(*([str(launcher)] if installed else [sys.executable, "-m", "llm"]), "--version")
    assert (done.returncode, done.stdout) == (130, "")
    assert re.fullmatch(r"error: interrupted: by SIGINT; [^|]* \| fix: .*\n", done.stderr)


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "llm", "plan", "--ranks", "1", "8"]
    done = subprocess.run(words, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
