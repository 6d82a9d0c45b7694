"""Decoding: greedy, temperature, top-k (section 5.3) and top-p, batched over prompts with a key-value cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llm.common.errors import USAGE, UserError
from llm.common.params import Problem, at_least_zero, positive
from llm.model.gpt import GPT
from llm.model.kv_cache import KVCache


@dataclass(frozen=True)
class DecodingConfig:
    """How the next token is chosen."""

    max_new_tokens: int
    temperature: float  # 0: always the likeliest token
    top_k: int | None  # sample from the k likeliest only
    top_p: float | None  # sample from the fewest tokens that together have this probability

    def problems(self) -> Iterator[Problem]:
        """What is wrong with these values together."""
        yield from positive(self, "max_new_tokens", "top_k", "top_p")
        if self.top_p is not None and self.top_p > 1:
            yield "top_p", f"{self.top_p} is above 1", "give a probability, such as 0.9"
        yield from at_least_zero(self, "temperature")


def greedy(max_new_tokens: int) -> DecodingConfig:
    """Always the likeliest token."""
    return DecodingConfig(max_new_tokens, temperature=0.0, top_k=None, top_p=None)


def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    config: DecodingConfig,
    stop: int | None,
    seeds: Sequence[int] | None = None,
    limits: Sequence[int] | None = None,
) -> list[list[int]]:
    """Continue every prompt; returns the new ids of each, without the `stop` id that ended it.

    Sampling draws each row from a generator of its own, seeded by `seeds` (default 0, 1, ...), so a row's tokens do
    not depend on the rows it shares the batch with. `limits` gives each prompt a number of new tokens of its own; a
    prompt with none is left as it is, however long. Raises UserError where a prompt is empty, or with its new tokens
    does not fit into the model's context.
    """
    wanted = [config.max_new_tokens] * len(prompts) if limits is None else list(limits)
    for prompt, limit in zip(prompts, wanted, strict=True):
        _check_fits(len(prompt), limit, model.config.context_length)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    answers: list[list[int]] = [[] for _ in prompts]
    rows = [row for row, limit in enumerate(wanted) if limit > 0]  # the prompt that each row in work belongs to
    generators = [torch.Generator().manual_seed(seed) for seed in seeds or range(len(prompts))]
    with _no_gradients(device):
        if rows:
            ids, padding = _pad_left([prompts[row] for row in rows], device)
            slots = ids.shape[1] + max(wanted)
            cache = KVCache(model.config, len(rows), slots, model.transformer.wte.weight)
        while rows:
            logits = _last_logits(model, ids, cache, padding)
            chosen = choose(logits, config, [generators[row] for row in rows]).to(device)
            going = []
            for place, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
                if token != stop:
                    answers[row].append(token)
                if token != stop and len(answers[row]) < wanted[row]:
                    going.append(place)
            if len(going) < len(rows):  # finished rows leave the batch
                kept = torch.tensor(going, dtype=torch.long, device=device)
                rows, chosen = [rows[place] for place in going], chosen[kept]
                padding = None if padding is None else padding[kept]
                cache.keep(kept)
            ids = chosen[:, None]
    model.train(was_training)
    return answers


def _no_gradients(device: torch.device) -> AbstractContextManager[Any]:
    """Inference mode, but not under autocast: it would convert the weights anew for every token there."""
    return torch.no_grad() if torch.is_autocast_enabled(device.type) else torch.inference_mode()


def choose(logits: Tensor, config: DecodingConfig, generators: Sequence[torch.Generator]) -> Tensor:
    """One token id a row (B,) from logits (B, V): the likeliest, or drawn with the row's own generator."""
    if config.temperature == 0:
        return logits.max(dim=-1).indices  # argmax is four times as slow on CPUs in bf16
    logits = logits.float().cpu()
    if config.top_k is not None:
        k = min(config.top_k, logits.shape[-1])
        lowest = logits.topk(k, dim=-1).values[:, -1:]  # (B, 1)
        logits = logits.masked_fill(logits < lowest, -torch.inf)
    highest = logits.amax(dim=-1, keepdim=True)  # taken off first, or a temperature near 0 makes infinities
    probabilities = torch.softmax((logits - highest) / config.temperature, dim=-1)
    if config.top_p is not None:
        probabilities = nucleus(probabilities, config.top_p)
    drawn = [torch.multinomial(p, 1, generator=g) for p, g in zip(probabilities, generators, strict=True)]
    return torch.cat(drawn)


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Probabilities (B, V), zero but for the fewest likeliest tokens that make up `top_p`; they are not normalised.

    After temperature and top-k, as usual (Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration").
    """
    ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered  # what likelier tokens have together
    before[:, 0] = 0  # rounding must not lose the first
    return probabilities.scatter(-1, tokens, ordered.masked_fill(before >= top_p, 0.0))


def _last_logits(model: GPT, ids: Tensor, cache: KVCache, padding: Tensor | None) -> Tensor:
    """Logits (B, V) after the last of the new ids (B, T); the head sees no other position."""
    hidden = model.transformer(ids, cache, padding)
    return model.lm_head(hidden[:, -1])  # type: ignore[no-any-return]


def _pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Prompts as one (B, T) tensor, padded on the left, and the padding of each row (None: there is none)."""
    width = max(len(prompt) for prompt in prompts)
    padding = [width - len(prompt) for prompt in prompts]
    ids = torch.tensor([[0] * pad + list(p) for pad, p in zip(padding, prompts, strict=True)], device=device)
    return ids, torch.tensor(padding, device=device) if any(padding) else None


def _check_fits(prompt: int, new: int, context: int) -> None:
    if prompt == 0:
        raise UserError("prompt", "is empty", "write at least one character", USAGE)
    if new > 0 and prompt + new > context:
        what = f"{prompt} tokens of prompt + {new} new ones exceed the model's context of {context}"
        fix = f"ask for {context - prompt} new tokens at most" if prompt < context else "shorten the prompt"
        raise UserError("max_new_tokens", what, fix, USAGE)
