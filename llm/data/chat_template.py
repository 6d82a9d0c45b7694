"""Chat templates: a model folder's own Jinja template turns messages into a prompt.

The template decides which text stands around the messages, and its special tokens are special. The messages are text
of users: whatever is written in them stays text. To tell the two apart, the template is also rendered with masked
messages, in which every visible character is a private-use one. Both results have the same length unless the template
reads the messages, and then the masks show which characters come from a message.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from llm.common.errors import DATA, USAGE, UserError
from llm.common.files import read_text
from llm.data import jinja_sandbox
from llm.data.special_tokens import TOKENIZER_CONFIG, names, read_object
from llm.data.tokenizer_files import VISIBLE

Message = Mapping[str, str]  # role and content
Span = tuple[int, int]

MASK = 0xF0000  # private-use characters: MASK + n stands for a character of message n
OTHER = 0x100000  # private too: OTHER + n beside a special token of message n; or in place of special tokens
START, END = "\U0010fffc", "\U0010fffd"  # around what a template marks as `generation`
MOST_MESSAGES = 60_000
ONE_MESSAGE = re.compile(r'([\U000f0000-\U000fffff])(?:(?:\1|[\s"\\\x00-\x1f\x7f])*\1)?')
ASSISTANT = "assistant"
READS_TIME = "strftime_now"


class Segment(NamedTuple):
    """A part of a prompt."""

    text: str
    trained: bool = False  # part of an answer, which a model is trained on
    special: bool = False  # written by a template or by us: special tokens in it are special


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja template, which runs in a sandbox. The prompt is a function of the messages: no template knows the date.

    `special` are the texts of the special tokens, `names` the variables of the template, such as `eos_token`.
    """

    source: str
    special: Collection[str]
    names: Mapping[str, str] = field(default_factory=dict)
    where: str = "chat_template"

    def render(
        self, messages: Sequence[Message], add_generation_prompt: bool, options: Mapping[str, Any] | None = None
    ) -> list[Segment]:
        """Return the prompt, each segment of it text of the template or of one message.

        The joined segments are what `apply_chat_template` of transformers returns. Trained are the answers of the
        assistant, each with the special token that ends it; or what the template marks as `generation`. `options` are
        more variables of the template, such as `enable_thinking`. Raises UserError if the template refuses the
        messages, or depends on their text in such a way that it cannot be told from the template's.
        """
        _check(messages)
        variables = {**self.names, "add_generation_prompt": add_generation_prompt, **(options or {})}
        text, masked = self._aligned(messages, variables)
        answers = _marked(masked) if START in masked else self._answers(messages, variables, text, masked)
        trained = _inside(answers, len(text))
        written = _inside([run.span() for run in ONE_MESSAGE.finditer(masked)], len(text))  # by a user or a model
        shown = [n for n, mask in enumerate(masked) if mask not in (START, END)]
        groups = groupby(shown, key=lambda n: (trained[n], not written[n]))
        return [Segment("".join(text[n] for n in group), *kind) for kind, group in groups]

    def end_of_turn(self) -> str | None:
        """The special token after an answer; None if there is none."""
        messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
        try:
            segments = self.render(messages, add_generation_prompt=False)
        except UserError:
            return None
        text = "".join(segment.text for segment in segments)
        after = self._tokens.match(text[text.rindex("answer") + len("answer") :].lstrip()) if "answer" in text else None
        return after[0] if after else None

    def _aligned(self, messages: Sequence[Message], variables: Mapping[str, Any]) -> tuple[str, str]:
        """The prompt, and one of the same length in which the visible characters of messages are masked."""
        masked = self._run([self._mask(message, n) for n, message in enumerate(messages)], variables)
        if _fits(text := self._run(messages, variables), masked):
            return text, masked
        used = set("".join(message["content"] for message in messages))
        free = (chr(number) for number in range(OTHER, ord(START)) if chr(number) not in used)
        hidden = dict(zip(sorted(self.special), free, strict=False))
        # The template reads special tokens in answers, such as </think>.
        answers = {n for n, message in enumerate(messages) if message["role"] == ASSISTANT}
        text = self._run([m if n in answers else self._hide(m, hidden) for n, m in enumerate(messages)], variables)
        masks = [self._mask(message, n, n in answers) for n, message in enumerate(messages)]
        kept = self._run(masks, variables)
        if _fits(text, kept):
            wrapped = self._run([self._mask(m, n, n in answers, wrap=True) for n, m in enumerate(messages)], variables)
            found = self._mask_tokens(kept, wrapped) or self._mask_doubled(kept, masks, variables)
            if found:
                return _show(text, hidden), found
        # It reads special tokens in other messages: it gets to see none.
        text = self._run([self._hide(message, hidden) for message in messages], variables)
        if _fits(text, masked):
            return _show(text, hidden), masked
        what = "the chat template changes the text of the messages, so that it cannot be told from the template's own"
        raise UserError(self.where, what, "use a template that only trims messages", DATA)

    def _answers(self, messages: Sequence[Message], variables: Mapping[str, Any], text: str, masked: str) -> list[Span]:
        """Where the answers of the assistant are, each with the special tokens around it that end it or were in it."""
        answers = {n: m["content"] for n, m in enumerate(messages) if m["role"] == ASSISTANT}
        trims = True
        if any(content != content.strip() for content in answers.values()):
            bare = [{**m, "content": m["content"].strip()} if n in answers else m for n, m in enumerate(messages)]
            trims = len(self._aligned(bare, variables)[0]) == len(text)
        spans: list[Span] = []
        latest = -1  # the message of the run before
        for run in ONE_MESSAGE.finditer(masked):
            n, (start, end) = ord(run[1]) - MASK, run.span()
            follows, latest = n == latest, n
            if n not in answers:
                continue
            content = answers[n]
            if not trims:
                before = len(content) - len(content.lstrip())
                behind = len(content) - len(content.rstrip())
                start -= before * text.endswith(content[:before], 0, start)
                end += behind * text.startswith(content[len(content) - behind :], end)
            opening, ahead = self._tokens.match(content.lstrip()), masked[:start].rstrip()
            if opening and ahead.endswith(opening[0]):  # the template took it out, and wrote it again
                start = len(ahead) - len(opening[0])
            space = len(masked) - len(masked[end:].lstrip()) - end
            closing = self._tokens.match(masked, end + space)
            start = spans.pop()[0] if follows else start  # the template wrote something between two parts
            spans.append((start, closing.end() if closing else end))
        return spans

    @cached_property
    def _tokens(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, sorted(self.special, key=len, reverse=True))) or "(?!)")

    def _mask(self, message: Message, n: int, keep: bool = False, wrap: bool = False) -> Message:
        """Mask the visible characters of message `n`, except for special tokens with `keep`."""
        mask, beside = chr(MASK + n), chr(OTHER + n) * wrap
        content, parts, at = message["content"], [], 0
        for token in self._tokens.finditer(content) if keep else ():
            parts += [VISIBLE.sub(mask, content[at : token.start()]), beside, token[0], beside]
            at = token.end()
        return {**message, "content": "".join([*parts, VISIBLE.sub(mask, content[at:])])}

    def _mask_tokens(self, kept: str, wrapped: str) -> str | None:
        """Mask the special tokens in `kept` of messages, which are between two equal characters in `wrapped`."""
        tokens, others = list(self._tokens.finditer(kept)), list(self._tokens.finditer(wrapped))
        if [token[0] for token in tokens] != [token[0] for token in others]:
            return None
        for token, other in zip(tokens, others, strict=True):
            before, behind = wrapped[: other.start()][-1:], wrapped[other.end() :][:1]
            if before == behind and (n := ord(before or "-") - OTHER) >= 0:
                kept = kept[: token.start()] + chr(MASK + n) * len(token[0]) + kept[token.end() :]
        return kept

    def _mask_doubled(self, kept: str, masks: Sequence[Message], variables: Mapping[str, Any]) -> str | None:
        """Mask the special tokens in `kept` of messages, which are there twice if the message has each of its twice.

        The template may not see a character more where it asks whether there is a text, such as between two tokens.
        """
        runs = re.compile(rf"({self._tokens.pattern})\1*")
        masked = kept
        for n, message in enumerate(masks):
            content = self._tokens.sub(r"\g<0>\g<0>", message["content"])
            if content == message["content"]:
                continue
            doubled = self._run([*masks[:n], {**message, "content": content}, *masks[n + 1 :]], variables)
            if runs.split(kept) != runs.split(doubled):
                return None
            for run, other in zip(runs.finditer(kept), runs.finditer(doubled), strict=True):
                if len(other[0]) == 2 * len(run[0]):
                    masked = masked[: run.start()] + chr(MASK + n) * len(run[0]) + masked[run.end() :]
                elif other[0] != run[0]:  # some of the template, some of the message
                    return None
        return masked

    def _hide(self, message: Message, hidden: Mapping[str, str]) -> Message:
        """Replace the special tokens in a message by private-use characters."""
        content = self._tokens.sub(lambda token: hidden[token[0]] * len(token[0]), message["content"])
        return {**message, "content": content}

    def _run(self, messages: Sequence[Message], variables: Mapping[str, Any]) -> str:
        from jinja2 import TemplateError

        try:
            given = [dict(message) for message in messages]
            return str(self._compiled.render(messages=given, tools=None, documents=None, **variables))
        except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            what = f"the chat template cannot render the messages: {' '.join(str(error).split())}"
            timed = f"write a date in place of {READS_TIME} in the template"
            fix = timed if READS_TIME in str(error) else "change the messages or the template"
            raise UserError(self.where, what, fix, DATA) from None

    @cached_property
    def _compiled(self) -> Any:
        from jinja2 import TemplateError

        try:
            return jinja_sandbox.environment(START, END).from_string(self.source)
        except TemplateError as error:
            what = f"the chat template is not Jinja: {' '.join(str(error).split())}"
            raise UserError(self.where, what, "use the template of the published model", DATA) from None


