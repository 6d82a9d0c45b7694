"""Errors of every command: one `error:` line for each problem, and one exit code."""

from __future__ import annotations

import difflib
import errno
import io
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

# Exit codes of every stage and of `python -m llm`.
BUG = 1
USAGE = 2  # parameters or command line
DATA = 3  # bad data or a wrong hash
SERVICE = 4  # an outside service: a download, a judge
DIVERGED = 5  # a loss or gradient was not finite, or a model collapsed under rewards
RESOURCES = 6  # disk or memory
RUNNING = 7  # another process holds the lock
INTERRUPTED = 130
TERMINATED = 143
STOPS = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}

MAX_LISTED = 10  # problems of one file
NEAR = 0.7  # of two names that one typing error makes similar; cpu is not meant by gpu
NOT_DETERMINISTIC = " does not have a deterministic implementation"  # in PyTorch's message, after the operation
NO_MEMORY = ("can't allocate memory", "out of memory", "_STATUS_ALLOC_FAILED")  # the last one of CUDA's libraries
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """An error that the user can correct.

    `where` is a file, a file with a line, or a key of params.yaml. `what` says what is wrong, with the value. `fix` is
    one action.
    """

    def __init__(self, where: str, what: str, fix: str, code: int = DATA) -> None:
        super().__init__(f"{where}: {what} | fix: {fix}")
        self.where, self.what, self.fix, self.code = where, what, fix, code


class UserErrors(UserError):
    """Several problems, each printed on its own line."""

    def __init__(self, problems: Sequence[UserError]) -> None:
        last = problems[-1]
        super().__init__(last.where, last.what, last.fix, last.code)
        self.problems = list(problems)


class Terminated(BaseException):
    """SIGTERM, raised in the main thread so that `finally` blocks run. The text says which training state is saved."""


def problems_of(error: UserError) -> list[UserError]:
    """The problems that `raise_all` has raised together."""
    return getattr(error, "problems", [error])


def raise_all(problems: Sequence[UserError]) -> None:
    """Raise all problems together; do nothing if there are none."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise UserErrors(problems)


def raise_first(problems: Sequence[UserError], where: str) -> None:
    """Raise the first MAX_LISTED problems of the file `where`, and one more with the number of the others."""
    more = len(problems) - MAX_LISTED
    rest = [UserError(where, f"{more:,} more problems", "check the whole file")] if more > 0 else []
    raise_all([*problems[:MAX_LISTED], *rest])


def listed(items: Sequence[object], most: int = MAX_LISTED) -> str:
    """The first items in a row, and the number of the others."""
    more = f" and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more


def nearest(name: object, known: Iterable[str], otherwise: str) -> str:
    """The fix for an unknown name: the most similar known one, or else `otherwise`."""
    near = difflib.get_close_matches(str(name), list(known), 1, NEAR)
    return f"did you mean {near[0]}?" if near else otherwise


@contextmanager
def collect_errors(problems: list[UserError]) -> Iterator[None]:
    """Catch a UserError raised in the block and append it to `problems`."""
    try:
        yield
    except UserError as error:
        problems.append(error)


@contextmanager
def standard_input() -> Iterator[None]:
    """Raise UserError for what the block reads from standard input that is not UTF-8."""
    try:
        yield
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError("standard input", f"byte 0x{byte:02x} is not {error.encoding}", "send UTF-8", DATA) from None


def show(problem: UserError) -> None:
    """Print the problem on stderr as one `error:` line."""
    print("error:", " ".join(str(problem).splitlines()), file=sys.stderr)


def exit_on_signals() -> None:
    """Make SIGINT and SIGTERM print an error line and exit at once, until `error_contract` takes over."""
    for number in STOPS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # an ignored signal stays ignored
            signal.signal(number, _exit_at_once)


def _exit_at_once(number: int, _frame: object) -> None:
    show(_stop_error(number))
    os._exit(STOPS[signal.Signals(number)])


def show_all(problems: Sequence[UserError]) -> None:
    """`show` each problem."""
    for problem in problems:
        show(problem)


@contextmanager
def error_contract(report: Callable[[Sequence[UserError]], None] = show_all) -> Iterator[None]:
    """Print each error raised in the block as one `error:` line (or `report` them), and exit with the code."""

    def leave(problems: Sequence[UserError], code: int) -> NoReturn:
        if os.environ.get("LLM_TRACEBACK") == "1":
            traceback.print_exc()
        _stdout_reader_is_gone()
        sys.stdout.flush()
        report(problems)
        sys.exit(code)

    def terminate(_signal: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second SIGTERM must not interrupt the clean-up
        raise Terminated

    _open_missing_streams()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 gets \\U0001f600 for an emoji
    previous = signal.signal(signal.SIGTERM, terminate)
    if signal.getsignal(signal.SIGINT) is _exit_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
        sys.stdout.flush()
    except UserError as error:
        leave(problems_of(error), error.code)
    except KeyboardInterrupt as stop:
        leave([_stop_error(signal.SIGINT, str(stop))], INTERRUPTED)
    except Terminated as stop:
        leave([_stop_error(signal.SIGTERM, str(stop))], TERMINATED)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _stdout_reader_is_gone():  # as in `... | head`: not an error
            sys.exit(0)
        problem = _from_system(error) or _bug(error)
        leave([problem], problem.code)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _open_missing_streams() -> None:
    """Replace streams that the shell has closed, as with `>&-`: Python has None for them."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - it stays open


def _stop_error(number: int, saved: str = "") -> UserError:
    how, by = "interrupted" if number == signal.SIGINT else "terminated", signal.Signals(number)
    if saved:
        fix = "run the same command again, it will resume there"
        return UserError(how, f"by {by.name}; {saved}, nothing was published", fix, STOPS[by])
    return UserError(how, f"by {by.name}; nothing was published", "run the same command again", STOPS[by])


def _from_system(error: Exception) -> UserError | None:
    """Translate errors of the operating system (memory, disk, files); None for a bug."""
    first_line = str(error).partition("\n")[0]
    if is_out_of_memory(error):
        return UserError("memory", first_line or "out of memory", "lower micro_batch_size or context", RESOURCES)
    if isinstance(error, RuntimeError) and NOT_DETERMINISTIC in first_line:
        operation = first_line.partition(NOT_DETERMINISTIC)[0].split()[-1]
        what = f"cuda, but {operation} has no kernel there that gives the same result every time"
        return UserError("params.yaml: runtime.device", what, "set it to cpu", RESOURCES)
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return UserError(str(error.filename or "disk"), f"no room: {error.strerror}", "free some space", RESOURCES)
    if isinstance(error, OSError) and error.filename is not None:
        return UserError(str(error.filename), str(error.strerror), "correct the path or its permissions", DATA)
    return None


def is_out_of_memory(error: Exception) -> bool:
    """Whether the host or the device ran out of memory. On the CPU and on MPS, torch raises a plain RuntimeError."""
    text = str(error)
    by_torch = isinstance(error, RuntimeError) and any(words in text for words in NO_MEMORY)
    return isinstance(error, MemoryError) or by_torch


def _bug(error: Exception) -> UserError:
    what = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return UserError("internal", what, "set LLM_TRACEBACK=1, run again and report the output", BUG)


def _stdout_reader_is_gone() -> bool:
    """Whether the pipe of standard output is closed; if so, discard the rest of the output."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # stdout is replaced by an object without a file
        return False
    poll = select.poll()
    poll.register(output, 0)
    gone = select.POLLERR | select.POLLHUP  # not POLLNVAL, which macOS reports for terminals
    if not any(event & gone for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True
