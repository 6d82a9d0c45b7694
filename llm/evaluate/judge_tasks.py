"""Ask a judge about many answers: a trial question first, a journal, one verdict for each task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from llm.common.errors import SERVICE, UserError
from llm.evaluate.judge_config import JudgeConfig
from llm.evaluate.judge_journal import Journal, Status, Verdict
from llm.evaluate.judge_replies import Rule, fix_for
from llm.evaluate.judge_servers import Reply, Server, masked

Entry = Mapping[str, str]
Progress = Callable[[Sequence[Any]], Iterable[Any]]

MAX_ANSWER_CHARS = 16_000  # a longer answer is cut before it is judged
MAX_REPLY_CHARS = 2_000  # a longer reply is cut after it is read
BYTES_PER_TOKEN = 3  # a low estimate: a prompt that may exceed the judge's context is flagged
TRIAL: Entry = {
    "instruction": "Name the capital of France.",
    "input": "",
    "output": "The capital of France is Paris.",
    "model_response": "Paris is the capital of France.",
}


@dataclass(frozen=True)
class Task:
    """One question for the judge; `known` gives score and reply where no server is needed."""

    index: int
    prompt: str
    flags: tuple[str, ...]
    key: str  # of the journal: a hash of everything that the verdict depends on
    known: Callable[[], tuple[int, str]] | None = None


@dataclass(frozen=True)
class Questions:
    """What is asked: `read` returns the number for a reply by a rule, or None; `trial` is the first prompt."""

    read: Callable[[str, Rule], int | None]
    schema: Mapping[str, Any]
    trial: str
    wanted: str  # in words, for messages


def ask_all(
    tasks: Sequence[Task], questions: Questions, config: JudgeConfig, journal: Path | None, progress: Progress
) -> list[Verdict]:
    """Return one verdict per task, in order; a task with a verdict in the journal is not asked again.

    Raises UserError (code SERVICE) if the server is down, lacks the model or refuses a setting, if the reply to the
    trial question cannot be read, or if more than `max_failed` requests fail. The journal keeps the verdicts so far.
    """
    kept = Journal(journal)
    judge = _Judge(config, questions)
    verdicts: list[Verdict] = []
    failed = 0
    for task in progress(tasks):
        verdict = kept.get(task.key, task.index) or judge(task)
        verdicts.append(verdict)
        kept.add(task.key, verdict)
        failed += verdict.status == "failed"
        if failed > config.max_failed:
            what = f"{failed} request(s) without a valid reply, judge.max_failed is {config.max_failed}"
            what += f"; the last: {verdict.reply}" + (f"; the verdicts in {journal} are kept" if journal else "")
            fix = "repair the server and run the same command again"
            raise UserError(f"judge.url ({config.url})", what, fix, SERVICE)
    return verdicts


def require_coverage(verdicts: Sequence[Verdict], config: JudgeConfig, read: Callable[[str, Rule], object]) -> None:
    """Raise UserError (code SERVICE) if too few replies were read."""
    count = {status: sum(verdict.status == status for verdict in verdicts) for status in get_args(Status)}
    coverage = count["scored"] / len(verdicts) if verdicts else 0.0
    if coverage >= config.min_coverage:
        return
    counts = ", ".join(f"{number} {status}" for status, number in count.items())
    what = f"only {coverage:.3g} of {len(verdicts)} replies could be used ({counts})"
    fix = "set judge.model to one that answers the question"
    unparsed = next((verdict for verdict in verdicts if verdict.status == "unparsed"), None)
    if unparsed:
        limit = "length_limit" in unparsed.flags
        what += f"; the first unparsed reply is {_shown(unparsed.reply, limit)}"
        fix = fix_for(unparsed.reply, limit, config.reply, read)
    at_limit = sum("length_limit" in verdict.flags for verdict in verdicts)
    what += f"; {at_limit} replies ended at the length limit" if at_limit else ""
    raise UserError(f"judge.min_coverage ({config.min_coverage:g})", what, fix, SERVICE)


class _Judge:
    """Connects at the first task that needs a server: not if the journal has all verdicts, or they are known."""

    def __init__(self, config: JudgeConfig, questions: Questions) -> None:
        self.config, self.questions = config, questions
        self.server: Server | None = None

    def __call__(self, task: Task) -> Verdict:
        if task.known:
            known, said = task.known()
            return Verdict(task.index, "scored", known, said, task.flags)
        if self.server is None:
            server = Server(self.config, self.questions.schema)
            self._try(server.ask(self.questions.trial))
            self.server = server
        reply = self.server.ask(task.prompt)
        score = self._read(reply)
        answered: Status = "unparsed" if score is None else "scored"
        status = reply.kind if reply.kind in ("refused", "failed") else answered
        kept = masked(reply.text)
        found = (("reply_cut", len(kept) > MAX_REPLY_CHARS), ("length_limit", reply.kind == "cut"))
        flags = (*task.flags, *(flag for flag, holds in found if holds))
        return Verdict(task.index, status, score, kept[:MAX_REPLY_CHARS], flags)

    def _read(self, reply: Reply) -> int | None:
        return self.questions.read(reply.text, self.config.reply) if reply.kind == "whole" else None

    def _try(self, reply: Reply) -> None:
        """Raise UserError if the reply to the trial question is of no use."""
        shown = masked(reply.text)
        if reply.kind == "failed":
            what, fix = f"the trial question failed: {shown}", "repair the server, or correct judge.url"
            raise UserError(f"judge.url ({self.config.url})", what, fix, SERVICE)
        if self._read(reply) is not None or self.config.min_coverage == 0:
            return
        limit = reply.kind == "cut"
        what = f"the reply to the trial question is {_shown(shown, limit)}, not {self.questions.wanted}"
        fix = fix_for(reply.text, limit, self.config.reply, self.questions.read)
        raise UserError(f"judge.model ({self.config.model})", what, fix, SERVICE)


def _shown(reply: str, at_length_limit: bool) -> str:
    text = " ".join(reply.split())
    end = " (ended at the length limit)" if at_length_limit else ""
    return repr(text if len(text) <= 80 else text[:50] + " ... " + text[-25:]) + end
