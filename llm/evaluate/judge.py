"""Score the answers of a model with a judge (section 7.8).

The judge is an LLM on a server (`judge_servers.py`) or a formula that compares with the reference answer
(`reference_score.py`). Every answer gets exactly one status, and every mean is reported with its coverage.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

from llm.common.errors import DATA, UserError, raise_first
from llm.common.files import read_json
from llm.evaluate import judge_tasks
from llm.evaluate.judge_config import JudgeConfig
from llm.evaluate.judge_journal import FLAGS, Status, Verdict
from llm.evaluate.judge_prompts import PROMPTS, looks_like_injection
from llm.evaluate.judge_replies import SCORE_SCHEMA, Rule, parse_score
from llm.evaluate.judge_tasks import BYTES_PER_TOKEN, MAX_ANSWER_CHARS, TRIAL, Entry, Progress, Questions, Task, ask_all
from llm.evaluate.reference_score import VERSION, reference_score

ENTRY_KEYS = ("instruction", "input", "output", "model_response")


def judge(
    entries: Sequence[Entry],
    config: JudgeConfig,
    format_input: Callable[[Entry], str],
    journal: Path | None = None,
    progress: Progress = iter,
) -> list[Verdict]:
    """Return one verdict per entry, in order; an entry with a verdict in the journal is not judged again.

    `format_input` returns the prompt that the answer was generated for. Raises UserError as `judge_tasks.ask_all` does.
    """
    trial = PROMPTS[config.prompt](TRIAL, format_input(TRIAL), config.seed, config.structured)
    questions = Questions(_reader(config), SCORE_SCHEMA, trial, "a whole number from 0 to 100")
    tasks = [_task(index, entry, config, format_input) for index, entry in enumerate(entries)]
    return ask_all(tasks, questions, config, journal, progress)


def _reader(config: JudgeConfig) -> Callable[[str, Rule], int | None]:
    return partial(parse_score, structured=config.structured)


def summarize(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return counts, coverage, and the mean of the scores with a 95 % interval; None if nothing was scored.

    The interval is the normal approximation, mean +- 1.96 s / sqrt(n), clipped to 0..100. It estimates how far the
    mean would move with other test questions of the same kind. It does not include the judge's own errors.
    """
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    mean = statistics.fmean(scores) if scores else None
    low = high = None
    if mean is not None and len(scores) > 1:
        half = 1.96 * statistics.stdev(scores) / math.sqrt(len(scores))
        low, high = max(0.0, mean - half), min(100.0, mean + half)
    counts = {f"n_{status}": sum(v.status == status for v in verdicts) for status in get_args(Status)}
    return {
        "score_mean": mean,
        "score_ci95_low": low,
        "score_ci95_high": high,
        "coverage": len(scores) / len(verdicts) if verdicts else 0.0,
        "n_items": len(verdicts),
        **counts,
        "n_flagged": sum(bool(verdict.flags) for verdict in verdicts),
        "flags": {flag: sum(flag in verdict.flags for verdict in verdicts) for flag in FLAGS},
    }


def require_coverage(verdicts: Sequence[Verdict], config: JudgeConfig) -> None:
    """Raise UserError (code SERVICE) if too few answers were scored."""
    judge_tasks.require_coverage(verdicts, config, _reader(config))


def read_responses(path: Path | str) -> list[dict[str, str]]:
    """Read a JSON list of objects with the strings ENTRY_KEYS; other keys are kept.

    Raises UserError (code DATA) that lists the problems with file, entry (counted from 1) and key.
    """
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        what = "an empty list" if entries == [] else f"holds {type(entries).__name__}, not a list"
        raise UserError(str(path), what, "write a list of entries with " + ", ".join(ENTRY_KEYS), DATA)
    problems = []
    for number, entry in enumerate(entries, start=1):
        where = f"{path}: entry {number}"
        if not isinstance(entry, dict):
            problems.append(UserError(where, f"{entry!r:.60} is not an object", "write an object", DATA))
            continue
        for key in ENTRY_KEYS:
            if key not in entry:
                problems.append(UserError(where, f"missing {key!r}", f"add {key!r} with a string", DATA))
            elif not isinstance(entry[key], str):
                what = f"{key!r} is {entry[key]!r:.60}, not a string"
                problems.append(UserError(where, what, "put it in quotes", DATA))
    raise_first(problems, str(path))
    return entries


def settings_key(config: JudgeConfig) -> list[Any]:
    """Everything but the prompt that the reply of a server, and its reading, depend on."""
    server = [config.backend, config.url, config.model, config.seed, config.temperature, config.num_ctx]
    return [*server, config.reply, config.structured, config.think, config.reasoning_effort]


def answer_flags(whole: str, prompt: str, config: JudgeConfig, quoted_by: str) -> tuple[str, ...]:
    """What is unusual about an answer, and about the prompt that asks about it."""
    server = config.backend != "reference"
    found = {
        "empty_answer": not whole.strip(),
        "answer_cut": len(whole) > MAX_ANSWER_CHARS,
        "injection": server and looks_like_injection(whole[:MAX_ANSWER_CHARS], quoted_by),
        "over_context": server and len(prompt.encode("utf-8", "surrogatepass")) > config.num_ctx * BYTES_PER_TOKEN,
    }
    return tuple(flag for flag in FLAGS if found.get(flag))


def _task(index: int, entry: Entry, config: JudgeConfig, format_input: Callable[[Entry], str]) -> Task:
    whole = entry["model_response"]
    cut = {**entry, "model_response": whole[:MAX_ANSWER_CHARS]}
    prompt = PROMPTS[config.prompt](cut, format_input(entry), config.seed, config.structured)
    flags = answer_flags(whole, prompt, config, config.prompt)

    def by_reference() -> tuple[int, str]:
        score = reference_score(cut)
        return score, str(score)

    if config.backend == "reference":
        key = journal_key(["reference", VERSION, *(cut[name] for name in ENTRY_KEYS)])
        return Task(index, prompt, flags, key, by_reference)
    known = None if whole.strip() else lambda: (0, "")  # an LLM might score another part of the prompt
    return Task(index, prompt, flags, journal_key([prompt, *settings_key(config)]), known)


def journal_key(parts: Sequence[Any]) -> str:
    """The key of a verdict that depends on these values."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
