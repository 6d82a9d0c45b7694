"""Compare two models by a judge: which of two answers to the same question is better?

Judges prefer the first or the second place (position bias), so each pair is asked in both orders. An answer wins if it
is chosen in both; a verdict that changes with the order is a tie. The backend `reference` compares reference scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llm.common.errors import DATA, UserError, raise_first
from llm.evaluate import judge_tasks
from llm.evaluate.judge import answer_flags, journal_key, read_responses, settings_key
from llm.evaluate.judge_config import JudgeConfig
from llm.evaluate.judge_journal import FLAGS, Verdict
from llm.evaluate.judge_prompts import pairwise_prompt
from llm.evaluate.judge_replies import CHOICE_SCHEMA, Rule, parse_choice
from llm.evaluate.judge_tasks import MAX_ANSWER_CHARS, TRIAL, Entry, Progress, Questions, Task, ask_all
from llm.evaluate.reference_score import VERSION, reference_score
from llm.evaluate.stats import mcnemar, wilson

Outcome = Literal["win", "tie", "loss"]

QUESTION = ("instruction", "input", "output")  # equal in both files
POINTS = {"A": 100, "tie": 50, "B": 0}  # the score of a verdict: for the answer that is shown first
TRIAL_OTHER = "The capital of France is a large city."


@dataclass(frozen=True)
class Pair:
    """The result for one question. `first` and `second` are the judge's verdicts, with our answer as A and as B."""

    index: int
    outcome: Outcome | None  # of our answer; None unless both verdicts could be read
    flipped: bool  # the judge chose by place: A twice, or B twice
    first: Verdict
    second: Verdict


def compare(
    ours: Sequence[Entry],
    theirs: Sequence[Entry],
    config: JudgeConfig,
    format_input: Callable[[Entry], str],
    journal: Path | None = None,
    progress: Progress = iter,
) -> list[Pair]:
    """Return one pair per question, in order. `theirs` are other answers to the same questions.

    Equal answers tie, and an empty answer loses, without a request. Raises UserError as `judge_tasks.ask_all` does.
    """
    tasks = []
    for index, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        tasks += [_task(index, our, their, config, format_input), _task(index, their, our, config, format_input)]
    trial = pairwise_prompt(TRIAL, format_input(TRIAL), TRIAL_OTHER, config.seed, config.structured)
    questions = Questions(_reader(config), CHOICE_SCHEMA, trial, "A, B or tie")
    verdicts = ask_all(tasks, questions, config, journal, progress)
    return [_pair(*both) for both in zip(verdicts[::2], verdicts[1::2], strict=True)]


def require_coverage(pairs: Sequence[Pair], config: JudgeConfig) -> None:
    """Raise UserError (code SERVICE) if too few verdicts could be read."""
    verdicts = [verdict for pair in pairs for verdict in (pair.first, pair.second)]
    judge_tasks.require_coverage(verdicts, config, _reader(config))


def read_others(path: Path, entries: Sequence[Entry], other: Path) -> list[dict[str, str]]:
    """Read the file `other` of answers. Raises UserError (code DATA) unless it has the questions of `entries`."""
    others = read_responses(other)
    if len(others) != len(entries):
        what = f"{len(others)} answers, but {path} has {len(entries)}"
        raise UserError(str(other), what, "compare answers to the same questions", DATA)
    problems = [
        UserError(f"{other}: entry {number}", f"{key!r} is not that of {path}", "compare the same questions", DATA)
        for number, (one, two) in enumerate(zip(entries, others, strict=True), start=1)
        for key in QUESTION
        if one[key] != two[key]
    ]
    raise_first(problems, str(other))
    return others


def lines(pairs: Sequence[Pair], ours: str, theirs: str, how: str) -> list[str]:
    """The result as text: counts, the win rate with Wilson's interval (a tie is half a win), and the sign test."""
    wins, ties, losses = (sum(pair.outcome == outcome for pair in pairs) for outcome in ("win", "tie", "loss"))
    n = wins + ties + losses
    flipped = sum(pair.flipped for pair in pairs)
    shown = [
        f"{ours} against {theirs} ({how}), {n} of {len(pairs)} pairs judged",
        f"{'wins':<10} {wins}",
        f"{'ties':<10} {ties}" + (f" ({flipped} of them since the choice changed with the order)" if flipped else ""),
        f"{'losses':<10} {losses}",
    ]
    if n == 0:
        return shown
    low, high = wilson(wins + ties / 2, n)
    rate = f"{(wins + ties / 2) / n:.1%} (95 % interval {low:.1%} to {high:.1%}; a tie is half a win)"
    return [*shown, f"{'win rate':<10} {rate}", f"{'sign test':<10} p = {mcnemar(wins, losses):.3g} (without ties)"]


def _reader(config: JudgeConfig) -> Callable[[str, Rule], int | None]:
    def read(reply: str, rule: Rule) -> int | None:
        choice = parse_choice(reply, rule, config.structured)
        return None if choice is None else POINTS[choice]

    return read


def _task(index: int, a: Entry, b: Entry, config: JudgeConfig, format_input: Callable[[Entry], str]) -> Task:
    """The question whether the answer `a` or `b` is better, with `a` in the first place."""
    whole = [a["model_response"], b["model_response"]]
    cut = [text[:MAX_ANSWER_CHARS] for text in whole]
    prompt = pairwise_prompt({**a, "model_response": cut[0]}, format_input(a), cut[1], config.seed, config.structured)
    found = {flag for text in whole for flag in answer_flags(text, prompt, config, "guarded")}
    flags = tuple(flag for flag in FLAGS if flag in found)
    if config.backend == "reference":

        def by_reference() -> tuple[int, str]:
            ours, theirs = (reference_score({**a, "model_response": text}) for text in cut)
            return _points(ours, theirs), f"{ours} to {theirs}"

        key = journal_key(["pair", "reference", VERSION, *(a[name] for name in QUESTION), *cut])
        return Task(index, prompt, flags, key, by_reference)
    key = journal_key(["pair", prompt, *settings_key(config)])
    first, second = (text.strip() for text in whole)
    if first == second or not first or not second:
        return Task(index, prompt, flags, key, lambda: (_points(bool(first), bool(second)), ""))
    return Task(index, prompt, flags, key)


def _points(a: int, b: int) -> int:
    """The score of a verdict by the qualities of the two answers."""
    return POINTS["tie" if a == b else "A" if a > b else "B"]


def _pair(first: Verdict, second: Verdict) -> Pair:
    if first.score is None or second.score is None:
        return Pair(first.index, None, False, first, second)
    total = first.score + POINTS["A"] - second.score  # for us: 200 if we win twice
    flipped = first.score == second.score != POINTS["tie"]
    outcome: Outcome = "win" if total == 200 else "loss" if total == 0 else "tie"
    return Pair(first.index, outcome, flipped, first, second)
