"""The tokens of entries in their prompt frame: the policy for entries that are too long, and the frame's share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal, NamedTuple

from llm.common.errors import DATA, UserError, collect_errors, listed, raise_first
from llm.data.instruction_shapes import Entry, simplified
from llm.data.prompts import Frame, turns
from llm.data.tokenizer import Tokenizer

Policy = Literal["refuse", "skip", "truncate"]
LISTED = 20  # entries in one message


class Encoded(NamedTuple):
    """The token ids of a framed entry with the end of its last answer, and for each whether it belongs to an answer."""

    ids: list[int]
    trained: list[bool]

    @property
    def start(self) -> int:
        """Number of tokens before the first answer."""
        return self.trained.index(True) if True in self.trained else len(self.ids)

    @property
    def last_start(self) -> int:
        """Number of tokens before the last answer."""
        return len(self.ids) - sum(1 for _ in takewhile(bool, reversed(self.trained)))

    @property
    def length(self) -> int:
        """Number of tokens that the model reads: all but the last, which it only has to predict."""
        return len(self.ids) - 1


def encode_entry(entry: Mapping[str, Any], frame: Frame, tokenizer: Tokenizer) -> Encoded:
    """Return the token ids of a whole entry. A token is part of an answer if one of its characters is."""
    return Encoded(*tokenizer.encode_segments(frame.segments(entry)))


@dataclass
class Fitted:
    """Entries after the policy, with the numbers from 1 of those that were too long."""

    entries: list[Entry] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)  # `Encoded.length` of each
    too_long: list[int] = field(default_factory=list)
    truncated: list[int] = field(default_factory=list)


def fit(
    numbered: Sequence[tuple[int, Entry]], frame: Frame, tokenizer: Tokenizer, limit: int, policy: Policy, path: str
) -> Fitted:
    """Apply the policy to entries with more than `limit` tokens in their frame, without the end of the last answer.

    `truncate` takes the last turns from a chat until it fits. If one question and its answer are still too long, the
    row ends at the limit during training, and the end of the answer is not trained on. Only if that would leave no
    token of the answer, the end of the question is cut too: of the input, or of the instruction if there is no input,
    or of the longest message. Then the answer keeps up to half of the limit.

    Raises UserError with the numbers and lengths of all entries that are too long.
    """
    lengths = {number: encode_entry(entry, frame, tokenizer).length for number, entry in numbered}
    fitted = Fitted(too_long=[number for number, length in lengths.items() if length > limit])
    if policy == "refuse":
        _refuse({number: lengths[number] for number in fitted.too_long}, len(numbered), limit, path)
    problems: list[UserError] = []
    for number, entry in numbered:
        if lengths[number] <= limit:
            fitted.entries.append(entry)
            fitted.lengths.append(lengths[number])
        elif policy == "truncate":
            with collect_errors(problems):
                fitted.entries.append(cut := _truncated(entry, frame, tokenizer, limit, f"{path}: entry {number}"))
                fitted.lengths.append(encode_entry(cut, frame, tokenizer).length)
                fitted.truncated.append(number)
    raise_first(problems, path)
    return fitted


def frame_cost(entries: Sequence[Entry], lengths: Sequence[int], tokenizer: Tokenizer) -> dict[str, float]:
    """Return the mean number of the frame's tokens in an entry, and their share of all tokens.

    The frame's tokens are those of the framed entries, whose `lengths` are given, less those of their texts alone.
    """
    texts = [text for entry in entries for _, text, given in turns(entry) for text in (text, given)]
    own = sum(lengths) - sum(map(len, tokenizer.encode_all(texts)))
    return {"frame_tokens_mean": own / len(entries), "frame_share": own / sum(lengths)}


def answer_tokens(encoded: Encoded, limit: int) -> int:
    """Return the number of tokens of answers among the targets of a row that is cut to `limit` inputs."""
    return sum(encoded.trained[1 : limit + 1])


def _refuse(lengths: dict[int, int], entries: int, limit: int, path: str) -> None:
    if not lengths:
        return
    shown = listed([f"entry {number} ({length})" for number, length in lengths.items()], LISTED)
    what = f"{len(lengths):,} of {entries:,} entries have more than {limit} tokens in their prompt frame: "
    fix = "shorten them, set tokenize.instructions.too_long to skip or truncate, or max_tokens to the model's context"
    raise UserError(path, what + shown, fix, DATA)


def _truncated(entry: Entry, frame: Frame, tokenizer: Tokenizer, limit: int, where: str) -> Entry:
    """Return the entry with fewer turns or a shorter question."""
    while True:
        encoded = encode_entry(entry, frame, tokenizer)
        shorter = _without_last_answer(entry)
        if encoded.length <= limit or shorter is None:
            break
        entry = shorter
    if encoded.last_start <= limit:
        return entry
    kept = max(1, min(len(encoded.ids) - encoded.last_start, limit // 2))  # tokens of the answer with its end
    while over := max(0, encoded.last_start - (limit + 1 - kept)):
        shorter = _with_shorter_question(entry, tokenizer, over)
        if shorter is None and encoded.last_start <= limit:
            return entry  # there is no text left to cut, but the answer has begun
        if shorter is None:
            what = f"its prompt frame alone leaves no room for an answer in {limit} tokens"
            raise UserError(where, what, "raise tokenize.instructions.max_tokens, or take a shorter frame", DATA)
        entry = shorter
        encoded = encode_entry(entry, frame, tokenizer)
    return entry


def _without_last_answer(entry: Entry) -> Entry | None:
    """Return a chat without its last question and answer; None if it has no other answer."""
    messages: list[dict[str, Any]] = entry.get("messages", [])
    ends = [n for n, message in enumerate(messages, start=1) if message["role"] == "assistant"]
    kept = messages[: ends[-2]] if len(ends) > 1 else []
    return simplified(kept) if any(message["role"] == "user" for message in kept) else None


def _with_shorter_question(entry: Entry, tokenizer: Tokenizer, over: int) -> Entry | None:
    """Return the entry with about `over` tokens less before its answer; None if there is no text to cut."""
    if "messages" not in entry:
        key = "input" if entry["input"] else "instruction"
        cut = _cut(entry[key], tokenizer, over)
        return entry | {key: cut} if cut.strip() or key == "input" else None
    messages = [dict(message) for message in entry["messages"]]
    longest = max(messages[:-1], key=lambda message: len(message["content"]), default=None)
    if longest is None:
        return None
    longest["content"] = _cut(longest["content"], tokenizer, over)
    return {"messages": [message for message in messages if message["content"].strip()]}


def _cut(text: str, tokenizer: Tokenizer, over: int) -> str:
    """Return `text` without its last `over` tokens, and without a part of a character."""
    ids = tokenizer.encode(text)
    kept = tokenizer.decode(ids[: max(0, len(ids) - over)])
    return kept if text.startswith(kept) else kept.rstrip("\ufffd")
