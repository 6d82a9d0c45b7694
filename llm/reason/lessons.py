"""Problems with their solutions as batches of next-token targets, for fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence

from llm.common.errors import DATA, UserError, raise_first
from llm.data.instruction_dataset import InstructionDataset
from llm.data.prompts import Frame
from llm.data.tokenizer import Tokenizer
from llm.reason.problems import Problem, Style


def solutions(problems: Sequence[Problem], style: Style, share_with_steps: float) -> list[dict[str, str]]:
    """Entries of a question and its solution. `share_with_steps` of them, evenly spread, have their written steps.

    A problem whose steps are not known has its answer alone.
    """
    entries = []
    for number, problem in enumerate(problems):
        chosen = int((number + 1) * share_with_steps + 1e-9) > int(number * share_with_steps + 1e-9)
        entries.append(entry(problem.question, style.response(problem, chosen and problem.steps is not None)))
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
    for number, ids in enumerate(data.ids, start=1):
        if len(ids) > limit:
            what = f"its solution ends at token {len(ids)}, and the context is {limit}"
            long.append(UserError(f"{name}: problem {number}", what, fix, DATA))
    raise_first(long, name)
    return data
