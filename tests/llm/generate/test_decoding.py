"""Decoding in batches with a cache, compared with the simplest loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from llm.common.errors import USAGE, UserError
from llm.generate import decoding
from llm.generate.config import DecodingConfig, greedy
from llm.generate.decoding import choose, choose_each, continuations, generate, weights
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from stages.sections.respond import RespondConfig
from tests.llm.conversions import Conversions

Make = Callable[..., ModelConfig]
PROMPTS = [[7, 8, 9], [1], [200, 3, 4, 5, 6, 7, 8, 9], [42, 42], [7, 8, 9]]
GREEDY = greedy(8)


@pytest.fixture
def model(model_config: Make) -> GPT:
    """A model whose greedy texts do not repeat a single token."""
    torch.manual_seed(3)
    model = GPT(model_config(context_length=32, n_embd=16)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return model


def plain(model: GPT, prompt: Sequence[int], new: int, stop: int | None = None) -> list[int]:
    """Greedy decoding of one prompt as in section 4.7: no batch, no cache."""
    ids = list(prompt)
    for _ in range(new):
        token = int(model(torch.tensor([ids]))[0, -1].argmax())
        if token == stop:
            break
        ids.append(token)
    return ids[len(prompt) :]


def sampling(**changes: Any) -> DecodingConfig:
    return DecodingConfig(**({"max_new_tokens": 8, "temperature": 1.4, "top_k": 25, "top_p": None} | changes))


# Greedy


def test_batch_with_cache_gives_the_text_of_each_prompt_alone(model: GPT) -> None:
    expected = [plain(model, prompt, 8) for prompt in PROMPTS]
    assert generate(model, PROMPTS, GREEDY, stops=()) == expected
    assert len({token for answer in expected for token in answer}) > 5  # control: the texts vary


def test_each_row_ends_at_its_own_stop_token(model: GPT) -> None:
    endless = generate(model, PROMPTS, GREEDY, stops=())
    stop = endless[0][3]  # a token that ends some rows early
    answers = generate(model, PROMPTS, GREEDY, [stop])
    assert answers == [plain(model, prompt, 8, stop) for prompt in PROMPTS]
    assert len({len(answer) for answer in answers}) > 1
    assert all(stop not in answer for answer in answers)


def test_each_row_ends_at_the_first_of_several_stop_tokens(model: GPT) -> None:
    endless = generate(model, PROMPTS, GREEDY, stops=())
    stops = {endless[0][3], endless[1][2]}
    ends = [next((n for n, token in enumerate(row) if token in stops), len(row)) for row in endless]
    assert generate(model, PROMPTS, GREEDY, stops) == [row[:end] for row, end in zip(endless, ends, strict=True)]
    assert len({row[end] for row, end in zip(endless, ends, strict=True) if end < len(row)}) == 2  # both end a row


def test_each_row_ends_at_its_own_limit(model: GPT) -> None:
    limits = [3, 0, 8, 1, 20]
    answers = generate(model, PROMPTS, GREEDY, stops=(), limits=limits)
    assert answers == [plain(model, prompt, limit) for prompt, limit in zip(PROMPTS, limits, strict=True)]


def test_no_prompt_gives_no_answer(model: GPT) -> None:
    assert generate(model, [], GREEDY, stops=()) == []


def test_generating_keeps_the_mode_and_the_global_generator(model: GPT) -> None:
    model.train()
    state = torch.get_rng_state()
    generate(model, PROMPTS, sampling(), stops=())
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_is_off(model_config: Make) -> None:
    model = GPT(model_config(dropout=0.9, context_length=32)).train()
    assert generate(model, PROMPTS, GREEDY, ()) == generate(model, PROMPTS, GREEDY, ())


def test_under_autocast_weights_are_converted_once_not_for_every_token(
    model: GPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    def conversions_of_the_head() -> int:
        with Conversions() as seen, torch.autocast("cpu", torch.bfloat16):
            generate(model, [[1, 2]], greedy(5), ())
        return seen.shapes.count(tuple(model.lm_head.weight.shape))

    assert conversions_of_the_head() == 1
    monkeypatch.setattr("llm.generate.decoding._no_gradients", lambda device: torch.inference_mode())  # control
    assert conversions_of_the_head() == 5


def test_training_goes_on_after_generating(model: GPT) -> None:
    generate(model, PROMPTS, GREEDY, ())
    model.train()(torch.tensor([[1, 2, 3]])).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


# Sampling


def test_sampled_tokens_do_not_depend_on_the_rows_of_the_batch(model: GPT) -> None:
    seeds = [11, 12, 13, 14, 15]
    together = generate(model, PROMPTS, sampling(), (), seeds)
    alone = [generate(model, [p], sampling(), (), [seed])[0] for p, seed in zip(PROMPTS, seeds, strict=True)]
    assert together == alone


def test_sampled_tokens_do_not_depend_on_rows_that_end_early(model: GPT) -> None:
    limits = [8, 1, 8, 2, 8]
    short = generate(model, PROMPTS, sampling(), (), range(5), limits)
    whole = generate(model, PROMPTS, sampling(), (), range(5))
    assert short == [answer[:limit] for answer, limit in zip(whole, limits, strict=True)]


def test_seeds_decide_the_tokens(model: GPT) -> None:
    first, again, other = (generate(model, PROMPTS[:1], sampling(), (), [seed]) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_equal_prompts_get_different_seeds(model: GPT) -> None:
    answers = generate(model, PROMPTS, sampling(), ())
    assert answers[0] != answers[4]


def test_top_1_is_greedy(model: GPT) -> None:
    assert generate(model, PROMPTS, sampling(top_k=1), ()) == generate(model, PROMPTS, GREEDY, ())


# Copies and log-probabilities


def test_copies_are_the_rows_that_each_prompt_gives_alone(model: GPT) -> None:
    found = continuations(model, PROMPTS, sampling(), (), range(15), [8, 0, 3, 8, 5], copies=3)
    limits = [limit for limit in (8, 0, 3, 8, 5) for _ in range(3)]
    alone = generate(model, [p for p in PROMPTS for _ in range(3)], sampling(), (), range(15), limits)
    assert [one.ids for one in found] == alone
    assert found[0].ids != found[1].ids


def test_a_prompt_is_computed_once_for_all_copies(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    forward = model.transformer.forward
    monkeypatch.setattr(
        model.transformer, "forward", lambda ids, *rest: shapes.append(ids.shape) or forward(ids, *rest)
    )
    continuations(model, [[1, 2, 3]], sampling(max_new_tokens=2), (), copies=5)
    assert shapes == [(1, 3), (5, 1)]


@pytest.mark.parametrize("config", [GREEDY, sampling()], ids=["greedy", "sampled"])
def test_log_probabilities_are_those_of_one_pass_over_the_text(model: GPT, config: DecodingConfig) -> None:
    stop = generate(model, PROMPTS, config, ())[0][3]
    found = continuations(model, PROMPTS, config, [stop])
    for prompt, one in zip(PROMPTS, found, strict=True):
        new = one.ids + [stop] * one.ended
        logits = model(torch.tensor([[*prompt, *new]]))[0, len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits, -1).gather(1, torch.tensor(new)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(one.logprobs), expected, rtol=1e-4, atol=1e-5)
    assert {one.ended for one in found} == {True, False}


@pytest.mark.parametrize("temperature", [1e-4, 1.2e-38, 1e-40, 1e-46, 1e-300])
def test_temperature_near_zero_is_greedy(model: GPT, temperature: float) -> None:
    answers = generate(model, PROMPTS, sampling(temperature=temperature, top_k=None), ())
    assert answers == generate(model, PROMPTS, GREEDY, ())


def draws(logits: list[float], count: int, **changes: Any) -> torch.Tensor:
    """How often each token was drawn."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    chosen = choose(torch.tensor([logits] * count), sampling(**changes), generators)
    return torch.bincount(chosen, minlength=len(logits))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])
