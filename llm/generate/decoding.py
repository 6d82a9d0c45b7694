"""Greedy decoding, and sampling with temperature, top-k (section 5.3) and top-p, in batches with a key-value cache."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from llm.common.errors import USAGE, UserError
from llm.generate.config import DecodingConfig
from llm.model.gpt import GPT
from llm.model.kv_cache import KVCache


@dataclass
class Continuation:
    """The new tokens of one prompt.

    `logprobs` are the model's log-probabilities, in nats, of `ids` and of the stop token that ended them, if one did:
    those of its own distribution, before temperature, top-k and top-p.
    """

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stop: int | None = None  # the stop token that ended them; None: they reached the limit

    @property
    def ended(self) -> bool:
        """Whether they end at a stop token."""
        return self.stop is not None

    def add(self, token: int, stops: Collection[int], limit: int) -> bool:
        """Add the next token; returns whether another one follows."""
        if token in stops:
            self.stop = token
        else:
            self.ids.append(token)
        return not self.ended and len(self.ids) < limit

    @property
    def tokens(self) -> list[int]:
        """All ids, with the stop token."""
        return self.ids if self.stop is None else [*self.ids, self.stop]


def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    config: DecodingConfig,
    stops: Collection[int],
    seeds: Sequence[int] | None = None,
    limits: Sequence[int] | None = None,
) -> list[list[int]]:
    """Continue each prompt; returns its new token ids, without the id of `stops` that ended them.

    For `seeds`, `limits` and errors see `continuations`.
    """
    return [found.ids for found in continuations(model, prompts, config, stops, seeds, limits, logprobs=False)]


def continuations(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    config: DecodingConfig,
    stops: Collection[int],
    seeds: Sequence[int] | None = None,
    limits: Sequence[int] | None = None,
    copies: int = 1,
    logprobs: bool = True,
) -> list[Continuation]:
    """Continue each prompt `copies` times: the copies of the first prompt come first, then those of the second, ...

    A prompt is computed once for all its copies. Each row is sampled with its own generator, seeded by `seeds` (one for
    each row, default 0, 1, ...), so its tokens do not depend on the rest of the batch. `limits` replaces
    `max_new_tokens` for each prompt. With limit 0, the length is not checked. Without `logprobs`, they are left out.
    Raises UserError if a prompt is empty, or does not fit into the context together with its new tokens.
    """
    limits = [config.max_new_tokens] * len(prompts) if limits is None else list(limits)
    for prompt, limit in zip(prompts, limits, strict=True):
        _check_fits(len(prompt), limit, model.config.context_length)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    started = [number for number, limit in enumerate(limits) if limit > 0]  # prompts
    found = [Continuation() for _ in range(len(prompts) * copies)]
    rows = [number * copies + copy for number in started for copy in range(copies)]  # unfinished ones
    generators = [generator_on(device, seed) for seed in seeds or range(len(found))]
    scores: list[tuple[list[int], Tensor]] = []  # rows and their log-probabilities, read together at the end
    with _no_gradients(device):
        if rows:
            ids, padding = _pad_left([prompts[number] for number in started], device)
            cache = KVCache(model.config, len(started), ids.shape[1] + max(limits), model.transformer.wte.weight)
            hidden = model.transformer(ids, cache, padding)[:, -1]  # (B, C); earlier tokens need no logits
            if copies > 1:
                repeated = torch.arange(len(started), device=device).repeat_interleave(copies)
                hidden, padding = hidden[repeated], None if padding is None else padding[repeated]
                cache.keep(repeated)
        while rows:
            logits = model.lm_head(hidden)  # (B, V)
            chosen = choose(logits, config, [generators[row] for row in rows])
            if logprobs:
                of_chosen = torch.log_softmax(logits.float(), dim=-1).gather(1, chosen[:, None])[:, 0]
                scores.append((rows, of_chosen))
            tokens = enumerate(zip(rows, chosen.tolist(), strict=True))
            unfinished = [i for i, (row, token) in tokens if found[row].add(token, stops, limits[row // copies])]
            if len(unfinished) < len(rows):  # drop finished rows from the batch
                kept = torch.tensor(unfinished, dtype=torch.long, device=device)
                rows, chosen = [rows[i] for i in unfinished], chosen[kept]
                padding = None if padding is None else padding[kept]
                cache.keep(kept)
            if rows:
                hidden = model.transformer(chosen[:, None], cache, padding)[:, -1]
    model.train(was_training)
    values = iter(torch.cat([of_rows for _, of_rows in scores]).tolist() if scores else ())
    for row in (row for of_step, _ in scores for row in of_step):
        found[row].logprobs.append(next(values))
    return found


def _no_gradients(device: torch.device) -> AbstractContextManager[Any]:
    """Inference mode; under autocast only `no_grad`, since inference mode would convert the weights for every token."""
    return torch.no_grad() if torch.is_autocast_enabled(device.type) else torch.inference_mode()


def choose(logits: Tensor, config: DecodingConfig, generators: Sequence[torch.Generator]) -> Tensor:
    """Token ids (B,) from logits (B, V): the most likely ones, or sampled with the generator of each row."""
    if config.is_greedy:
        return logits.max(dim=-1).indices  # on CPUs, argmax in bf16 takes four times as long
    drawn_by = weights(logits.float(), config)
    noise = torch.empty_like(drawn_by)
    for row, generator in zip(noise, generators, strict=True):
        row.exponential_(generator=generator)
    return (drawn_by / noise).argmax(dim=-1)  # what torch.multinomial computes for one row, after it has read the sum


def choose_each(logits: Tensor, configs: Sequence[DecodingConfig], generators: Sequence[torch.Generator]) -> Tensor:
    """`choose` for rows that have a config each; those of the same config are computed together."""
    groups: dict[DecodingConfig, list[int]] = {}
    for row, config in enumerate(configs):
        groups.setdefault(replace(config, max_new_tokens=1), []).append(row)
    if len(groups) == 1:
        return choose(logits, configs[0], generators)
    chosen = torch.empty(len(configs), dtype=torch.long, device=logits.device)
    for config, rows in groups.items():
        at = torch.tensor(rows, device=logits.device)
        chosen[at] = choose(logits[at], config, [generators[row] for row in rows])
    return chosen


def generator_on(device: torch.device, seed: int) -> torch.Generator:
    """A generator for `choose`; those of CPU and GPU draw different numbers."""
    return torch.Generator(device).manual_seed(seed)


def weights(logits: Tensor, config: DecodingConfig) -> Tensor:
    """What tokens are drawn by, (B, V) -> (B, V): probabilities after temperature, top-k and top-p, not normalised.

    `config` is not greedy.
    """
    if config.top_k is not None:
        k = min(config.top_k, logits.shape[-1])
        lowest = logits.topk(k, dim=-1).values[:, -1:]  # (B, 1)
        logits = logits.masked_fill(logits < lowest, -torch.inf)
    highest = logits.amax(dim=-1, keepdim=True)  # subtracted to avoid infinities at low temperatures
    probabilities = torch.softmax((logits - highest) / config.temperature, dim=-1)
    return probabilities if config.top_p is None else nucleus(probabilities, config.top_p)


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Keep the fewest most likely tokens with a total probability of `top_p`; set all others to 0, without normalising.

    (B, V) -> (B, V); see Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration".
    """
    ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
    on_cpu = ordered.device.type == "cpu"
    before = ordered.cumsum(dim=-1) - ordered if on_cpu else sum_before_in_units(ordered)  # of more likely tokens
    others = before >= top_p
    others[:, 0] = False  # keep the first token despite rounding
    return probabilities.scatter(-1, tokens, ordered.masked_fill(others, 0.0))


def sum_before_in_units(ordered: Tensor) -> Tensor:
    """The sum of the probabilities before each one, (B, V) -> (B, V), in units of 2^-40.

    A GPU adds floats in an order that varies; a sum of integers does not depend on it.
    """
    units = (ordered * 2.0**40).long()
    return (units.cumsum(dim=-1) - units).float() / 2.0**40


def _pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Left-padded prompts (B, T) and the number of padding tokens of each row (B,), or None without padding."""
    width = max(len(prompt) for prompt in prompts)
    padding = [width - len(prompt) for prompt in prompts]
    ids = torch.tensor([[0] * pad + list(p) for pad, p in zip(padding, prompts, strict=True)], device=device)
    return ids, torch.tensor(padding, device=device) if any(padding) else None


def _check_fits(prompt: int, new: int, context: int) -> None:
    if prompt == 0:
        raise UserError("prompt", "is empty", "write at least one character", USAGE)
    if new > 0 and prompt + new > context:
        what = f"{prompt} prompt tokens + {new} new tokens exceed the model's context of {context}"
        fix = f"ask for at most {context - prompt} new tokens" if prompt < context else "shorten the prompt"
        raise UserError("max_new_tokens", what, fix, USAGE)
