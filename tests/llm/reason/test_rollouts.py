"""Answers sampled from the model being trained: a function of its weights, the seed and the step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch

from llm.common.errors import UserError
from llm.data import tokenizer
from llm.data.batches import IGNORED
from llm.data.prompts import make_frame
from llm.data.tokenizer import Tokenizer
from llm.generate.decoding import Continuation
from llm.model.gpt import GPT
from llm.reason import families, rollouts
from llm.reason.grpo import GrpoLoss
from llm.reason.problems import Problem, Style, Task
from llm.reason.responses import Asker, Response
from llm.reason.rollouts import Rollouts
from llm.runtime.device import autocast
from tests import tiny
from tests.tiny import BF16, FP32

CONFIG = tiny.REWARDS
PROBLEMS = list(islice(families.draws(families.Clock(hours=3, moves=1), 0), 40))[:6]


class Lenient(Rollouts):
    """Rewards an odd sum of tokens, so that a model that knows nothing has groups that live."""

    def reward(self, response: Response) -> float:
        return float(sum(response.ids) % 2)


@pytest.fixture(scope="module")
def asker(tmp_path_factory: pytest.TempPathFactory) -> Asker:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.train(["0+1=A1 S1"], 257, folder)
    words = Tokenizer.load(folder)
    torch.manual_seed(0)
    model = GPT(replace(tiny.MODEL, vocab_size=257, init="torch"))
    with torch.no_grad():  # a few tokens are likely, so that answers end
        model.lm_head.weight[[words.encode("A")[0], words.encode("1")[0], *words.stops]] *= 3
    frame = make_frame("none", words)
    return Asker(model, words, frame, Task("exact", Style("S", "A")))


@pytest.fixture
def make(asker: Asker) -> Callable[..., Rollouts]:
    def build(steps: int = 6, seed: int = 1, some: Any = PROBLEMS, source: Any = Lenient, **changes: Any) -> Rollouts:
        reference = changes.pop("reference", None)
        rows, runtime = changes.pop("micro_batch_size", None), changes.pop("runtime", FP32)
        return source(asker, some, replace(CONFIG, **changes), steps, seed, runtime, reference, rows)

    return build


Make = Callable[..., Rollouts]


def same(first: Any, second: Any) -> bool:
    names = ("inputs", "targets", "advantages", "factors", "old")
    pairs = [(getattr(first, name), getattr(second, name)) for name in names]
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs) and first.total == second.total


def test_a_step_is_the_same_whatever_came_before(make: Make) -> None:
    in_order = make()
    found = [in_order[step] for step in range(6)]
    assert same(make()[4], found[4])
    assert not same(found[0], found[1])
    assert not same(make(seed=2)[0], found[0])


def test_the_answers_are_those_of_the_weights(make: Make, asker: Asker) -> None:
    source = make()
    before = source[0]
    weight = asker.model.lm_head.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(0.5)
    assert same(source[0], before)  # the set in use is not sampled again
    assert not same(make()[0], before)
    with torch.no_grad():
        weight.copy_(kept)
    assert same(make()[0], before)


def test_updates_share_a_set_of_answers(make: Make) -> None:
    source = make(updates=3)
    assert source[0] is source[1] is source[2]
    assert source[3] is not source[2]
    assert same(source[3], make()[1])


def test_every_problem_is_asked_once_in_an_epoch(make: Make) -> None:
    source = make()
    epochs = [[i for number in numbers for i in source._asked(number)] for numbers in (range(3), range(3, 6))]
    assert [sorted(epoch) for epoch in epochs] == [list(range(6))] * 2
    assert epochs[0] != epochs[1]


def test_the_model_is_left_in_its_mode(make: Make, asker: Asker) -> None:
    for mode in (True, False):
        asker.model.train(mode)
        make()[0]
        assert asker.model.training == mode


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_first_update_has_ratio_one_in_micro_batches_too(make: Make, asker: Asker, temperature: float) -> None:
    batch = make(temperature=temperature, micro_batch_size=3)[0]
    loss = GrpoLoss(replace(CONFIG, clip=(1e-4, 1e-4), temperature=temperature))
    value = sum(loss(asker.model, part)["loss"].item() for part in batch.split(2))
    wanted = -(batch.advantages[:, None] * (batch.targets != IGNORED)).sum().item()
    assert value == pytest.approx(wanted, abs=1e-3)
    assert loss.measures() == {"clipped": 0.0}


def test_in_bf16_the_first_update_has_ratio_one_too(make: Make, asker: Asker) -> None:
    batch = make(runtime=BF16)[0]
    loss = GrpoLoss(replace(CONFIG, clip=(1e-4, 1e-4)))
    with autocast(BF16):
        loss(asker.model, batch)
    assert loss.measures() == {"clipped": 0.0}
    exact = make()[0]  # the same weights, sampled and weighed in fp32
    assert exact.old.shape != batch.old.shape or not torch.equal(exact.old, batch.old)


def test_only_answers_are_targets_with_their_end(asker: Asker) -> None:
    stop = min(asker.tokenizer.stops)
    batch = rollouts.token_rows([[1, 2], [3]], [Continuation([7, 8], [], stop), Continuation([9], [], None)])
    assert batch.inputs.tolist() == [[1, 2, 7, 8], [3, 0, 0, 0]]
    assert batch.targets.tolist() == [[IGNORED, 7, 8, stop], [9, IGNORED, IGNORED, IGNORED]]


def test_old_log_probabilities_are_those_of_the_sampler(make: Make, asker: Asker) -> None:
    batch = make(kl=0.1, reference=asker.model)[0]  # with a KL term, no row is left out
    source = make()
    asked = [PROBLEMS[i] for i in source._asked(0)]
    seeds = [rollouts.derive(1, "rollout", 0, row) for row in range(8)]
    prompts = [asker.prompt(problem) for problem in asked]
    found = rollouts.continuations(asker.model, prompts, CONFIG.decoding, asker.tokenizer.stops, seeds, copies=4)
    assert batch.old.sum(dim=1).tolist() == pytest.approx([sum(one.logprobs) for one in found], abs=1e-4)
    torch.testing.assert_close(batch.reference, batch.old)


# Rewards


def test_answers_without_an_advantage_are_left_out_but_count(make: Make, asker: Asker) -> None:
    class OneRight(Rollouts):
        def reward(self, response: Response) -> float:
            self.seen = getattr(self, "seen", 0) + 1
            return float(self.seen == 1)

    short, whole = (make(source=OneRight, **more)[0] for more in ({}, {"kl": 1e-9, "reference": asker.model}))
    assert (len(short.inputs), len(whole.inputs)) == (4, 8)
    assert short.count == whole.count

    def gradient(batch: Any) -> torch.Tensor:
        loss = GrpoLoss(CONFIG)(asker.model, batch)["loss"] / batch.count
        return torch.autograd.grad(loss, asker.model.lm_head.weight)[0]

    torch.testing.assert_close(gradient(short), gradient(whole), rtol=1e-3, atol=1e-6)


def test_if_no_answer_has_an_advantage_one_row_is_left_with_no_gradient(make: Make, asker: Asker) -> None:
    source = make(source=Rollouts, some=[replace(problem, answer="x") for problem in PROBLEMS])
    batch = source[0]
    assert len(batch.inputs) == 1
    assert GrpoLoss(CONFIG)(asker.model, batch)["loss"].item() == 0
    found = source.measures
    assert (found["reward"], found["dead"], found["all_right"], found["all_wrong"]) == (0, 1, 0, 1)


@pytest.mark.parametrize(
    ("text", "form", "plain", "shaped"),
    [("A1", True, 1.0, 1.5), ("A2", True, 0.0, 0.5), ("1", False, 0.0, 0.0), ("S1A1", True, 1.0, 1.5)],
)
def test_the_format_has_a_reward_of_its_own(
    text: str, form: bool, plain: float, shaped: float, make: Make, asker: Asker
) -> None:
    ids = asker.tokenizer.encode(text)
    response = asker.read(Problem("0+1", "1"), Continuation(ids, [0.0] * 3, min(asker.tokenizer.stops)), "free")
    assert (response.answer is not None) == form
    assert make(source=Rollouts).reward(response) == plain
    assert make(source=Rollouts, format_reward=0.5).reward(response) == shaped


def test_measures_of_a_set() -> None:
    rewards = torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    found = [Response("", None, bool(right), (), 2, 0.0, bool(right)) for right in rewards.flatten()]
    assert rollouts.measured(rewards, found, 1.0, 0.25) == {
        "reward": 0.375,
        "right": 0.375,
        "dead": 0.75,
        "all_right": 0.25,
        "all_wrong": 0.5,
        "length": 2.0,
        "ended": 0.375,
        "entropy": 0.25,
    }


# Settings


def test_a_large_reward_of_the_format_makes_no_answer_right() -> None:
    rewards = torch.tensor([[1.5, 1.5], [2.5, 1.5]])
    found = rollouts.measured(rewards, [Response("", None, False, (), 1, 0.0, True)] * 4, 2.5, 0.25)
    assert (found["all_right"], found["all_wrong"], found["dead"]) == (0, 0.5, 0.5)


def test_too_few_problems_are_an_error(make: Make) -> None:
    with pytest.raises(UserError, match=r"reason_rl.problems_at_once: 7, but there are only 6 examples"):
        make(problems_at_once=7)


def test_bad_settings_are_named() -> None:
    bad = replace(CONFIG, group=1, problems_at_once=0, temperature=0.0, max_new_tokens=0, format_reward=-1.0)
    named = [key for key, *_ in bad.problems()]
    assert named == ["problems_at_once", "temperature", "max_new_tokens", "format_reward", "group"]
    assert not list(CONFIG.problems())