def test_tokens_are_drawn_with_their_probability(temperature: float) -> None:
    logits = [4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79]
    share = draws(logits, 20_000, temperature=temperature, top_k=None) / 20_000
    torch.testing.assert_close(share, torch.softmax(torch.tensor(logits) / temperature, -1), atol=0.015, rtol=0)


def test_only_the_k_most_likely_are_drawn() -> None:
    counts = draws([1.0, 5.0, 4.0, 4.5, 0.0], 500, top_k=3, temperature=10.0)
    assert (counts > 0).tolist() == [False, True, True, True, False]


# Of softmax(log p) = p: 0.5, 0.25, 0.15, 0.1, in another order.
FOUR = [math.log(p) for p in (0.15, 0.5, 0.1, 0.25)]


@pytest.mark.parametrize(
    ("top_p", "drawn"),
    [
        (0.01, [1]),
        (0.49, [1]),
        (0.51, [1, 3]),
        (0.74, [1, 3]),
        (0.76, [0, 1, 3]),
        (0.91, [0, 1, 2, 3]),
        (1.0, [0, 1, 2, 3]),
        (None, [0, 1, 2, 3]),
    ],
)
def test_top_p_draws_from_the_smallest_set(top_p: float | None, drawn: list[int]) -> None:
    assert draws(FOUR, 500, top_k=None, top_p=top_p, temperature=1.0).nonzero().flatten().tolist() == drawn


