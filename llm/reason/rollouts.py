"""Answers that the model being trained writes, with their rewards, as batches of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from llm.common.seeds import derive
from llm.data.batches import Batch, order, some_steps_per_epoch
from llm.data.instruction_dataset import next_tokens
from llm.data.instruction_lengths import Encoded
from llm.generate.decoding import Continuation, continuations
from llm.model.gpt import GPT
from llm.reason import grpo, problems
from llm.reason.config import RolloutConfig
from llm.reason.grpo import Answers
from llm.reason.responses import Asker, Response
from llm.runtime.device import RuntimeConfig, autocast


@dataclass(frozen=True)
class Rollout:
    """A set of answers, and what was measured of it: means over answers, tokens or groups."""

    batch: Answers
    measures: dict[str, float]


class Rollouts:
    """The answers of each step, a function of the weights, the seed and the step.

    `config.updates` steps use the same answers. The ranks of `asker` each ask a part of the problems. The problems come
    in a new order in every epoch. Answers of groups with equal rewards have no advantage, so they are left out where
    there is no KL term either.

    Raises UserError if there are fewer problems than one set needs.
    """

    def __init__(
        self,
        asker: Asker,
        some: Sequence[problems.Problem],
        config: RolloutConfig,
        steps: int,
        seed: int,
        runtime: RuntimeConfig,
        reference: GPT | None = None,
        micro_batch_size: int | None = None,
    ) -> None:
        self.runtime = runtime
        self.asker, self.problems, self.config, self.steps, self.seed = asker, some, config, steps, seed
        self.reference, self.micro_batch_size = reference, micro_batch_size
        some_steps_per_epoch(len(some), config.problems_at_once, "reason_rl.problems_at_once")
        self._now: tuple[int, Rollout] | None = None  # the set of answers in use, and its number

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Answers:
        number = step // self.config.updates
        if self._now is None or self._now[0] != number:
            self._now = number, self.sample(number)
        return self._now[1].batch

    @property
    def measures(self) -> dict[str, float]:
        """What was measured of the answers of the last step."""
        assert self._now is not None
        return self._now[1].measures

    def sample(self, number: int) -> Rollout:
        """Set `number` of answers, by the model as it is."""
        with self.asker.ranks.whole(self.asker.model):
            return self._sample(number)

    def _sample(self, number: int) -> Rollout:
        config, model = self.config, self.asker.model
        asked = [self.problems[i] for i in self._asked(number)]
        prompts = [self.asker.prompt(problem) for problem in asked]
        seeds = [derive(self.seed, "rollout", number, row) for row in range(len(asked) * config.group)]
        stops = self.asker.tokenizer.stops

        def answer(rows: slice) -> list[tuple[Continuation, Response]]:
            some = slice(rows.start // config.group, rows.stop // config.group)
            with autocast(self.runtime):  # as in training, so that the ratio of the first update is 1
                settings = (config.decoding, stops, seeds[rows])
                new = continuations(model, prompts[some], *settings, copies=config.group, logprobs=False)
            owners = [problem for problem in asked[some] for _ in range(config.group)]
            return [(one, self.asker.read(problem, one, "free")) for problem, one in zip(owners, new, strict=True)]

        answers = [one for part in self.asker.ranks.each(answer, self._parts(len(asked))) for one in part]
        new, found = [one for one, _ in answers], [response for _, response in answers]
        rewards = torch.tensor([self.reward(one) for one in found]).view(-1, config.group)
        lengths = torch.tensor([float(one.tokens) for one in found])
        weights, total = grpo.factors(lengths, config.average, config.max_new_tokens)
        rows = token_rows([prompt for prompt in prompts for _ in range(config.group)], new)
        old, entropies = self._log_probabilities(model, rows)
        batch = Answers(
            rows.inputs,
            rows.targets,
            advantages=grpo.advantages(rewards, config.advantage).flatten(),
            factors=weights,
            old=old,
            reference=None if self.reference is None else self._log_probabilities(self.reference, rows)[0],
            total=total,
        )
        entropy = (entropies.sum() / lengths.sum()).item()
        return Rollout(self._with_gradient(batch), measured(rewards, found, self.most, entropy))

    @property
    def most(self) -> float:
        return 1.0 + self.config.format_reward

    def reward(self, response: Response) -> float:
        """1 for a right answer, and `format_reward` for any that the verifier can read."""
        return response.right + self.config.format_reward * (response.answer is not None)

    def _asked(self, number: int) -> list[int]:
        """The numbers of the problems of a set."""
        at_once = self.config.problems_at_once
        epoch, position = divmod(number, len(self.problems) // at_once)
        return order(len(self.problems), self.seed, epoch)[position * at_once :][:at_once].tolist()

    def _parts(self, n: int) -> list[slice]:
        """The rows of the answers to `n` problems, cut into a part for each rank; a group stays together."""
        ranks, group = self.asker.ranks.size, self.config.group
        ends = [n * number // ranks * group for number in range(ranks + 1)]
        return [slice(start, end) for start, end in pairwise(ends) if start < end]

    @torch.no_grad()
    def _log_probabilities(self, model: nn.Module, rows: Batch) -> tuple[Tensor, Tensor]:
        was_training, device = model.training, next(model.parameters()).device
        model.eval()

        def compute(some: slice) -> list[tuple[Tensor, Tensor]]:
            parts = rows.rows(some).split(self.micro_batch_size)
            found = [grpo.log_probabilities(model, part.to(device), self.config.temperature) for part in parts]
            return [(logs.cpu(), entropies.cpu()) for logs, entropies in found]

        with autocast(self.runtime):
            parts = self.asker.ranks.each(compute, self._parts(len(rows.inputs) // self.config.group))
        model.train(was_training)
        logs, entropies = (torch.cat([one[i] for part in parts for one in part]) for i in range(2))
        return logs, entropies

    def _with_gradient(self, batch: Answers) -> Answers:
        """The rows that change the gradient; at least one, so that there is a batch."""
        kept = batch.advantages != 0
        if self.reference is not None or kept.all():
            return batch
        kept[0] |= not kept.any()
        return batch.rows(kept)


def token_rows(prompts: Sequence[Sequence[int]], answers: Sequence[Continuation]) -> Batch:
    """Prompts with their answers as inputs and targets (B, T), padded on the right; prompts are no targets."""
    rows = [
        Encoded([*prompt, *answer.tokens], [False] * len(prompt) + [True] * len(answer.tokens))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return Batch(*next_tokens(rows, pad=0))


def measured(rewards: Tensor, found: Sequence[Response], most: float, entropy: float) -> dict[str, float]:
    """What a set of answers tells: mean reward, groups with equal rewards, tokens of an answer, share that ended."""
    lowest, highest = rewards.amin(dim=1), rewards.amax(dim=1)
    return {
        "reward": rewards.mean().item(),
        "right": sum(one.right for one in found) / len(found),
        "dead": (lowest == highest).float().mean().item(),
        "all_right": (lowest == most).float().mean().item(),
        "all_wrong": (highest < most).float().mean().item(),  # every right answer has the highest reward
        "length": sum(one.tokens for one in found) / len(found),
        "ended": sum(one.ended for one in found) / len(found),
        "entropy": entropy,
    }
