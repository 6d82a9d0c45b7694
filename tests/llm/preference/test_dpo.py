"""Pairs as batches, the loss of DPO, and a training by it: exact over micro-batches, and the same after a stop."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from llm.common.errors import UserError
from llm.data.batches import IGNORED, SequentialBatches, ShuffledBatches
from llm.data.prompts import make_frame
from llm.data.tokenizer import Tokenizer
from llm.model.gpt import GPT
from llm.preference.dataset import PreferenceDataset
from llm.preference.loss import MEASURES, Preference, log_probabilities, set_reference
from llm.train import resume
from llm.train.history import History
from llm.train.loop import evaluate, fit
from llm.train.task import Callback, Task, Training
from tests import tiny
from tests.tiny import FP32

MODEL = replace(tiny.MODEL, context_length=96)
LOSS = Preference(beta=0.5, average="sum", label_smoothing=0.0, anchor=0.0)
TRAIN = replace(tiny.TRAIN, epochs=3, batch_size=4, eval_every=2)


@pytest.fixture
def tokenizer(vocabulary) -> Tokenizer:
    return Tokenizer.load(vocabulary)


def pairs(number: int) -> list[dict[str, str]]:
    asks = ({"instruction": f"Say {n}", "input": ""} for n in range(number))
    return [
        ask | {"chosen": f"{n} quick fox", "rejected": f"{n} lazy dogs, 12 of them" * (1 + n % 2)}
        for n, ask in enumerate(asks)
    ]


@pytest.fixture
def dataset(tokenizer) -> PreferenceDataset:
    return encoded(tokenizer, pairs(10))


def encoded(tokenizer: Tokenizer, given: list[dict[str, str]], limit: int = 96) -> PreferenceDataset:
    return PreferenceDataset(given, tokenizer, limit, make_frame("none", tokenizer), "train.json")


def model() -> GPT:
    torch.manual_seed(3)
    return GPT(MODEL)


# Batches


def test_targets_are_the_answers_with_their_end(dataset, tokenizer):
    batch = dataset.batch([2, 5])
    assert batch.inputs.shape == batch.targets.shape == (2, 2, dataset.longest)
    texts = [[tokenizer.decode(row[row != IGNORED].tolist()) for row in pair] for pair in batch.targets]
    assert [[text.removesuffix("<|endoftext|>") for text in pair] for pair in texts] == [
        ["2 quick fox", "2 lazy dogs, 12 of them"],
        ["5 quick fox", "5 lazy dogs, 12 of them" * 2],
    ]
    assert all(text.endswith("<|endoftext|>") for pair in texts for text in pair)


def test_earlier_answers_of_a_chat_are_no_targets(tokenizer):
    turns = [("user", "Hi"), ("assistant", "Hello, lazy fox."), ("user", "Say 2")]
    chat = {"messages": [{"role": role, "content": text} for role, text in turns]}
    data = encoded(tokenizer, [chat | {"chosen": "2 quick", "rejected": "2 lazy dogs"}])
    (pair,) = data.batch([0]).targets
    texts = [tokenizer.decode(row[row != IGNORED].tolist()) for row in pair]
    assert texts == ["2 quick<|endoftext|>", "2 lazy dogs<|endoftext|>"]
    assert data.most_targets(1) == int((pair != IGNORED).sum())


def test_a_pair_stays_together_in_micro_batches(dataset):
    dataset.reference = torch.arange(20.0).view(10, 2)
    batch = dataset.batch([7, 1, 4])
    parts = list(batch.split(2))
    assert [part.count for part in parts] == [2, 1]
    assert torch.equal(torch.cat([part.inputs for part in parts]), batch.inputs)
    assert [part.reference.tolist() for part in parts] == [[[14, 15], [2, 3]], [[8, 9]]]
    assert batch.tokens == 3 * 2 * batch.inputs.shape[-1]


def test_every_pair_that_is_too_long_is_named(tokenizer):
    given = pairs(3)
    given[0]["rejected"] = "quick " * 40
    given[2]["instruction"] = "lazy " * 40
    with pytest.raises(UserError) as caught:
        encoded(tokenizer, given, 40)
    first, second = caught.value.problems
    assert first.where == "train.json: pair 1"
    assert first.what.startswith("question and rejected answer have ")
    assert first.what.endswith(" tokens, more than the context of 40")
    assert second.where == "train.json: pair 3"
    assert second.what.startswith("question and chosen answer have ")


# The loss


def test_log_probabilities_are_those_of_each_row_alone(dataset):
    gpt, batch = model().eval(), dataset.batch(range(4))
    summed, counts = log_probabilities(gpt, batch)
    for number in range(4):
        for kind in range(2):
            row, targets = batch.inputs[number, kind], batch.targets[number, kind]
            length = int((targets != IGNORED).nonzero()[-1]) + 1
            logits = gpt(row[None, :length])[0]
            loss = F.cross_entropy(logits, targets[:length], ignore_index=IGNORED, reduction="sum")
            assert summed[number, kind].item() == pytest.approx(-loss.item(), rel=1e-5)
            assert counts[number, kind] == (targets != IGNORED).sum()


@pytest.mark.parametrize("micro", [None, 1, 3])
def test_before_any_update_every_pair_ties(dataset, micro):
    """The reference comes from the same batches as the evaluation, so no rounding decides a tie."""
    gpt = model()
    set_reference(gpt, dataset, LOSS, FP32, 4, micro)
    means = evaluate(gpt, LOSS, SequentialBatches(dataset, 4, 2), FP32, micro)
    assert means == {"loss": pytest.approx(math.log(2)), **dict.fromkeys(MEASURES[1:], 0.0), "accuracy": 0.5}


@pytest.mark.parametrize("average", ["sum", "mean"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_the_papers(dataset, average, smoothing):
    loss = Preference(0.3, average, smoothing, 0.0)
    gpt, batch = model(), dataset.batch(range(4))
    summed, counts = log_probabilities(gpt, batch)
    scores = (summed / counts if average == "mean" else summed).detach()
    batch = replace(batch, reference=scores - torch.tensor([[3.0, 1.0], [-1.0, 2.0], [2.0, 5.0], [4.0, -2.0]]))
    wanted, hits = 0.0, 0
    for (chosen, rejected), (chosen_before, rejected_before) in zip(
        scores.tolist(), batch.reference.tolist(), strict=True
    ):
        margin = (chosen - chosen_before) - (rejected - rejected_before)
        p = 1 / (1 + math.exp(-0.3 * margin))
        wanted -= (1 - smoothing) * math.log(p) + smoothing * math.log(1 - p)
        hits += margin > 0
    found = loss(gpt, batch)
    assert found["loss"].item() == pytest.approx(wanted, rel=1e-4)
    assert found["accuracy"].item() == hits
    assert found["margin"].item() == pytest.approx((found["chosen_reward"] - found["rejected_reward"]).item(), rel=1e-4)


def test_the_anchor_adds_the_next_token_loss_of_the_chosen_answer(dataset):
    gpt, batch = model(), replace(dataset.batch(range(3)), reference=torch.zeros(3, 2))
    with_anchor, without = replace(LOSS, anchor=0.7)(gpt, batch), LOSS(gpt, batch)
    summed, counts = log_probabilities(gpt, batch)
    added = -0.7 * (summed[:, 0] / counts[:, 0]).sum()
    assert (with_anchor["loss"] - without["loss"]).item() == pytest.approx(added.item(), rel=1e-4)
    assert torch.equal(with_anchor["margin"], without["margin"])


# Training


class Stop(Callback):
    """Ends the run after the step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, training: Training) -> None:
        if training.history.step == self.step:
            raise KeyboardInterrupt