def test_top_p_keeps_the_proportions() -> None:
    share = draws(FOUR, 20_000, top_k=None, top_p=0.74, temperature=1.0) / 20_000
    torch.testing.assert_close(share, torch.tensor([0, 2 / 3, 0, 1 / 3]), atol=0.02, rtol=0)


def test_top_p_applies_after_temperature_and_top_k() -> None:
    assert (draws(FOUR, 500, top_k=None, top_p=0.74, temperature=50.0) > 0).sum() == 3  # about a quarter each
    assert draws(FOUR, 500, top_k=2, top_p=0.66, temperature=1.0).tolist() == [0, 500, 0, 0]  # 2/3 of what k leaves


def test_a_small_top_p_keeps_one_of_equal_tokens() -> None:
    assert (draws([1.0] * 5, 300, top_k=None, top_p=0.1, temperature=1.0) > 0).sum() == 1


def test_a_top_p_that_float32_cannot_hold_keeps_the_likeliest_token() -> None:
    assert draws(FOUR, 20, top_k=None, top_p=1e-300, temperature=1.0).tolist() == [0, 20, 0, 0]


def test_k_above_the_vocabulary_draws_from_all() -> None:
    assert (draws([1.0, 1.0, 1.0], 500, top_k=50) > 0).all()


# Prompts that do not fit, and invalid settings


def test_prompt_with_its_new_tokens_over_the_context_is_refused(model: GPT) -> None:
    message = r"25 prompt tokens \+ 8 new tokens exceed the model's context of 32 \| fix: ask for at most 7 new tokens"
    with pytest.raises(UserError, match=message) as caught:
        generate(model, [[1], [1] * 25], GREEDY, ())
    assert caught.value.code == USAGE
    assert len(generate(model, [[1], [1] * 24], GREEDY, ())[1]) == 8


def test_prompt_over_the_context_must_be_shortened(model: GPT) -> None:
    with pytest.raises(UserError, match="shorten the prompt"):
        generate(model, [[1] * 33], GREEDY, ())


def test_prompt_over_the_context_without_new_tokens_is_accepted(model: GPT) -> None:
    assert generate(model, [[1] * 40, [7, 8, 9]], GREEDY, (), limits=[0, 8]) == [[], plain(model, [7, 8, 9], 8)]


def test_empty_prompt_is_refused(model: GPT) -> None:
    with pytest.raises(UserError, match="prompt: is empty"):
        generate(model, [[]], GREEDY, ())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
    ],
)
def test_impossible_decoding_is_a_problem(changes: dict[str, Any], field: str) -> None:
    assert [name for name, *_ in sampling(**changes).problems()] == [field]
    assert not list(sampling().problems())


def test_impossible_batch_size_is_a_problem() -> None:
    assert [name for name, *_ in RespondConfig(GREEDY, 0, "given").problems()] == ["batch_size"]


@pytest.mark.parametrize("settings", [(1.0, None, None), (0.7, 25, None), (1.3, None, 0.9)])
@pytest.mark.parametrize("words", [5, 300, 5003])
def test_tokens_are_those_that_multinomial_draws_for_each_row(words: int, settings: Any) -> None:
    config, logits = DecodingConfig(1, *settings), torch.randn(4, words, generator=torch.Generator().manual_seed(1)) * 3
    ours, theirs = ([torch.Generator().manual_seed(seed) for seed in range(4)] for _ in range(2))
    for _ in range(5):
        drawn = choose(logits, config, ours).tolist()
        rows = [weights(row[None], config)[0] for row in logits]
        assert drawn == [int(torch.multinomial(row, 1, generator=g)) for row, g in zip(rows, theirs, strict=True)]


def test_rows_with_settings_of_their_own_get_the_tokens_they_get_alone() -> None:
    configs = [greedy(3), sampling(), sampling(top_p=0.5), greedy(9), sampling()]
    logits = torch.randn(5, 300, generator=torch.Generator().manual_seed(1))

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in range(5)]

    alone = [choose(logits[[i]], configs[i], generators()[i : i + 1]).item() for i in range(5)]
    assert choose_each(logits, configs, generators()).tolist() == alone
    assert choose_each(logits[:2], [sampling(), sampling(max_new_tokens=1)], generators()[:2]).tolist() == [
        choose(logits[[i]], sampling(), generators()[i : i + 1]).item() for i in range(2)
    ]


def test_whole_numbers_sum_to_the_same_nucleus() -> None:
    p = torch.softmax(torch.randn(50, 3000, generator=torch.Generator().manual_seed(1)) * 3, dim=-1)
    ordered = p.sort(dim=-1, descending=True).values
    torch.testing.assert_close(
        decoding.sum_before_in_units(ordered), ordered.cumsum(dim=-1) - ordered, rtol=0, atol=2e-6
    )
