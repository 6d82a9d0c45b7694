"""A Modelfile, with which Ollama runs a GGUF file as the model was trained.

Ollama has its own template language (Go's), so the chat template of the folder is translated: it is rendered with four
messages, and the text between them is the text around each role. Reference: https://docs.ollama.com/modelfile
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from llm.common.errors import DATA, UserError
from llm.data.chat_template import ChatTemplate, Message
from llm.data.tokenizer import Tokenizer

BY_HAND = "write the Modelfile by hand"
TEXTS = {"system": "Sabcdef", "user": "Uabcdef", "assistant": "Aabcdef", "last": "Vabcdef"}


@dataclass(frozen=True)
class Turns:
    """The text around the messages of each role, before a chat without a system message, and before a new answer."""

    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]
    no_system: str
    end: str

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt, as Ollama composes it."""
        around = {"system": self.system, "user": self.user, "assistant": self.assistant}
        chat = "".join(message["content"].join(around[message["role"]]) for message in messages)
        return self.no_system * (messages[0]["role"] != "system") + chat + self.end


def modelfile(folder: Path, weights: str) -> str:
    """The Modelfile of a model folder whose weights are in the GGUF file `weights`, beside it.

    Raises UserError if the chat template cannot be translated.
    """
    tokenizer = Tokenizer.load(folder)
    names = {number: text for text, number in tokenizer.special.items()}
    stops = [tokenizer.decode([stop]) for stop in sorted(tokenizer.stops)]
    if bad := [text for text in stops if set(text) & set('"\r\n\ufffd')]:
        what = f"the token {bad[0]!r:.60} ends an answer, which a Modelfile cannot say"  # it has no escapes
        raise UserError(str(folder), what, BY_HAND, DATA)
    template = "{{ .Prompt }}"
    if tokenizer.chat is not None:
        turns = turns_of(tokenizer.chat, str(folder))
        bos = "" if tokenizer.bos is None else names[tokenizer.bos]  # Ollama writes it itself
        template = "{{ if not .System }}" + _go(turns.no_system.removeprefix(bos)) + "{{ end }}{{ range .Messages }}"
        for role, (before, after) in (("system", turns.system), ("user", turns.user), ("assistant", turns.assistant)):
            branch = "if" if role == "system" else "else if"
            around = (_go(before.removeprefix(bos)), _go(after))
            template += f'{{{{ {branch} eq .Role "{role}" }}}}' + "{{ .Content }}".join(around)
        template += "{{ end }}{{ end }}" + _go(turns.end)
    if '"""' in template:
        raise UserError(str(folder), 'its chat template has """, which a Modelfile cannot hold', BY_HAND, DATA)
    settings = ["PARAMETER temperature 0", *(f'PARAMETER stop "{text}"' for text in stops)]
    return "\n".join([f"FROM ./{weights}", *settings, f'TEMPLATE """{template}"""', ""])


def turns_of(chat: ChatTemplate, where: str) -> Turns:
    """The text that a chat template writes around each role. Raises UserError if it is not the same in every turn."""
    start, system_to_user, user_to_assistant, assistant_to_user, end = _between(chat, list(TEXTS), where)
    without, _ = _between(chat, ["last"], where)
    before_user = _common_end(without, system_to_user, assistant_to_user)
    turns = Turns(
        system=(start, system_to_user.removesuffix(before_user)),
        user=(before_user, ""),
        assistant=(user_to_assistant, assistant_to_user.removesuffix(before_user)),
        no_system=without.removesuffix(before_user),
        end=end,
    )
    for roles in (["last"], ["system", "last"], ["user", "assistant", "last"], list(TEXTS)):
        if turns.render(_messages(roles)) != _render(chat, roles):
            what = "its chat template is not the same text around every turn, so Ollama cannot be told it"
            raise UserError(where, what, BY_HAND, DATA)
    return turns


def _messages(roles: Sequence[str]) -> list[Message]:
    return [{"role": "user" if role == "last" else role, "content": TEXTS[role]} for role in roles]


def _render(chat: ChatTemplate, roles: Sequence[str]) -> str:
    return "".join(part.text for part in chat.render(_messages(roles), add_generation_prompt=True))


def _between(chat: ChatTemplate, roles: Sequence[str], where: str) -> list[str]:
    """The text before, between and after the messages."""
    text, parts = _render(chat, roles), []
    for role in roles:
        before, found, text = text.partition(TEXTS[role])
        if not found:
            raise UserError(where, f"its chat template leaves out the {role} message", BY_HAND, DATA)
        parts.append(before)
    return [*parts, text]


def _common_end(*texts: str) -> str:
    columns = takewhile(lambda letters: len(set(letters)) == 1, zip(*map(reversed, texts), strict=False))
    return "".join(letters[0] for letters in columns)[::-1]


def _go(text: str) -> str:
    """Text of a Go template; braces in it are data."""
    return text.replace("{{", '{{ "{{" }}')
