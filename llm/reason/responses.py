"""What a model answers to problems: its texts, the answers in them, and whether they are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from llm.common.seeds import derive
from llm.data.chat_template import Segment
from llm.data.prompts import Frame, frame_of
from llm.data.tokenizer import Tokenizer
from llm.generate.config import DecodingConfig
from llm.generate.decoding import Continuation, continuations
from llm.model.gpt import GPT
from llm.reason.problems import Problem, Style, Task
from llm.runtime.device import RuntimeConfig
from llm.train.ranks import ALONE, Alone, ranks_of
from llm.weights import model_folder

Opening = Literal["free", "steps", "direct"]  # how a response begins: as the model likes, or one form is forced


@dataclass(frozen=True)
class Response:
    """One response to a problem. Tokens and log-probabilities are of what the model wrote, with the stop token."""

    text: str  # with the forced opening
    answer: str | None  # None: the text has no answer in the form of the task, or did not end
    right: bool
    ids: tuple[int, ...]  # of the new tokens, without the stop token
    tokens: int
    logprob: float  # the sum, in nats
    ended: bool

    @property
    def mean_logprob(self) -> float:
        return self.logprob / max(1, self.tokens)


@dataclass(frozen=True)
class Asker:
    """A model with all that is needed to ask it problems."""

    model: GPT
    tokenizer: Tokenizer
    frame: Frame
    task: Task
    ask: str = "{question}"  # the text that a question is put into
    ranks: Alone = ALONE  # who share the work; all of them call, and get all responses

    @classmethod
    def load(cls, folder: Path, task: Task, runtime: RuntimeConfig, ask: str = "{question}") -> Asker:
        """The model of a folder with its prompt frame, which is its chat template if it was published with one."""
        tokenizer = model_folder.load_tokenizer(folder)
        model = model_folder.load_model(folder, tokenizer.vocab_size).to(runtime.device)
        return cls(model, tokenizer, frame_of(folder, tokenizer), task, ask, ranks_of(runtime))

    def prompt(self, problem: Problem, opening: Opening = "free") -> list[int]:
        """The token ids that the response continues."""
        entry = {"instruction": self.ask.replace("{question}", problem.question), "input": ""}
        return self.encode(self.frame.prompt(entry, header=True), opening)

    def encode(self, segments: Sequence[Segment], opening: Opening) -> list[int]:
        """The token ids of a rendered prompt and of the opening of the response."""
        forced = start(self.task.style, opening)
        return self.tokenizer.encode_segments([*segments, Segment(forced)] if forced else segments)[0]

    def responses(
        self,
        problems: Sequence[Problem],
        decoding: DecodingConfig,
        seed: int,
        opening: Opening = "free",
        copies: int = 1,
        batch_size: int = 64,
        prompts: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Response]]:
        """`copies` responses to each problem. A problem's draws depend on `seed` and its question only.

        Up to `batch_size` problems are asked at once. `prompts` replaces the token ids that the responses continue.
        """
        if prompts is None:
            prompts = [self.prompt(problem, opening) for problem in problems]

        def answer(first: int) -> list[list[Response]]:
            asked = problems[first : first + batch_size]
            seeds = [derive(seed, problem.question, copy) for problem in asked for copy in range(copies)]
            continued = prompts[first : first + batch_size]
            new = iter(continuations(self.model, continued, decoding, self.tokenizer.stops, seeds, copies=copies))
            return [[self.read(problem, one, opening) for one in islice(new, copies)] for problem in asked]

        return [each for part in self.ranks.each(answer, range(0, len(problems), batch_size)) for each in part]

    def read(self, problem: Problem, new: Continuation, opening: Opening) -> Response:
        """The response that new tokens make."""
        style = self.task.style
        text = start(style, opening) + self.tokenizer.decode(new.ids)
        answer = style.answer(text) if new.ended else None
        right = answer is not None and self.task.check(answer, problem.answer)
        tokens = len(new.ids) + new.ended
        return Response(text, answer, right, tuple(new.ids), tokens, sum(new.logprobs), new.ended)


def start(style: Style, opening: Opening) -> str:
    """The text that an opening forces."""
    return {"free": "", "steps": style.steps_start, "direct": style.answer_start}[opening]
