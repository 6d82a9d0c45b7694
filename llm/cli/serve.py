"""Console commands that hold a conversation: chat, serve. Slow imports are inside the functions."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llm.cli.models import decoding, typed
from llm.common.errors import USAGE, UserError, show
from llm.runtime import kernels

if TYPE_CHECKING:
    from llm.serve.conversation import Conversation

SERVED = ("models/instruct", "models/pretrain", "models/spam")  # those that exist, if no folder is given
HELP = "type a message; /reset forgets the conversation, /system TEXT sets the system message, Ctrl-D ends"


def serve_models(arguments: argparse.Namespace) -> None:
    """Serve models until Ctrl-C."""
    folders = arguments.model or [folder for folder in SERVED if Path(folder, "config.json").is_file()]
    if not folders:
        raise UserError("models", "there is none to serve", "run the pipeline, or name model folders", USAGE)
    _check_range(arguments, "rows", "queue", "seconds", "context")
    kernels.pin()
    from llm.runtime.device import set_up_from_params
    from llm.serve.models import Room
    from llm.serve.server import serve
    from llm.serve.service import Limits

    limits = Limits(arguments.queue, arguments.seconds)
    room = Room(arguments.rows, arguments.context)
    serve(folders, set_up_from_params(), arguments.host, arguments.port, room, limits)


def chat_with_model(arguments: argparse.Namespace) -> None:
    """Answer one message per line until the input ends; print an error and go on if one cannot be answered."""
    _check_range(arguments, "context")
    kernels.pin()
    from llm.runtime.device import set_up_from_params
    from llm.serve.conversation import Conversation

    runtime = set_up_from_params()
    conversation = Conversation(arguments.model, runtime, decoding(arguments), arguments.seed, arguments.context)
    interactive = sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401 - arrow keys and history for input()

        print(HELP, file=sys.stderr)
    for line in _lines(interactive):
        try:
            _take(conversation, line)
        except UserError as error:
            show(error)


def _take(conversation: Conversation, line: str) -> None:
    """Obey a command or answer a message."""
    word, _, rest = line.partition(" ")
    if word == "/reset":
        conversation.reset()
        print("the conversation is forgotten", file=sys.stderr)
    elif word == "/system":
        conversation.set_system(rest.strip())
        print("system message " + ("set" if rest.strip() else "removed"), file=sys.stderr)
    elif word.startswith("/"):
        raise UserError(word, "is not a command", HELP, USAGE)
    else:
        with _interruptible() as interrupted:
            for piece in conversation.answer(line):
                print(piece, end="", flush=True)
                if interrupted:
                    break
        print(" [stopped]" if interrupted else "", flush=True)
        if conversation.dropped:
            what = f"the {conversation.dropped} oldest messages do not fit into the context and were left out"
            print(f"note: {what}; /reset forgets all", file=sys.stderr)


def _check_range(arguments: argparse.Namespace, *names: str) -> None:
    for name in names:
        given = getattr(arguments, name)
        if given is not None and not 0 < given <= 10**6:
            raise UserError(f"--{name}", f"{given} is out of range", "give 1 to 1000000", USAGE)


def _lines(interactive: bool) -> Iterator[str]:
    """The lines of standard input that are not empty. On a terminal, Ctrl-C drops the line that is being typed."""
    while True:
        try:
            line = typed(lambda _: input("> ")) if interactive else typed(sys.stdin.readline)
        except EOFError:
            print(file=sys.stderr)
            return
        except KeyboardInterrupt:
            if not interactive:
                raise
            print("\n(Ctrl-D ends)", file=sys.stderr)
            continue
        if not line and not interactive:
            return
        if line.strip():
            yield line.strip()


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """A list that Ctrl-C adds to, so that an answer ends between two tokens; a second Ctrl-C interrupts the program."""
    interrupted: list[int] = []

    def note(number: int, _frame: object) -> None:
        if interrupted:
            raise KeyboardInterrupt
        interrupted.append(number)

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous)
