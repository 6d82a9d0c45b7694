"""The error contract: one line on stderr for each problem, the right exit code, and no traceback."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llm.common import errors
from llm.common.errors import UserError, error_contract, raise_all

ROOT = Path(__file__).parents[3]
LINE = re.compile(r"error: [^|]+: [^|]+ \| fix: [^|]+")
CODES = {
    "USAGE": 2,
    "DATA": 3,
    "SERVICE": 4,
    "DIVERGED": 5,
    "RESOURCES": 6,
    "RUNNING": 7,
    "BUG": 1,
    "INTERRUPTED": 130,
    "TERMINATED": 143,
}


def run(error: BaseException, capsys) -> tuple[int, list[str]]:
    """Return the exit code and the stderr lines of a command that raises `error`."""
    with pytest.raises(SystemExit) as exited, error_contract():
        raise error
    return exited.value.code, capsys.readouterr().err.splitlines()


def program(body: str, before: str = "", **environment: str) -> subprocess.Popen:
    """Start a process that runs `before`, then `body` inside the contract."""
    script = (
        f"import os, signal, sys, time\nfrom llm.common.errors import *\n{before}\nwith error_contract():\n"
        + "".join(f"    {line}\n" for line in body.splitlines())
    )
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"LLM_TRACEBACK": "0"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("name", CODES)
def test_the_exit_codes_are_those_of_the_documentation(name):
    assert getattr(errors, name) == CODES[name]


@pytest.mark.parametrize("code", [2, 3, 4, 5, 6, 7])
def test_a_user_error_exits_with_its_code_and_one_line(code, capsys):
    exit_code, lines = run(UserError("params.yaml: pretrain.lr", "0.0 is not above 0", "raise it", code), capsys)
    assert (exit_code, lines) == (code, ["error: params.yaml: pretrain.lr: 0.0 is not above 0 | fix: raise it"])


def test_a_block_without_errors_prints_nothing(capsys):
    with error_contract():
        pass
    assert capsys.readouterr().err == ""


def test_each_problem_has_its_own_line(capsys):
    problems = [UserError(f"params.yaml: {key}", "missing", f"add `{key}`", errors.USAGE) for key in "abc"]
    with pytest.raises(SystemExit) as exited, error_contract():
        raise_all(problems)
    lines = capsys.readouterr().err.splitlines()
    assert exited.value.code == 2
    assert [line.split()[2] for line in lines] == ["a:", "b:", "c:"]
    assert all(LINE.fullmatch(line) for line in lines)


def test_without_problems_nothing_is_raised():
    raise_all([])


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\u2028", "\x85"])
def test_a_line_end_in_a_value_does_not_split_the_line(separator, capsys):
    _, lines = run(UserError("a.txt:1", f"one{separator}two", "join them"), capsys)
    assert lines == ["error: a.txt:1: one two | fix: join them"]


def test_a_bug_is_reported_without_a_traceback(capsys):
    exit_code, lines = run(ZeroDivisionError("division\nby zero"), capsys)
    assert exit_code == 1
    assert len(lines) == 1
    assert lines[0].startswith("error: internal: ZeroDivisionError: division by zero | fix: set LLM_TRACEBACK=1")


def test_llm_traceback_shows_the_traceback_before_the_error_line(capsys, monkeypatch):
    monkeypatch.setenv("LLM_TRACEBACK", "1")
    _, lines = run(UserError("a.txt", "is bad", "correct it"), capsys)
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "error: a.txt: is bad | fix: correct it"


@pytest.mark.parametrize(
    ("error", "code", "where"),
    [
        (MemoryError(), 6, "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes\nat x.cpp"), 6, "memory"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory."), 6, "memory"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GiB)."), 6, "memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), 6, "memory"),
        (
            RuntimeError("foo_cuda does not have a deterministic implementation, but you set"),
            6,
            "params.yaml: runtime.device",
        ),
        (ValueError("the judge says: out of memory"), 1, "internal"),
        (OSError(28, "No space left on device", "models/x"), 6, "models/x"),
        (OSError(27, "File too large"), 6, "disk"),
        (PermissionError(13, "Permission denied", "data/raw"), 3, "data/raw"),
        (OSError("from nowhere"), 1, "internal"),
        (BrokenPipeError(32, "Broken pipe"), 1, "internal"),  # not of standard output, which is still open
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_errors_of_the_system_are_not_bugs(error, code, where, capsys):
    exit_code, lines = run(error, capsys)
    assert (exit_code, len(lines)) == (code, 1)
    assert lines[0].startswith(f"error: {where}: ")
    assert LINE.fullmatch(lines[0])


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("body", "code"), [("print(sys.stdin.read())", 0), ("raise UserError('a', 'b', 'c')", 3)])
def test_a_stream_that_the_shell_has_closed_is_no_bug(closed, body, code):
    script = f"import sys\nfrom llm.common.errors import *\nwith error_contract(): {body}"
    words = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, script]
    done = subprocess.run(words, cwd=ROOT, input="", capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stderr == ("" if code == 0 or "2>" in closed else "error: a: b | fix: c\n")


def test_sys_exit_passes_through():
    with pytest.raises(SystemExit) as exited, error_contract():
        sys.exit(0)
    assert exited.value.code == 0


def test_the_signal_handler_is_restored():
    before = signal.getsignal(signal.SIGTERM)
    with error_contract():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("before", ["", "exit_on_signals()"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_runs_the_clean_up_and_exits_with_its_code(number, code, before):
    process = program("try:\n    print('ready', flush=True)\n    time.sleep(60)\nfinally:\n    print('clean')", before)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (code, "clean\n")
    assert LINE.fullmatch(err.strip())


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_before_the_contract_is_one_line_unless_it_is_ignored(number, code):
    send = f"exit_on_signals()\nos.kill(os.getpid(), signal.{number})"
    process = program("print('went on')", send)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (code, "")
    assert LINE.fullmatch(err.strip())
    ignoring = program("print('went on')", f"signal.signal(signal.{number}, signal.SIG_IGN)\n{send}")
    assert ignoring.communicate(timeout=120) == ("went on\n", "")


def test_a_second_sigterm_does_not_interrupt_the_clean_up():
    process = program(
        "try:\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(60)\n"
        "finally:\n    os.kill(os.getpid(), signal.SIGTERM)\n    print('clean')"
    )
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (143, "clean\n"), err


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_is_not_an_error(unbuffered):
    process = program("time.sleep(0.2)\nprint('x' * 10_000_000)", PYTHONUNBUFFERED=unbuffered)
    process.stdout.close()
    assert (process.stderr.read(), process.wait(timeout=120)) == ("", 0)


def test_an_error_is_printed_although_stdout_is_closed():
    process = program(
        "time.sleep(0.2)\nprint('some')\nraise UserError('a.txt', 'is bad', 'correct it')", PYTHONUNBUFFERED=""
    )
    process.stdout.close()
    assert (process.stderr.read(), process.wait(timeout=120)) == ("error: a.txt: is bad | fix: correct it\n", 3)


@pytest.mark.parametrize(("event", "code"), [("POLLNVAL", 1), ("POLLERR", 0), ("POLLHUP", 0)])
def test_only_a_closed_pipe_counts_as_closed(event, code):
    process = program(
        f"class Poll:\n    register = lambda *_: None\n    poll = lambda *_: [(1, select.{event})]\n"
        "select.poll = Poll\nraise BrokenPipeError(32, 'Broken pipe')"
    )
    _, err = process.communicate(timeout=120)
    assert (process.returncode, bool(err)) == (code, code == 1)


def test_input_that_is_not_utf8_is_not_a_bug(capsys):
    with pytest.raises(SystemExit) as exited, errors.error_contract(), errors.standard_input():
        b"caf\xe9".decode()
    assert exited.value.code == errors.DATA
    assert capsys.readouterr().err.startswith("error: standard input: byte 0xe9 is not utf-8 | fix: ")
    with pytest.raises(SystemExit) as exited, errors.error_contract():
        b"caf\xe9".decode()
    assert exited.value.code == errors.BUG  # of a file, which says its name


@pytest.mark.parametrize(("encoding", "printed"), [("latin-1", b"\\U0001f600 \xe9\n"), ("utf-8", "😀 é\n".encode())])
def test_a_terminal_that_lacks_a_character_gets_its_number(encoding, printed):
    script = "from llm.common.errors import *\nwith error_contract(): print('\\U0001f600 \\xe9')"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (printed, b"")


def test_a_name_with_more_than_a_typing_error_is_not_guessed() -> None:
    assert errors.nearest("gpu", ["cpu", "cuda", "mps"], "write one of them") == "write one of them"
    assert errors.nearest("cud", ["cpu", "cuda", "mps"], "write one of them") == "did you mean cuda?"
