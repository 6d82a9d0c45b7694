"""A conversation with a model in this process, as `llm chat` holds it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from llm.common.errors import RESOURCES, UserError
from llm.generate.config import DecodingConfig
from llm.runtime.device import RuntimeConfig
from llm.serve.dialog import Message
from llm.serve.engine import Request
from llm.serve.models import Room, load_language
from llm.serve.service import RESERVED


class Conversation:
    """The messages so far, and the model that answers them."""

    def __init__(
        self,
        folder: Path | str,
        runtime: RuntimeConfig,
        decoding: DecodingConfig,
        seed: int,
        context: int | None = None,
    ) -> None:
        self._language = load_language(str(folder), "chat", runtime, Room(1, context))
        self._decoding, self._seed = decoding, seed
        self.system: list[Message] = []
        self.messages: list[Message] = []
        self.dropped = 0  # messages that the last answer could not see

    def reset(self) -> None:
        """Forget the messages; the system message stays."""
        self.messages, self.dropped = [], 0

    def set_system(self, text: str) -> None:
        """Set the system message; an empty one removes it."""
        self.system = [Message("system", text)] if text else []

    def answer(self, text: str) -> Iterator[str]:
        """The answer in pieces. What the caller has taken is remembered, also if it leaves before the end.

        A quarter of the context is kept for the answer, and the oldest turns are left out if they do not fit into the
        rest. Raises UserError if the message alone does not fit into the context.
        """
        language, said = self._language, ""
        context = language.config.context_length
        asked = [*self.messages, Message("user", text)]
        reserved = min(self._decoding.max_new_tokens, context // RESERVED)
        ids, self.dropped = language.dialog.fit([*self.system, *asked], context - reserved)
        decoding = replace(self._decoding, max_new_tokens=min(self._decoding.max_new_tokens, context - len(ids)))
        request = Request(ids, decoding, self._seed, language.dialog.stream())
        language.engine.waiting.append(request)
        try:
            while language.engine.busy:
                for _, piece in language.engine.step():
                    if piece.finish == "memory":
                        raise UserError("answer", request.lacks, "give a smaller --max-new-tokens or /reset", RESOURCES)
                    said += piece.text
                    yield piece.text
        finally:
            request.cancelled = True
            language.engine.step()  # it leaves the batch
            if not request.lacks:
                self.messages = [*asked, Message("assistant", said)]
