"""Group relative policy optimisation: a group of answers to one problem, each compared with the mean of its group.

Shao et al. 2024, "DeepSeekMath" (GRPO). Yu et al. 2025, "DAPO", average over tokens and clip on two sides. Liu et al.
2025, "Understanding R1-Zero-Like Training" (Dr. GRPO), neither divide by the deviation nor by the length.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from llm.data.batches import IGNORED, Batch
from llm.reason.config import RolloutConfig
from llm.train.ranks import ALONE, Alone
from llm.train.task import Sums

EPS = 1e-4  # added to the deviation of a group, as in TRL
SUMS = ("tokens", "clipped", "kl")


@dataclass(frozen=True, kw_only=True)
class Answers(Batch):
    """Rows of a prompt and an answer (B, T). Only the tokens of the answer, with its end, are targets."""

    advantages: Tensor  # (B,)
    factors: Tensor  # (B,): the weight of a token of the answer
    old: Tensor  # (B, T): log-probabilities of the targets when the answers were written
    reference: Tensor | None  # (B, T): the same of the first model, if there is a KL term
    total: int  # what the sum of the loss is divided by

    @property
    def count(self) -> int:
        """`total`: rows without an advantage may be left out, but they count."""
        return self.total


def advantages(rewards: Tensor, kind: Literal["std", "mean"]) -> Tensor:
    """Advantages of rewards (problems, group) within each group; all 0 where the rewards are equal."""
    equal = rewards.amax(dim=1, keepdim=True) == rewards.amin(dim=1, keepdim=True)  # rounding moves their mean
    centred = (rewards - rewards.mean(dim=1, keepdim=True)).masked_fill(equal, 0.0)
    return centred / (rewards.std(dim=1, keepdim=True) + EPS) if kind == "std" else centred


def factors(lengths: Tensor, average: Literal["tokens", "answers", "constant"], longest: int) -> tuple[Tensor, int]:
    """The weight of a token in each answer, and the divisor of the sum. `lengths` (B,) are tokens, at most `longest`.

    `tokens`: each token counts the same. `answers`: each answer counts the same, so a token of a long one counts less.
    `constant`: the sum of each answer is divided by `longest`.
    """
    ones = torch.ones(len(lengths))
    if average == "tokens":
        return ones, int(lengths.sum())
    return (1 / lengths, len(lengths)) if average == "answers" else (ones, len(lengths) * longest)


def log_probabilities(model: nn.Module, batch: Batch, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the targets, and the entropies there, (B, T) in nats; 0 where a target is ignored.

    Both are of the distribution that was sampled from, which is that of the model at temperature 1.
    """
    counts = batch.targets != IGNORED
    logs = torch.log_softmax(model(batch.inputs).float() / temperature, dim=-1)
    chosen = logs.gather(-1, batch.targets.clamp(min=0)[..., None])[..., 0]
    entropies = -(logs.exp() * logs).sum(dim=-1)
    return torch.where(counts, chosen, 0.0), torch.where(counts, entropies, 0.0)


@dataclass
class GrpoLoss:
    """The loss, summed over tokens. It adds up what it sees until `measures` is asked."""

    config: RolloutConfig
    _seen: list[Tensor] = field(default_factory=list, init=False)  # sums of each micro-batch, read together: SUMS

    def __call__(self, model: nn.Module, batch: Batch) -> Sums:
        """The loss of answers: the clipped ratio of new to old probability times the advantage, and the KL term.

        The KL term is `exp(d) - d - 1` with d = reference - new log-probability (Schulman 2020, k3). Its gradient is 0
        at the reference.
        """
        assert isinstance(batch, Answers)
        counts, advantage = batch.targets != IGNORED, batch.advantages[:, None]
        new, _ = log_probabilities(model, batch, self.config.temperature)
        ratio = (new - batch.old).exp()
        gain = ratio * advantage
        seen = {"tokens": counts.sum()}
        if self.config.clip:
            low, high = self.config.clip
            clipped = ratio.clamp(1 - low, 1 + high) * advantage
            seen["clipped"] = ((clipped < gain) & counts).sum()
            gain = torch.minimum(gain, clipped)
        loss = -gain
        if batch.reference is not None:
            d = batch.reference - new
            divergence = d.exp() - d - 1
            seen["kl"] = (divergence * counts).detach().sum()
            loss = loss + self.config.kl * divergence
        self._seen.append(torch.stack([seen.get(name, new.new_zeros(())).float() for name in SUMS]))
        return {"loss": (loss * batch.factors[:, None] * counts).sum()}

    def measures(self, ranks: Alone = ALONE) -> dict[str, float]:
        """The means over the tokens of all ranks since the last call: `clipped` and, with a KL term, `kl`."""
        names = SUMS if self.config.kl else SUMS[:-1]
        rows = torch.stack(self._seen).tolist() if self._seen else [[0.0] * len(SUMS)]
        mine = torch.tensor([sum(column) for column in zip(*rows, strict=True)][: len(names)], dtype=torch.double)
        tokens, *sums = ranks.total(mine).tolist()
        self._seen.clear()
        return {name: one / (tokens or 1.0) for name, one in zip(names[1:], sums, strict=True)}
