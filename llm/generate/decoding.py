"""Greedy decoding, and sampling with temperature, top-k (section 5.3) and top-p, in batches with a key-value cache."""

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
    temperature: float  # 0: greedy
    top_k: int | None  # sample from the k most likely tokens
    top_p: float | None  # sample from the smallest set of tokens with this total probability

    def problems(self) -> Iterator[Problem]:
        yield from positive(self, "max_new_tokens", "top_k", "top_p")
        if self.top_p is not None and self.top_p > 1:
            yield "top_p", f"{self.top_p} is above 1", "give a probability, such as 0.9"
        yield from at_least_zero(self, "temperature")


def greedy(max_new_tokens: int) -> DecodingConfig:
    """Always choose the most likely token."""
    return DecodingConfig(max_new_tokens, temperature=0.0, top_k=None, top_p=None)


def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    config: DecodingConfig,
    stop: int | None,
    seeds: Sequence[int] | None = None,
    limits: Sequence[int] | None = None,
) -> list[list[int]]:
    """Continue each prompt; returns its new token ids, without the `stop` id at the end.

    Each row is sampled with its own generator, seeded by `seeds` (default 0, 1, ...), so its tokens do not depend on
    the rest of the batch. `limits` replaces `max_new_tokens` for each prompt. With limit 0, the length is not checked.
    Raises UserError if a prompt is empty, or does not fit into the context together with its new tokens.
    """
    limits = [config.max_new_tokens] * len(prompts) if limits is None else list(limits)
    for prompt, limit in zip(prompts, limits, strict=True):
        _check_fits(len(prompt), limit, model.config.context_length)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    answers: list[list[int]] = [[] for _ in prompts]
    rows = [row for row, limit in enumerate(limits) if limit > 0]  # of unfinished prompts
    generators = [torch.Generator().manual_seed(seed) for seed in seeds or range(len(prompts))]
    with _no_gradients(device):
        if rows:
            ids, padding = _pad_left([prompts[row] for row in rows], device)
            cache = KVCache(model.config, len(rows), ids.shape[1] + max(limits), model.transformer.wte.weight)
        while rows:
            hidden = model.transformer(ids, cache, padding)
            logits = model.lm_head(hidden[:, -1])  # (B, V); earlier tokens need no logits
            chosen = choose(logits, config, [generators[row] for row in rows]).to(device)
            unfinished = []
            for i, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
                if token != stop:
                    answers[row].append(token)
                if token != stop and len(answers[row]) < limits[row]:
                    unfinished.append(i)
            if len(unfinished) < len(rows):  # drop finished rows from the batch
                kept = torch.tensor(unfinished, dtype=torch.long, device=device)
                rows, chosen = [rows[i] for i in unfinished], chosen[kept]
                padding = None if padding is None else padding[kept]
                cache.keep(kept)
            ids = chosen[:, None]
    model.train(was_training)
    return answers


def _no_gradients(device: torch.device) -> AbstractContextManager[Any]:
    """Inference mode; under autocast only `no_grad`, since inference mode would convert the weights for every token."""
    return torch.no_grad() if torch.is_autocast_enabled(device.type) else torch.inference_mode()


def choose(logits: Tensor, config: DecodingConfig, generators: Sequence[torch.Generator]) -> Tensor:
    """Token ids (B,) from logits (B, V): the most likely ones, or sampled with the generator of each row."""
    if config.temperature == 0:
        return logits.max(dim=-1).indices  # on CPUs, argmax in bf16 takes four times as long
    logits = logits.float().cpu()
    if config.top_k is not None:
        k = min(config.top_k, logits.shape[-1])
        lowest = logits.topk(k, dim=-1).values[:, -1:]  # (B, 1)
        logits = logits.masked_fill(logits < lowest, -torch.inf)
    highest = logits.amax(dim=-1, keepdim=True)  # subtracted to avoid infinities at low temperatures
    probabilities = torch.softmax((logits - highest) / config.temperature, dim=-1)
    if config.top_p is not None:
        probabilities = nucleus(probabilities, config.top_p)
    drawn = [torch.multinomial(p, 1, generator=g) for p, g in zip(probabilities, generators, strict=True)]
    return torch.cat(drawn)


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Keep the fewest most likely tokens with a total probability of `top_p`; set all others to 0, without normalising.

    (B, V) -> (B, V); see Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration".
    """
    ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered  # total probability of more likely tokens
    before[:, 0] = 0  # keep the first token despite rounding
    return probabilities.scatter(-1, tokens, ordered.masked_fill(before >= top_p, 0.0))


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
