"""Self-refinement: a model reads its own answer and writes a better one (Madaan et al. 2023, "Self-Refine")."""

from __future__ import annotations

from collections.abc import Sequence

from llm.generate.config import DecodingConfig
from llm.reason.problems import Problem
from llm.reason.responses import Asker, Response


def refined(
    asker: Asker,
    problems: Sequence[Problem],
    drafts: Sequence[Response],
    request: str,
    decoding: DecodingConfig,
    seed: int,
    batch_size: int,
) -> tuple[list[Response], list[Response]]:
    """The new responses, and the one of each problem that is kept: the new one or its draft.

    The model sees the question, its draft and the `request`, as three turns of a chat. The new response replaces the
    draft if its tokens are on average at least as likely.
    """
    prompts = []
    for problem, draft in zip(problems, drafts, strict=True):
        turns = [
            {"role": "user", "content": asker.ask.replace("{question}", problem.question)},
            {"role": "assistant", "content": draft.text},
            {"role": "user", "content": request},
        ]
        prompts.append(asker.encode(asker.frame.prompt({"messages": turns}, header=True), "free"))
    new = [one for (one,) in asker.responses(problems, decoding, seed, batch_size=batch_size, prompts=prompts)]
    both = zip(new, drafts, strict=True)
    return new, [max(pair, key=lambda one: one.mean_logprob) for pair in both]  # of equal ones, the new one
