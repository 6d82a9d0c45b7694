"""Prompt frames: the text around an entry, for training and for answering (section 7.2, exercise 7.1).

A frame turns an entry into segments of text. An entry is one question with its answer (`instruction`, `input`,
`output`), or a chat (`messages`). A chat has one answer for each turn of the assistant. Each answer ends with the
tokenizer's end of text, or in a chat template with the token that it puts there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from llm.common import params
from llm.common.errors import DATA, UserError, problems_of, raise_all
from llm.common.files import read_json
from llm.common.params import Problem
from llm.data.chat_template import ChatTemplate, Segment
from llm.data.special_tokens import END_OF_TEXT
from llm.data.tokenizer import Tokenizer

PromptName = Literal["alpaca", "phi3", "none", "chat"]
PREAMBLE = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
RESPONSE = "\n\n### Response:\n"
Turn = tuple[str, str, str]  # role, text, input


@dataclass(frozen=True)
class Template:
    """A frame in params.yaml. `{instruction}`, `{input}` and `{system}` stand for the texts of an entry."""

    text: str  # a question; without an input, `{input}` and the white space before it are left out
    answer: str  # the header of an answer
    input: str | None = None  # what stands for `{input}` in `text` if an entry has an input; None: the input alone
    system: str | None = None  # a system message; None: the message and an empty line

    def problems(self) -> Iterator[Problem]:
        for name, key in (("text", "instruction"), ("text", "input"), ("input", "input"), ("system", "system")):
            value = getattr(self, name)
            if value is not None and f"{{{key}}}" not in value:
                yield name, f"{value!r:.60} has no {{{key}}}", f"write {{{key}}} at the place of the entry's {key}"
        if self.answer != self.answer.rstrip(" \t"):  # in training, the space and the first word would be one token
            yield "answer", f"{self.answer!r:.60} ends with a space", "leave it out, or end with a line break"


@dataclass(frozen=True)
class TemplateFrame:
    """A frame made from a template. Special tokens in the template are special, those in the texts of entries are not.

    `make_frame` gives it the special tokens of the tokenizer in use.
    """

    template: Template
    preamble: str = ""  # the system message of an entry that has none
    begin: str = ""  # the token before every text
    end: str = END_OF_TEXT  # the token after every answer
    as_book: bool = False  # remove the header wherever an answer has it; else only where the answer begins

    @property
    def header(self) -> str:
        """The text between a question and its answer."""
        return self.template.answer

    def segments(self, entry: Mapping[str, Any]) -> list[Segment]:
        """Return the whole entry. The last segment ends its last answer."""
        return self._render(turns(entry))

    def prompt(self, entry: Mapping[str, Any], header: bool = False) -> list[Segment]:
        """Return the part of the entry before its last answer, with or without the header of the answer."""
        return self._render(asked(entry)) + [Segment(self.header, special=True)] * header

    def extract_answer(self, generated: str) -> str:
        """Return the answer in a generated text, without its header and surrounding white space."""
        header = self.header.strip()
        return generated.replace(header, "").strip() if self.as_book else _after(generated, header)

    def turn(self, role: str, text: str, given: str = "") -> list[Segment]:
        """Return a turn with the text around it; `given` is the input of a question."""
        if role == "assistant":
            end = Segment(self.end, trained=True, special=True)
            return [Segment(self.header, special=True), Segment(text, trained=True), end]
        if role == "system":
            return _fill(self.template.system or "{system}\n\n", system=[Segment(text)])
        value = [Segment(given)] if given else []
        if given and self.template.input:
            value = _fill(self.template.input, input=value)
        return _fill(self.template.text, instruction=[Segment(text)], input=value)

    def _render(self, chat: Sequence[Turn]) -> list[Segment]:
        if self.preamble and (not chat or chat[0][0] != "system"):
            chat = [("system", self.preamble, ""), *chat]
        begin = [Segment(self.begin, special=True)] if self.begin else []
        return begin + [segment for turn in chat for segment in self.turn(*turn)]


def _fill(template: str, **values: Sequence[Segment]) -> list[Segment]:
    """Put the values in place of `{name}`. An empty input is left out with the white space before it."""
    filled, at = [], 0
    for match in re.finditer(rf"(\s*)\{{({'|'.join(values)})\}}", template):
        value = values[match[2]]
        kept = match[1] if value or match[2] != "input" else ""
        filled += [Segment(template[at : match.start()] + kept, special=True), *value]
        at = match.end()
    filled.append(Segment(template[at:], special=True))
    return [segment for segment in filled if segment.text]


@dataclass(frozen=True)
class ChatFrame:
    """The frame of a model with a chat template, which is used as it is, with its own system message if it has one.

    An instruction with an input is one message of the user: both with an empty line between them.
    """

    template: ChatTemplate
    end: str  # the token after an answer if the template writes none

    @cached_property
    def header(self) -> str:
        asked, asked_on, _ = self._example
        return asked_on.removeprefix(asked) if asked_on.startswith(asked) else ""

    def segments(self, entry: Mapping[str, Any]) -> list[Segment]:
        """Return the whole entry, without what the template writes after the end of the last answer.

        What it writes between the header and an answer, such as the marks of empty thoughts, belongs to the answer: a
        model that is asked has to write it. Raises UserError if the template refuses the entry.
        """
        found: list[Segment] = []
        for segment in self.template.render(_messages(turns(entry)), add_generation_prompt=False):
            before = found[-1] if found else segment
            if self._lead and segment.trained and not before.trained and before.text.endswith(self._lead):
                found[-1] = before._replace(text=before.text.removesuffix(self._lead))
                found.append(Segment(self._lead, trained=True, special=True))
            found.append(segment)
        while found and not found[-1].trained:
            found.pop()
        if not found:
            raise UserError(self.template.where, "the chat template writes no answer", "use another template", DATA)
        return found if found[-1].special else [*found, Segment(self.end, trained=True, special=True)]

    def prompt(self, entry: Mapping[str, Any], header: bool = False) -> list[Segment]:
        if before := asked(entry):
            return self.template.render(_messages(before), add_generation_prompt=header)
        whole = self.segments(entry)  # the assistant speaks first
        return whole[: next(n for n, segment in enumerate(whole) if segment.trained)]

    def extract_answer(self, generated: str) -> str:
        return _after(_after(generated, self.header.strip()), self._lead.strip())

    @cached_property
    def _lead(self) -> str:
        """What the template writes between the header and an answer."""
        _, asked_on, whole = self._example
        lead, answer, _ = whole.removeprefix(asked_on).partition("answer")
        return lead if answer and whole.startswith(asked_on) else ""

    @cached_property
    def _example(self) -> tuple[str, str, str]:
        """A question, the question with the header of an answer, and both with an answer."""
        chat = _messages([("user", "question", ""), ("assistant", "answer", "")])
        try:
            self.template.render(chat, False)
        except UserError:  # it wants a system message
            chat = [*_messages([("system", "system", "")]), *chat]
        rendered = [self.template.render(chat[:-1], on) for on in (False, True)] + [self.template.render(chat, False)]
        asked, asked_on, whole = ("".join(segment.text for segment in segments) for segments in rendered)
        return asked, asked_on, whole


Frame = TemplateFrame | ChatFrame


def _after(text: str, start: str) -> str:
    return text.strip().removeprefix(start).strip()


def _messages(chat: Sequence[Turn]) -> list[dict[str, str]]:
    return [{"role": role, "content": f"{text}\n\n{given}" if given else text} for role, text, given in chat]


_FRAMES: dict[str, TemplateFrame] = {
    "alpaca": TemplateFrame(
        Template("### Instruction:\n{instruction}{input}", RESPONSE, "\n\n### Input:\n{input}"), PREAMBLE, as_book=True
    ),
    "phi3": TemplateFrame(
        Template("<|user|>\n{instruction}{input}", "\n<|assistant|>:\n", "\n{input}", "<|system|>\n{system}\n"),
        as_book=True,
    ),
    "none": TemplateFrame(Template("{instruction}\n{input}", "\n")),
}
ALPACA = _FRAMES["alpaca"]
TEXTS = TemplateFrame(Template("{instruction}{input}", "", "\n\n{input}", "{system}"))  # of an entry, and nothing else


def make_frame(
    prompt: PromptName | Template, tokenizer: Tokenizer, where: str = "params.yaml: finetune_instruct.prompt"
) -> Frame:
    """Return the frame that `finetune_instruct.prompt` names or describes, with the special tokens of the tokenizer.

    Raises UserError for `chat` if the tokenizer's folder has no chat template.
    """
    if prompt == "chat":
        if tokenizer.chat is None:
            what = "chat, but the model's folder has no chat template"
            raise UserError(where, what, "use alpaca, phi3, none or a template, or a model with a chat template", DATA)
        return ChatFrame(tokenizer.chat, tokenizer.end)
    return template_frame(prompt, tokenizer)


def template_frame(prompt: PromptName | Template, tokenizer: Tokenizer) -> TemplateFrame:
    """Return the frame that is not `chat`."""
    frame = TemplateFrame(prompt) if isinstance(prompt, Template) else _FRAMES[prompt]
    return replace(frame, begin=tokenizer.begin, end=tokenizer.end)


def to_json(prompt: PromptName | Template) -> Any:
    """Return the frame's name or template as it is written into config.json of a model."""
    if isinstance(prompt, Template):
        return {key: value for key, value in asdict(prompt).items() if value is not None}
    return prompt


