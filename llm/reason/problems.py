"""Problems with an answer that can be checked, in four splits that share no problem.

`train` is for learning from solutions, `rl` for learning from rewards, `validation` and `test` for measuring. A hash of
the question decides the split of a problem. So a problem keeps its split whatever the settings of its generator are.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import regex

from llm.common import files, params
from llm.common.errors import DATA, UserError, collect_errors, raise_first
from llm.common.params import Problem as ParamProblem
from llm.reason.verifiers import VERIFIERS, Verifier, VerifierName, exact

Split = Literal["train", "rl", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
TENTHS: tuple[Split, ...] = ("test", "validation", "train", "train", *(("rl",) * 6))  # by the hash of the question
TASK = "task.json"


@dataclass(frozen=True)
class Problem:
    """A question, its answer, and the written steps that lead to it, if they are known."""

    question: str
    answer: str
    steps: str | None = None


@dataclass(frozen=True)
class Style:
    """The form of a response: `{steps_start}{steps}{answer_start}{answer}`, or `{answer_start}{answer}` at once."""

    steps_start: str  # a response that begins with it has written steps
    answer_start: str  # the answer follows the last one; empty: the whole response is read, for the verifier number

    def problems(self) -> Iterator[ParamProblem]:
        if not self.steps_start.strip() or self.steps_start.strip() == self.answer_start.strip():
            what = f"{self.steps_start!r} is no mark of its own"
            yield "steps_start", what, "write one that differs from answer_start"

    def response(self, problem: Problem, with_steps: bool) -> str:
        """The solution of a problem, as a model is taught it; its steps must be known if it is to have them."""
        if not with_steps:
            return f"{self.answer_start}{problem.answer}"
        return f"{self.steps_start}{problem.steps}{self.answer_start or ' '}{problem.answer}"

    def answer(self, response: str) -> str | None:
        """What follows the last `answer_start`; None if that is missing, or nothing follows."""
        if not self.answer_start.strip():
            return response.strip() or None
        _, mark, answer = response.rpartition(self.answer_start.strip())
        return answer.strip() or None if mark else None


@dataclass(frozen=True)
class Task:
    """How responses to the problems of a folder are written and checked."""

    verifier: VerifierName
    style: Style

    @property
    def check(self) -> Verifier:
        return VERIFIERS[self.verifier]

    @property
    def same(self) -> Verifier:
        """Whether two answers of a model are the same. Only the answer of a problem may be a regular expression."""
        return exact if self.verifier == "regex" else self.check


def split_of(question: str) -> Split:
    """The split of a question, by the first bytes of the SHA-256 of its normal form."""
    digest = hashlib.sha256(normal(question).encode("utf-8", "surrogatepass")).digest()
    return TENTHS[int.from_bytes(digest[:8], "big") % len(TENTHS)]


def normal(question: str) -> str:
    """The question without differences of case and white space."""
    return re.sub(r"\s+", " ", question).strip().casefold()


def by_split(problems: Iterable[Problem], counts: Mapping[Split, int], where: str) -> dict[Split, list[Problem]]:
    """The first `counts` different problems of each split, in the order given.

    Raises UserError at the key `where` of params.yaml if `problems` ends before.
    """
    found: dict[Split, list[Problem]] = {split: [] for split in SPLITS}
    seen: set[str] = set()
    missing = sum(counts.values())
    for problem in problems:
        if missing == 0:
            return found
        split, question = split_of(problem.question), normal(problem.question)
        if question not in seen and len(found[split]) < counts[split]:
            seen.add(question)
            found[split].append(problem)
            missing -= 1
    if missing:
        short = ", ".join(f"{len(found[s])} of {counts[s]} for {s}" for s in SPLITS if len(found[s]) < counts[s])
        fix = "ask for fewer, or for longer problems"
        raise UserError(f"params.yaml: {where}", f"there are too few different problems: {short}", fix, DATA)
    return found


def read_source(path: Path, task: Task) -> dict[Split, list[Problem]]:
    """All problems of a file of JSON Lines or a JSON list: objects with `question`, `answer`, and if known `steps`.

    One may name its `split`; else the hash of the question decides it. Raises UserError for all that are not such an
    object, repeat a question, or have an answer that the verifier cannot read, alone or in a solution.
    """
    found: dict[Split, list[Problem]] = {split: [] for split in SPLITS}
    lines: dict[str, int] = {}
    problems: list[UserError] = []
    text = files.read_text(path)
    kind = "entry" if text.lstrip().startswith("[") else "line"
    for number, part in enumerate(files.parse_json(text, path) if kind == "entry" else text.split("\n"), start=1):
        if kind == "line" and not part.strip():
            continue
        where = f"{path}:{number}" if kind == "line" else f"{path}: entry {number}"
        with collect_errors(problems):
            split, problem = _entry(files.parse_json(part, path, number) if kind == "line" else part, where)
            first = lines.setdefault(normal(problem.question), number)
            if first != number:
                what = f"the question of {kind} {first} again: {problem.question!r:.60}"
                raise UserError(where, what, "remove one of them", DATA)
            _check_answer(problem, task, where)
            found[split].append(problem)
    raise_first(problems, str(path))
    return found


def _entry(value: Any, where: str) -> tuple[Split, Problem]:
    if not isinstance(value, Mapping):
        raise UserError(where, "is not an object", 'write {"question": "...", "answer": "..."}', DATA)
    keys = ("question", "answer", "steps", "split")
    unknown = [key for key in value if key not in keys]
    if unknown:
        raise UserError(where, f"unknown key {unknown[0]!r:.40}", f"use {', '.join(keys)}", DATA)
    for key in ("question", "answer"):
        text = value.get(key)
        if text is None or (isinstance(text, str) and not text.strip()):
            what = f"{key} is {'missing' if text is None else 'empty'}"
            raise UserError(where, what, f"write {key} as a text", DATA)
        if not isinstance(text, str):
            raise UserError(where, f"{key} is {text!r:.40}, not a text", f'write "{key}": "..." with quotes', DATA)
    steps = value.get("steps")
    if steps is not None and (not isinstance(steps, str) or not steps.strip()):
        raise UserError(where, f"steps is {steps!r:.40}, not a text", "write a text, or leave it out", DATA)
    split = value.get("split")
    if split is not None and split not in SPLITS:
        raise UserError(where, f"split is {split!r:.40}", f"write {', '.join(SPLITS)}, or leave it out", DATA)
    return split or split_of(value["question"]), Problem(value["question"], value["answer"], steps)


def _check_answer(problem: Problem, task: Task, where: str) -> None:
    """Raise UserError if the verifier cannot read the answer, or another one is read in a solution of the problem."""
    answer = problem.answer.strip()
    try:
        right = task.check(answer, answer)
    except regex.error as error:
        raise UserError(where, f"answer {answer!r:.60}: {error}", "write a regular expression", DATA) from None
    if task.verifier == "number" and re.search(r"\d\s*[-+*/^]\s*\d", answer):
        what = f"the verifier number reads only the last number of the answer {answer!r:.60}"
        raise UserError(where, what, "use the verifier maths, or write a decimal", DATA)
    literal = task.verifier != "regex"  # an expression seldom matches itself
    if literal and not right:
        what = f"the verifier {task.verifier} cannot read the answer {answer!r:.60}"
        raise UserError(where, what, "correct it, or use another verifier", DATA)
    for with_steps in (False, True)[: 1 if problem.steps is None else 2]:
        solution = task.style.response(problem, with_steps)
        read = task.style.answer(solution)
        if read != answer and not (literal and read and task.check(read, answer)):
            fix = "set reason_problems.style to marks that are in no answer, or change the answer"
            what = f"the answer in the solution {solution!r:.60} is read as {read!r:.40}, not as {answer!r:.40}"
            raise UserError(where, what, fix, DATA)


def write(folder: Path, found: Mapping[Split, Sequence[Problem]], task: Task) -> None:
    """Write the splits as JSON Lines, and how to check the answers."""
    for split in SPLITS:
        lines = [json.dumps({k: v for k, v in asdict(p).items() if v is not None}) for p in found[split]]
        files.write_text(folder / f"{split}.jsonl", "".join(line + "\n" for line in lines))
    files.write_json(folder / TASK, asdict(task))


def read(folder: Path, split: Split) -> list[Problem]:
    """The problems of a split that `write` wrote. Raises UserError if there is none."""
    path = folder / f"{split}.jsonl"
    text = files.read_bytes(path).decode()
    if not text:
        fix = f'give more problems, or lines with "split": "{split}"'
        raise UserError(str(path), f"the split {split} has no problem", fix, DATA)
    return [Problem(**json.loads(line)) for line in text.splitlines()]


def read_task(folder: Path) -> Task:
    """How to check the answers of the problems in a folder."""
    return params.parse(Task, files.read_json(folder / TASK), str(folder / TASK))


def frequent(answers: Sequence[str]) -> float:
    """The share of the most frequent answer: what guessing it always would give."""
    return Counter(answers).most_common(1)[0][1] / len(answers)
