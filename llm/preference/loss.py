"""Direct preference optimisation (Rafailov et al. 2023), as in the book's bonus to chapter 7."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.data.batches import IGNORED, Batch, SequentialBatches
from llm.model import packed_weights
from llm.model.gpt import GPT
from llm.preference.dataset import PairBatch, PreferenceDataset
from llm.runtime.device import RuntimeConfig, autocast
from llm.train.ranks import ALONE, Alone
from llm.train.task import Sums

Average = Literal["mean", "sum"]
MEASURES = ("loss", "margin", "accuracy", "chosen_reward", "rejected_reward")


def log_probabilities(model: nn.Module, batch: PairBatch) -> tuple[Tensor, Tensor]:
    """Return the summed log-probability of the tokens of each answer (P, 2), in nats, and their number.

    Logits are computed for the tokens of the answers only.
    """
    assert isinstance(model, GPT)
    counts, at = batch.targets != IGNORED, batch.counted  # not found on a GPU, which would wait for it
    hidden, targets = model.transformer(batch.inputs.flatten(0, 1)).flatten(0, 1), batch.targets.flatten()
    if at is not None:
        hidden, targets = hidden[at], targets[at]
    of_tokens = -F.cross_entropy(model.lm_head(hidden).float(), targets, reduction="none")
    if at is not None:
        of_tokens = of_tokens.new_zeros(counts.numel()).index_put((at,), of_tokens)
    return of_tokens.view(counts.shape).sum(dim=-1), counts.sum(dim=-1)


@dataclass(frozen=True)
class Preference:
    """The loss of DPO. Called with a model and a PairBatch, it returns sums over pairs (MEASURES).

    The reward of an answer is the log-probability that it gained over the reference, in nats. The margin of a pair is
    the reward of the chosen answer minus that of the rejected one. As in the book, neither is multiplied by `beta`.
    The loss of a pair is -log sigmoid(beta * margin). A pair is correct if its margin is above 0, and half if it is 0.
    A pair without targets counts nothing.
    """

    beta: float
    average: Average  # of the log-probabilities of the tokens of an answer
    label_smoothing: float  # share of the pairs taken to be labelled the wrong way round (Mitchell 2023)
    anchor: float  # weight of the next-token loss of the chosen answer (Pang et al. 2024)

    def __call__(self, model: nn.Module, batch: Batch) -> Sums:
        assert isinstance(batch, PairBatch)
        assert batch.reference is not None
        summed, counts = log_probabilities(model, batch)
        rewards = self.averaged(summed, counts) - batch.reference
        margin = rewards[:, 0] - rewards[:, 1]
        right, wrong = -F.logsigmoid(self.beta * margin), -F.logsigmoid(-self.beta * margin)
        loss = (1 - self.label_smoothing) * right + self.label_smoothing * wrong
        if self.anchor:
            loss = loss - self.anchor * summed[:, 0] / counts[:, 0].clamp(min=1)
        accuracy = (margin > 0) + (margin == 0) / 2
        of_pairs = dict(zip(MEASURES, (loss, margin, accuracy, *rewards.unbind(dim=1)), strict=True))
        told = counts.all(dim=1)  # every answer has targets
        return {name: (values * told).sum() for name, values in of_pairs.items()}

    def averaged(self, summed: Tensor, counts: Tensor) -> Tensor:
        """Return the log-probabilities of answers from the sums over their tokens."""
        return summed / counts.clamp(min=1) if self.average == "mean" else summed


@torch.no_grad()
def set_reference(
    model: nn.Module,
    data: PreferenceDataset,
    loss: Preference,
    runtime: RuntimeConfig,
    batch_size: int,
    micro_batch_size: int | None,
    ranks: Alone = ALONE,
) -> None:
    """Compute the log-probabilities of all answers with the model as it is: the reference, needed only once.

    The micro-batches are those of the evaluations, so that before the first update all margins are exactly 0.
    """
    device = next(model.parameters()).device
    model.eval()
    if ranks.size == 1:
        model = packed_weights.packed_copy(model, runtime, packed_weights.EVALUATION_ROWS)
    batches = SequentialBatches(data, batch_size)

    def compute(index: int) -> list[Tensor]:
        found = []
        for micro in ranks.split(batches[index], micro_batch_size):
            assert isinstance(micro, PairBatch)
            found.append(loss.averaged(*log_probabilities(model, micro.to(device))).cpu())
        return found

    with autocast(runtime):
        data.reference = torch.cat([part for parts in ranks.each(compute, range(len(batches))) for part in parts])
