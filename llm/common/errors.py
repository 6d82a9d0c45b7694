"""The error contract: one line for the user, one exit code, and one place that prints it."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

# Exit codes of every stage and of `python -m llm`.
BUG = 1
USAGE = 2  # parameters or command line
DATA = 3  # bad data or a wrong hash
SERVICE = 4  # an outside service: a download, a judge
DIVERGED = 5  # training ran into a non-finite number
RESOURCES = 6  # disk or memory
RUNNING = 7  # another process holds the lock
INTERRUPTED = 130
TERMINATED = 143
STOPS = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}

LISTED = 10  # problems of one file
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """Something the user can put right.

    `where` is a file (with a line, where there is one) or a key of params.yaml, `what` says what was wrong and
    quotes the offending value, `fix` is one action.
    """

    def __init__(self, where: str, what: str, fix: str, code: int = DATA) -> None:
        super().__init__(f"{where}: {what} | fix: {fix}")
        self.where, self.what, self.fix, self.code = where, what, fix, code


class UserErrors(UserError):
    """Several problems of one kind, all listed, each on a line of its own."""

    def __init__(self, problems: Sequence[UserError]) -> None:
        last = problems[-1]
        super().__init__(last.where, last.what, last.fix, last.code)
        self.problems = list(problems)


class Terminated(BaseException):
    """SIGTERM, raised in the main thread so that `finally` blocks run; its text says what of the run is saved."""


def raise_all(problems: Sequence[UserError]) -> None:
    """Raise the problems together; do nothing where there are none."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise UserErrors(problems)


@contextmanager
def noted(problems: list[UserError]) -> Iterator[None]:
    """Add what the block raises to `problems`, and go on after it."""
    try:
        yield
    except UserError as error:
        problems.append(error)


def raise_first(problems: Sequence[UserError], where: str) -> None:
    """`raise_all` for the problems of one file: LISTED of them, and how many more there are."""
    more = len(problems) - LISTED
    rest = [UserError(where, f"{more:,} more like these", "look at all of it")] if more > 0 else []
    raise_all([*problems[:LISTED], *rest])


def show(problem: UserError) -> None:
    """Print the problem as one `error:` line on stderr."""
    print("error:", " ".join(str(problem).splitlines()), file=sys.stderr)


def leave_on_signals() -> None:
    """Have SIGINT and SIGTERM end the process with its line and code at once, until `error_contract` holds."""
    for number in STOPS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # not where it is ignored
            signal.signal(number, _leave_at_once)


def _leave_at_once(number: int, _frame: object) -> None:
    show(_stopped(number, ""))
    os._exit(STOPS[signal.Signals(number)])


@contextmanager
def error_contract() -> Iterator[None]:
    """Turn whatever leaves the block into one `error:` line a problem on stderr and the matching exit code."""

    def terminate(_signal: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would break the clean-up off
        raise Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    if signal.getsignal(signal.SIGINT) is _leave_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
        sys.stdout.flush()
    except UserError as error:
        _leave(getattr(error, "problems", [error]), error.code)
    except KeyboardInterrupt as stop:
        _leave([_stopped(signal.SIGINT, str(stop))], INTERRUPTED)
    except Terminated as stop:
        _leave([_stopped(signal.SIGTERM, str(stop))], TERMINATED)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():  # `... | head` had enough: no error
            sys.exit(0)
        problem = _from_system(error) or _bug(error)
        _leave([problem], problem.code)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _stopped(number: int, saved: str) -> UserError:
    how, by = "interrupted" if number == signal.SIGINT else "terminated", signal.Signals(number).name
    if saved:
        fix = "run the same command again, it will resume there"
        return UserError(how, f"by {by}; {saved}, nothing was published", fix)
    return UserError(how, f"by {by}; nothing was published", "run the same command again")


def _from_system(error: Exception) -> UserError | None:
    """What the machine refused: memory, room on the disk, a file. That is no bug of ours."""
    first_line = str(error).partition("\n")[0]
    if is_out_of_memory(error):
        return UserError("memory", first_line or "there is not enough", "lower micro_batch_size or context", RESOURCES)
    if isinstance(error, UnicodeDecodeError):
        byte = error.object[error.start]
        return UserError("standard input", f"byte 0x{byte:02x} is not {error.encoding}", "send UTF-8", DATA)
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return UserError(str(error.filename or "disk"), f"no room: {error.strerror}", "free some space", RESOURCES)
    if isinstance(error, OSError) and error.filename is not None:
        return UserError(str(error.filename), str(error.strerror), "correct the path or its permissions", DATA)
    return None


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, of the host or the device: torch says it with a plain RuntimeError on CPUs and on MPS."""
    said = str(error)
    in_torchs_words = isinstance(error, RuntimeError) and ("can't allocate memory" in said or "out of memory" in said)
    return isinstance(error, MemoryError) or in_torchs_words


def _bug(error: Exception) -> UserError:
    what = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return UserError("internal", what, "set LLM_TRACEBACK=1, run again and report what it prints", BUG)


def _leave(problems: Sequence[UserError], code: int) -> NoReturn:
    if os.environ.get("LLM_TRACEBACK") == "1":
        traceback.print_exc()
    _nobody_reads()
    sys.stdout.flush()
    for problem in problems:
        show(problem)
    sys.exit(code)


def _nobody_reads() -> bool:
    """Whether the reader of standard output has gone; what is still to be written goes nowhere then."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # a stand-in without a file
        return False
    watch = select.poll()
    watch.register(output, 0)
    gone = select.POLLERR | select.POLLHUP  # not POLLNVAL, which macOS reports for terminals
    if not any(event & gone for _, event in watch.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True
