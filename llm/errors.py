"""The error contract: one line for the user, one exit code, and one place that prints it."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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
    """SIGTERM, raised in the main thread so that `finally` blocks run."""


def raise_all(problems: Sequence[UserError]) -> None:
    """Raise the problems together; do nothing where there are none."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise UserErrors(problems)


@contextmanager
def error_contract() -> Iterator[None]:
    """Turn whatever leaves the block into one `error:` line a problem on stderr and the matching exit code."""

    def terminate(_signal: int, _frame: object) -> None:
        raise Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except UserError as error:
        _leave([str(problem) for problem in getattr(error, "problems", [error])], error.code)
    except KeyboardInterrupt:
        _leave(["interrupted: by SIGINT; nothing was published | fix: run the same command again"], INTERRUPTED)
    except Terminated:
        _leave(["terminated: by SIGTERM; nothing was published | fix: run the same command again"], TERMINATED)
    except BrokenPipeError:  # `... | head`: nobody is reading any more, which is not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        reason = " ".join(str(error).split())
        where = f"internal: {type(error).__name__}: {reason}"
        _leave([f"{where} | fix: set LLM_TRACEBACK=1, run again and report what it prints"], BUG)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _leave(lines: Sequence[str], code: int) -> None:
    if os.environ.get("LLM_TRACEBACK") == "1":
        traceback.print_exc()
    sys.stdout.flush()
    for line in lines:
        print("error:", " ".join(line.splitlines()), file=sys.stderr)
    sys.exit(code)