def from_json(prompt: Any, where: str) -> PromptName | Template:
    """Return what `to_json` was given. Raises UserError for anything else."""
    if isinstance(prompt, Mapping):
        try:
            return params.parse(Template, prompt, where)
        except UserError as error:
            raise_all([UserError(problem.where, problem.what, problem.fix, DATA) for problem in problems_of(error)])
    for name in get_args(PromptName):
        if prompt == name:
            return name  # type: ignore[no-any-return]
    fix = f"write {' or '.join(get_args(PromptName))}, or use a model of finetune_instruct"
    raise UserError(where, f"{prompt!r:.40} is not a known prompt format", fix, DATA)


def prompt_of(folder: Path | str, tokenizer: Tokenizer) -> Any:
    """Return the frame of a model as JSON: that in its config.json; without one, its chat template, else Alpaca's.

    The tokenizer is that of the folder.
    """
    return read_json(Path(folder) / "config.json").get("prompt", "chat" if tokenizer.chat else "alpaca")


def frame_of(folder: Path | str, tokenizer: Tokenizer) -> Frame:
    """Return the frame that `prompt_of` names or describes."""
    where = f"{Path(folder) / 'config.json'}: prompt"
    return make_frame(from_json(prompt_of(folder, tokenizer), where), tokenizer, where)


