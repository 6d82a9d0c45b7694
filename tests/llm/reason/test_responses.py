"""Asking a model: forced openings, draws that depend on the question alone, answers read from the text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llm.common.errors import UserError
from llm.data import tokenizer
from llm.data.prompts import Template, make_frame
from llm.data.tokenizer import Tokenizer
from llm.generate.config import DecodingConfig, greedy
from llm.generate.decoding import Continuation
from llm.model.gpt import GPT
from llm.reason.lessons import entry, lessons, solutions
from llm.reason.problems import Problem, Style, Task
from llm.reason.refine import refined
from llm.reason.responses import Asker
from tests import tiny

STOP = 256  # the last of 257 tokens
PROBLEMS = [Problem("4+3", "0", "0"), Problem("5+6", "4", "4"), Problem("1+1", "2")]
SAMPLING = DecodingConfig(max_new_tokens=6, temperature=1.0, top_k=None, top_p=None)


@pytest.fixture
def asker(tmp_path: Path) -> Asker:
    tokenizer.train(["4+3=S0A0"], 257, tmp_path)
    torch.manual_seed(1)
    model = GPT(replace(tiny.MODEL, vocab_size=257, context_length=64, n_embd=16, init="width")).eval()
    words = Tokenizer.load(tmp_path)
    frame = make_frame(Template("{instruction}{input}", "="), words)
    return Asker(model, words, frame, Task("exact", Style("S", "A")))


def test_prompt_has_the_text_around_the_question_and_the_opening(asker: Asker) -> None:
    def text(one: Asker, opening: str) -> str:
        return one.tokenizer.decode(one.prompt(PROBLEMS[0], opening))  # type: ignore[arg-type]

    assert [text(asker, opening) for opening in ("free", "steps", "direct")] == ["4+3=", "4+3=S", "4+3=A"]
    assert text(replace(asker, ask="What is {question}?"), "free") == "What is 4+3?="


def test_draws_depend_on_the_question_alone(asker: Asker) -> None:
    together = asker.responses(PROBLEMS, SAMPLING, 1, copies=3, batch_size=2)
    alone = [asker.responses([problem], SAMPLING, 1, copies=3)[0] for problem in reversed(PROBLEMS)]
    assert [[one.ids for one in some] for some in together] == [[one.ids for one in some] for some in alone[::-1]]
    assert len({one.ids for some in together for one in some}) > 5
    other = asker.responses(PROBLEMS, SAMPLING, 2, copies=3)
    assert [[one.ids for one in some] for some in other] != [[one.ids for one in some] for some in together]


def test_a_response_that_did_not_end_has_no_answer(asker: Asker) -> None:
    ids = asker.tokenizer.encode("S0A0")
    ended = asker.read(PROBLEMS[0], Continuation(ids, [-0.5] * 5, STOP), "free")
    assert (ended.text, ended.answer, ended.right, ended.tokens, ended.mean_logprob) == ("S0A0", "0", True, 5, -0.5)
    cut = asker.read(PROBLEMS[0], Continuation(ids, [-0.5] * 4, None), "free")
    assert (cut.answer, cut.right, cut.tokens) == (None, False, 4)
    assert not asker.read(PROBLEMS[1], Continuation(ids, [-0.5] * 5, STOP), "free").right


def test_a_forced_opening_is_part_of_the_text(asker: Asker) -> None:
    ids = asker.tokenizer.encode("0A0")
    found = asker.read(PROBLEMS[0], Continuation(ids, [-1.0] * 4, STOP), "steps")
    assert (found.text, found.right, found.tokens) == ("S0A0", True, 4)


def test_refined_keeps_the_likelier_response(asker: Asker) -> None:
    drafts = [one for (one,) in asker.responses(PROBLEMS, greedy(6), 1)]
    new, kept = refined(asker, PROBLEMS, drafts, "Better?", greedy(6), 1, 2)
    for draft, second, best in zip(drafts, new, kept, strict=True):
        assert best.mean_logprob == max(draft.mean_logprob, second.mean_logprob)
    impossible = [replace(draft, logprob=-1e9) for draft in drafts]
    assert [best.ids for best in refined(asker, PROBLEMS, impossible, "Better?", greedy(6), 1, 2)[1]] == [
        one.ids for one in refined(asker, PROBLEMS, impossible, "Better?", greedy(6), 1, 2)[0]
    ]


# Lessons


def test_share_of_solutions_with_steps() -> None:
    known = [Problem(str(n), "1", "2") for n in range(20)]
    for share in (0.0, 0.1, 0.5, 1.0):
        outputs = [one["output"] for one in solutions(known, Style("S", "A"), share)]
        assert outputs.count("S2A1") == 20 * share
        assert outputs.count("A1") == 20 * (1 - share)
    assert solutions(PROBLEMS[2:], Style("S", "A"), 1.0) == [entry("1+1", "A2")]  # its steps are not known


@pytest.mark.parametrize(("share", "taught"), [(0.0, 0), (0.25, 12), (0.5, 24), (0.8, 24), (1.0, 24)])
def test_steps_are_taught_of_problems_whose_steps_are_known(share: float, taught: int) -> None:
    half = [Problem(str(n), "1", "2" if n % 2 else None) for n in range(48)]
    outputs = [one["output"] for one in solutions(half, Style("S", "A"), share)]
    assert outputs.count("S2A1") == taught
    assert outputs.count("A1") == 48 - taught


def test_only_responses_are_targets(asker: Asker) -> None:
    data = lessons([entry("4+3", "S0A0")], asker.tokenizer, asker.frame, 64, "x")
    batch = data.batch([0])
    words = asker.tokenizer
    assert words.decode(batch.inputs[0].tolist()) == "4+3=S0A0"
    assert batch.targets[0].tolist() == [-100] * 3 + [*words.encode("S0A0"), words.eot]


def test_a_solution_that_would_be_cut_is_refused(asker: Asker) -> None:
    entries = [entry("4+3", "S0A0"), entry("4+3", "S00000A0"), entry("4+3", "A0")]
    assert len(lessons(entries, asker.tokenizer, asker.frame, 12, "x")) == 3
    with pytest.raises(UserError, match="x: problem 2: its solution ends at token 12, and the context is 11 "):
        lessons(entries, asker.tokenizer, asker.frame, 11, "x")
