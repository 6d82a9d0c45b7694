"""A conversation in the prompt format of a model. All that depends on the format is in this file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Literal, NamedTuple

from llm.common.errors import USAGE, UserError
from llm.data.prompts import frame_of
from llm.data.tokenizer import Tokenizer
from llm.serve.text import TextStream

LONGEST_TOKEN = 128  # characters; a text longer than the context times this is too long without encoding it
Role = Literal["system", "user", "assistant"]


class Message(NamedTuple):
    """What one side said. A system message stands before the conversation, in place of the format's own preamble."""

    role: Role
    text: str


class TooLong(UserError):
    """The last turn alone does not fit."""


class Dialog:
    """Encodes conversations for the model in `folder`. A text never becomes a special token."""

    def __init__(self, folder: Path | str, tokenizer: Tokenizer) -> None:
        self.frame, self.tokenizer = frame_of(folder, tokenizer), tokenizer

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the conversation, with the header of the next answer.

        Raises UserError if the chat template refuses it.
        """
        system = "\n".join(message.text for message in messages if message.role == "system")
        chat = [{"role": "system", "content": system}] if system else []
        chat += [{"role": role, "content": text} for role, text in messages if role != "system"]
        return self.tokenizer.encode_segments(self.frame.prompt({"messages": chat}, header=True))[0]

    def stream(self, stops: Sequence[str] = ()) -> TextStream:
        """Turns the tokens of an answer into its text."""
        return TextStream(self.tokenizer.decode, stops, self.frame.extract_answer, self.frame.header.strip())

    def fit(self, messages: Sequence[Message], room: int) -> tuple[list[int], int]:
        """Token ids of the newest turns that fit into `room` tokens, and the number of messages left out.

        System messages stay. Raises TooLong if the last turn alone does not fit, and UserError as `encode` does.
        """
        system = [message for message in messages if message.role == "system"]
        rest = [message for message in messages if message.role != "system"]
        starts = [at for at, message in enumerate(rest) if message.role == "user" or at == 0]
        most = room * LONGEST_TOKEN - sum(len(message.text) for message in system)
        characters = list(accumulate(len(message.text) for message in reversed(rest)))[::-1]  # from each one to the end
        possible = [start for start in starts if characters[start] <= most] or starts[-1:]
        first, last = 0, len(possible) - 1  # of `possible`; all before `first` do not fit
        fitting: tuple[list[int], int] | None = None
        at = first  # the whole conversation, which mostly fits; then the last turn alone, then the middle
        while first <= last:
            ids = self.encode([*system, *rest[possible[at] :]])
            if len(ids) <= room:
                fitting, last = (ids, possible[at]), at - 1
            else:
                first = at + 1
            at = last if fitting is None else (first + last) // 2
        if fitting is None:
            what = f"{len(ids)} tokens with the prompt template, but the context has room for {room}"
            raise TooLong("instruction", what, "shorten it", USAGE)
        return fitting