def train(
    dataset: PreferenceDataset,
    folder: Path | None = None,
    stop: int | None = None,
    val: PreferenceDataset | None = None,
    **changes: Any,
) -> tuple[History, dict[str, torch.Tensor]]:
    """Train from the same weights; return history and weights."""
    gpt, config = model(), replace(TRAIN, save_every=None if folder is None else 2, **changes)
    splits = {"train": dataset, "val": val or dataset}
    for part in splits.values():
        set_reference(gpt, part, LOSS, FP32, config.batch_size, config.micro_batch_size)
    data = ShuffledBatches(dataset, config.batch_size, 6, 1)
    evaluations = {name: SequentialBatches(part, config.batch_size, 2) for name, part in splits.items()}
    with resume.checkpoints(folder or Path(), config, [], config.save_every, lambda _: None) as saved:
        callbacks = [saved, *([Stop(stop)] if stop else [])]
        history = fit(Task(gpt, LOSS, data, evaluations), config, FP32, 1, callbacks)
    return history, gpt.state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_training_prefers_the_chosen_answers(dataset):
    history, _ = train(dataset)
    first, last = history.rows[0], history.last
    assert (first["val_accuracy"], first["val_margin"]) == (0.5, 0.0)
    assert last["val_accuracy"] == 1.0
    assert last["val_loss"] < first["val_loss"]
    assert last["val_margin"] == pytest.approx(last["val_chosen_reward"] - last["val_rejected_reward"], rel=1e-4)


def test_micro_batches_train_the_same(dataset):
    (whole, weights), (micro, others) = train(dataset), train(dataset, micro_batch_size=2)
    assert micro.last["val_loss"] == pytest.approx(whole.last["val_loss"], rel=1e-3)
    assert all(torch.allclose(weights[name], others[name], atol=1e-4) for name in weights)


@pytest.mark.parametrize("keep", ["last", "best"])
@pytest.mark.parametrize("stop", [1, 3, 4, 5])
def test_a_stopped_run_ends_with_the_same_bytes(dataset, tmp_path, keep, stop):
    history, weights = train(dataset, keep=keep)
    with pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path, stop, keep=keep)
    again, others = train(dataset, tmp_path, keep=keep)
    assert again.rows == history.rows
    assert same(weights, others)


def test_keep_best_ends_with_the_weights_of_the_lowest_loss(dataset, tokenizer):
    """Of a validation split that prefers the other answer, whose loss rises: those before the first update."""
    turned = [pair | {"chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in pairs(10)]
    history, weights = train(dataset, val=encoded(tokenizer, turned), keep="best")
    assert history.last["val_loss"] > history.best_val_loss == pytest.approx(math.log(2))
    assert same(weights, model().state_dict())
