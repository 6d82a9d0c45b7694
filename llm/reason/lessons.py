"""Problems with their solutions as batches of next-token targets, for fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence

from llm.common.errors import DATA, UserError, raise_first
from llm.data.instruction_dataset import InstructionDataset
from llm.data.prompts import Frame
from llm.data.tokenizer import Tokenizer
from llm.reason.problems import Problem, Style


def solutions(problems: Sequence[Problem], style: Style, share_with_steps: float) -> list[dict[str, str]]:
    """Entries of a question and its solution. `share_with_steps` of them have their written steps.

    These are evenly spread over the problems whose steps are known; all of them, if there are not enough.
    """
    known = sum(problem.steps is not None for problem in problems)
    share = min(1.0, share_with_steps * len(problems) / known) if known else 0.0
    entries, number = [], 0
    for problem in problems:
        chosen = False
        if problem.steps is not None:
            chosen = int((number + 1) * share + 1e-9) > int(number * share + 1e-9)
            number += 1
        entries.append(entry(problem.question, style.response(problem, chosen)))
    return entries


def entry(question: str, response: str) -> dict[str, str]:
    """A question and a response as an instruction and its output."""
    return {"instruction": question, "input": "", "output": response}


def lessons(
    entries: Sequence[dict[str, str]], tokenizer: Tokenizer, frame: Frame, limit: int, name: str
) -> InstructionDataset:
    """The entries as batches; only the responses are targets. `name` is used in errors.

    Raises UserError for responses that would be cut at `limit` tokens: their end is the answer.
    """
    data = InstructionDataset(entries, tokenizer, limit, True, frame, name)
    fix = "shorten it, or raise reason_model.context_length; another model needs a longer context"
    long = []
    for number, one in enumerate(data.rows, start=1):
        if one.length > limit:
            what = f"its solution ends at token {one.length}, and the context is {limit}"
            long.append(UserError(f"{name}: problem {number}", what, fix, DATA))
    raise_first(long, name)
    return data