def load(folder: Path, special: Collection[str]) -> ChatTemplate | None:
    """The template of a folder: `chat_template.jinja`, else `chat_template` in tokenizer_config.json, else None."""
    if (path := folder / "chat_template.jinja").is_file():
        return ChatTemplate(read_text(path), special, names(folder), str(path))
    where = str(folder / TOKENIZER_CONFIG)
    found = read_object(folder / TOKENIZER_CONFIG).get("chat_template")
    if isinstance(found, list):  # several, each with a name
        found = next(
            (one.get("template") for one in found if isinstance(one, dict) and one.get("name") == "default"), None
        )
    if found is not None and not isinstance(found, str):
        raise UserError(where, f"chat_template is {found!r:.40}, not text", "use the file of the published model", DATA)
    return ChatTemplate(found, special, names(folder), where) if found else None


def _check(messages: Sequence[Message]) -> None:
    if not messages or len(messages) > MOST_MESSAGES:
        raise UserError("messages", f"has {len(messages)} messages", "give at least one message", USAGE)
    for number, message in enumerate(messages, 1):
        where = f"messages: number {number}"
        if set(message) != {"role", "content"} or not all(isinstance(value, str) for value in message.values()):
            what = f"has {', '.join(message)}" if message else "is empty"
            raise UserError(where, what, "give each message the texts role and content, and nothing else", USAGE)
        if not message["role"].isidentifier():  # templates print it
            raise UserError(where, f"role is {message['role']!r:.40}", "use system, user or assistant", USAGE)


def _fits(text: str, masked: str) -> bool:
    """Whether two prompts are the same apart from masked characters."""
    return len(text) == len(masked) and all(a == b or MASK <= ord(b) < OTHER for a, b in zip(text, masked, strict=True))


def _show(text: str, hidden: Mapping[str, str]) -> str:
    """Put the special tokens back that `_hide` replaced."""
    for token, character in hidden.items():
        text = text.replace(character * len(token), token)
    return text


def _inside(spans: Iterable[Span], size: int) -> list[bool]:
    """Whether each of `size` characters is in one of the spans."""
    found = [False] * size
    for start, end in spans:
        found[start:end] = [True] * (end - start)
    return found


def _marked(masked: str) -> list[Span]:
    starts, ends = ([m.start() for m in re.finditer(mark, masked)] for mark in (START, END))
    return list(zip(starts, ends, strict=True))
