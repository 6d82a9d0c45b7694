"""The text of an answer while its tokens arrive: what is certain is sent, what may still change is held back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

INCOMPLETE = "\ufffd"  # how a character is decoded while some of its bytes are missing


class TextStream:
    """Turns tokens into pieces of text. Joined, the pieces are `clean` of the whole text, cut at the first stop string.

    `clean` may remove the string `hidden` and white space at both ends.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stops: Sequence[str] = (),
        clean: Callable[[str], str] = str,
        hidden: str = "",
    ) -> None:
        self._decode, self._stops, self._clean = decode, [stop for stop in stops if stop], clean
        self._watched = [*self._stops, *([hidden] if hidden else [])]
        self._ids: list[int] = []
        self._sent = 0  # characters
        self.stopped = False  # a stop string has come

    def push(self, token: int) -> str:
        """Add a token; returns the text that is now certain."""
        self._ids.append(token)
        text = self._decode(self._ids).rstrip(INCOMPLETE)
        found = [at for at in map(text.find, self._stops) if at >= 0]
        if found:
            self.stopped = True
            return self._send(text[: min(found)])
        return self._send(text[: len(text) - _held(text, self._watched)])

    def finish(self) -> str:
        """The text that was held back, at the end of the answer."""
        return "" if self.stopped else self._send(self._decode(self._ids))

    def _send(self, text: str) -> str:
        clean = self._clean(text)
        piece, self._sent = clean[self._sent :], max(self._sent, len(clean))
        return piece


def _held(text: str, watched: Sequence[str]) -> int:
    """The length of the longest end of `text` that may be the start of a watched string."""
    lengths = (n for string in watched for n in range(min(len(string) - 1, len(text)), 0, -1))
    return max((n for n in lengths if any(s.startswith(text[-n:]) for s in watched if len(s) > n)), default=0)