# Entries --------------------------------------------------------------------------------------------------------------


def turns(entry: Mapping[str, Any]) -> list[Turn]:
    """Return the turns of an entry, in order."""
    if "messages" in entry:
        return [(message["role"], message["content"], "") for message in entry["messages"]]
    question: Turn = ("user", entry["instruction"], entry["input"])
    return [question, ("assistant", entry["output"], "")] if "output" in entry else [question]


def asked(entry: Mapping[str, Any]) -> list[Turn]:
    """Return the turns before the last answer."""
    chat = turns(entry)
    return chat[:-1] if chat[-1][0] == "assistant" else chat


def single(entry: Mapping[str, Any]) -> dict[str, str]:
    """Return `instruction`, `input` and `output` of an entry.

    Of a chat, the instruction is the last question, the output its answer, and the input the turns before them.
    """
    if "messages" not in entry:
        return dict(entry)
    before = asked(entry)
    last = before.pop()[1] if before and before[-1][0] == "user" else ""
    history = "\n".join(f"{role}: {text}" for role, text, _ in before)
    return {"instruction": last, "input": history, "output": entry["messages"][-1]["content"]}


def question(entry: Mapping[str, Any]) -> str:
    """Return instruction and input, the part of an entry that is compared between splits."""
    entry = single(entry)
    return f"{entry['instruction']}\n{entry['input']}"


def all_questions(entry: Mapping[str, Any]) -> list[str]:
    """Return `question` for each answer of an entry, since a model is trained on all answers of a chat."""
    chat = entry.get("messages", [])
    parts = [{"messages": chat[:end]} for end, turn in enumerate(chat, start=1) if turn["role"] == "assistant"]
    return [question(part) for part in parts] or [question(entry)]


def format_prompt(entry: Mapping[str, Any], frame: Frame = ALPACA) -> str:
    """Return the prompt without the header of the answer (section 7.2, exercise 7.1)."""
    return "".join(segment.text for segment in frame.prompt(entry))
