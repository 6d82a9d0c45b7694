"""Score the answers of a model with a judge (section 7.8).

The judge is an LLM on a server (`judge_servers.py`) or a formula that compares with the reference answer
(`reference_score.py`). Every answer gets exactly one status, and every mean is reported with its coverage.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, get_args

from llm.common.errors import DATA, SERVICE, UserError, raise_first
from llm.common.files import read_json
from llm.evaluate.judge_config import JudgeConfig
from llm.evaluate.judge_journal import FLAGS, Journal, Status, Verdict
from llm.evaluate.judge_prompts import PROMPTS, looks_like_injection
from llm.evaluate.judge_servers import Server
from llm.evaluate.reference_score import VERSION, reference_score

__all__ = ["JudgeConfig", "Verdict", "judge", "parse_score", "read_responses", "require_coverage", "summarize"]

Entry = Mapping[str, str]

ENTRY_KEYS = ("instruction", "input", "output", "model_response")
MAX_ANSWER_CHARS = 16_000  # a longer answer is cut before it is judged
MAX_REPLY_CHARS = 2_000  # a longer reply is cut after its score is read
BYTES_PER_TOKEN = 3  # a low estimate: a prompt that may exceed the judge's context is flagged


def judge(
    entries: Sequence[Entry],
    config: JudgeConfig,
    format_input: Callable[[Entry], str],
    journal: Path | None = None,
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> list[Verdict]:
    """Return one verdict per entry, in order; an entry with a verdict in the journal is not judged again.

    `format_input` returns the prompt that the answer was generated for. Raises UserError (code SERVICE) if the server
    is down, lacks the model or refuses the key, or if more than `max_failed` requests fail. The journal keeps
    the verdicts so far.
    """
    kept = Journal(journal)
    decide = _by_reference if config.backend == "reference" else _ServerJudge(config)
    verdicts: list[Verdict] = []
    failed = 0
    for task in progress([_task(index, entry, config, format_input) for index, entry in enumerate(entries)]):
        verdict = kept.get(task.key, task.index) or decide(task)
        verdicts.append(verdict)
        kept.add(task.key, verdict)
        failed += verdict.status == "failed"
        if failed > config.max_failed:
            _too_many_failed(failed, config, journal, verdict.reply)
    return verdicts


def parse_score(reply: str) -> int | None:
    """Return the whole number from 0 to 100 that the judge was asked for, or None.

    | reply                                                             | outcome                                  |
    | ----------------------------------------------------------------- | ---------------------------------------- |
    | `0`, `85`, `100`, with ASCII white space before or after          | that number                              |
    | `101`, `850`, `-5`, `+85`                                         | None: out of range or signed, no clipping |
    | `085`, `8_5`, `85.`, `85.5`, `85,5`, `8e1`, `85%`, `85/100`       | None: another notation                   |
    | full-width, Arabic and other digits; no-break or zero-width space | None: not ASCII                          |
    | `**85**`, `"85"`, `Score: 85`, `Score: 85/100`, `85 points`       | None: more than the number alone         |
    | `<think>...</think>85`, `60 85`, one number on each line          | None: it is unclear which one is meant   |
    | prose, a refusal in prose, empty                                  | None                                     |
    """
    number = re.fullmatch(r"[ \t\r\n\f\v]*(100|[1-9]?[0-9])[ \t\r\n\f\v]*", reply)
    return int(number[1]) if number else None


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


def require_coverage(summary: Mapping[str, Any], config: JudgeConfig, journal: Path | None = None) -> None:
    """Raise UserError (code SERVICE) if too many requests failed or too few answers were scored."""
    if summary["n_failed"] > config.max_failed:
        _too_many_failed(summary["n_failed"], config, journal)
    if summary["coverage"] < config.min_coverage:
        counts = ", ".join(f"{summary[f'n_{status}']} {status}" for status in get_args(Status))
        what = f"only {summary['coverage']:.3g} of {summary['n_items']} answers have a score ({counts})"
        fix = "set judge.model to one that answers with the number alone"
        raise UserError(f"judge.min_coverage ({config.min_coverage:g})", what, fix, SERVICE)


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
                problems.append(
                    UserError(where, f"{key!r} is {entry[key]!r:.60}, not a string", "put it in quotes", DATA)
                )
    raise_first(problems, str(path))
    return entries


# One answer ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    index: int
    entry: Entry
    prompt: str
    flags: tuple[str, ...]
    key: str  # of the journal: a hash of everything that the verdict depends on


def _task(index: int, entry: Entry, config: JudgeConfig, format_input: Callable[[Entry], str]) -> _Task:
    whole = entry["model_response"]
    answer = whole[:MAX_ANSWER_CHARS]
    cut = {**entry, "model_response": answer}
    prompt = PROMPTS[config.prompt](cut, format_input(entry), config.seed)
    size = len(prompt.encode("utf-8", "surrogatepass"))
    flags = {
        "empty_answer": not whole.strip(),
        "answer_cut": answer != whole,
        "injection": config.backend != "reference" and looks_like_injection(answer, config.prompt),
        "over_context": config.backend != "reference" and size > config.num_ctx * BYTES_PER_TOKEN,
    }
    return _Task(index, cut, prompt, tuple(flag for flag in FLAGS if flags.get(flag)), _task_key(cut, prompt, config))


def _task_key(entry: Entry, prompt: str, config: JudgeConfig) -> str:
    if config.backend == "reference":
        parts: list[Any] = ["reference", VERSION, *(entry[key] for key in ENTRY_KEYS)]
    else:
        parts = [config.backend, config.url, config.model, prompt, config.seed, config.temperature, config.num_ctx]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _by_reference(task: _Task) -> Verdict:
    score = reference_score(task.entry)
    return Verdict(task.index, "scored", score, str(score), task.flags)


class _ServerJudge:
    """Connects when it judges the first answer; if the journal has all verdicts, no server is needed."""

    def __init__(self, config: JudgeConfig) -> None:
        self.config = config
        self.server: Server | None = None

    def __call__(self, task: _Task) -> Verdict:
        if "empty_answer" in task.flags:  # an LLM might score another part of the prompt
            return Verdict(task.index, "scored", 0, "", task.flags)
        self.server = self.server or Server(self.config)
        reply = self.server.ask(task.prompt)
        score = parse_score(reply.text) if reply.kind == "whole" else None
        answered: Status = "unparsed" if score is None else "scored"
        status = reply.kind if reply.kind in ("refused", "failed") else answered
        cut = reply.kind == "cut" or len(reply.text) > MAX_REPLY_CHARS
        flags = (*task.flags, "reply_cut") if cut else task.flags
        return Verdict(task.index, status, score, reply.text[:MAX_REPLY_CHARS], flags)


def _too_many_failed(failed: int, config: JudgeConfig, journal: Path | None, reason: str = "") -> NoReturn:
    what = f"{failed} request(s) without a valid reply, judge.max_failed is {config.max_failed}"
    what += f"; the last: {reason}" if reason else ""
    what += f"; the verdicts in {journal} are kept" if journal else ""
    raise UserError(f"judge.url ({config.url})", what, "repair the server and run the same command again", SERVICE)
