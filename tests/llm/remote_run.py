"""Train and decode on the device of tests/remote_device.py, and print as JSON how often the host waited for it."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import Tensor, nn

from llm.common.errors import UserError
from llm.data.batches import Batch, ShuffledBatches
from llm.generate.config import DecodingConfig, greedy
from llm.generate.decoding import generate
from llm.model.classifier import Classifier
from llm.model.gpt import GPT
from llm.reason.grpo import Answers, GrpoLoss
from llm.serve.engine import Engine, Request
from llm.serve.text import TextStream
from llm.train import losses, resume
from llm.train.callbacks import Measures
from llm.train.config import TrainConfig
from llm.train.loop import evaluation_batches, fit
from llm.train.task import Callback, Sums, Task, Training
from tests import tiny
from tests.llm.reason import ranked as with_rewards
from tests.llm.train.test_loop import Sentences
from tests.remote_device import Remote

DEVICE = torch.device("cuda", 0)
STEPS = 12
SETTINGS = replace(tiny.TRAIN, eval_every=1000)
SAMPLED = DecodingConfig(10, 1.3, top_k=40, top_p=0.9)
PROMPTS = [[7, 8, 9], [1], [200, 3, 4, 5, 6, 7, 8, 9], [42, 42], [7, 8, 9]]


class Messages(Sentences):
    """The same rows with a class each."""

    def batch(self, indices: Sequence[int]) -> Batch:
        rows = list(indices)
        return Batch(self.ids[rows], self.ids[rows, 0] % 2, torch.full((len(rows),), self.ids.shape[1]))


def moved(model: GPT, device: Any) -> GPT:
    """The model on the device, with its head still tied."""
    model.to(device)
    model.lm_head.weight = model.transformer.wte.weight
    return model


def tiny_model(device: Any) -> GPT:
    torch.manual_seed(0)
    return moved(GPT(replace(tiny.MODEL, context_length=32, n_embd=16)), device)


def train(
    device: Any,
    log_every: int,
    config: TrainConfig = SETTINGS,
    spoil: Callable[[int, Tensor], Tensor] | None = None,
    callbacks: Sequence[Callback] = (),
) -> tuple[GPT, float]:
    """The trained model and its loss; `spoil` may change the loss of an update."""
    model, data, numbers = tiny_model(device), Sentences(), iter(range(1000))

    def loss(model: nn.Module, batch: Batch) -> Sums:
        sums = losses.next_token_of(True)(model, batch)
        return {"loss": spoil(next(numbers), sums["loss"])} if spoil and model.training else sums

    source = ShuffledBatches(data, config.batch_size, STEPS, 1)
    task = Task(model, loss, source, evaluation_batches(data, data, config))
    history = fit(task, config, replace(tiny.FP32, log_every=log_every), 1, callbacks)
    return model, history.last["val_loss"]


def classify(log_every: int) -> None:
    """Train a classifier on the device, with two evaluations of two splits."""
    model, data = Classifier(tiny_model(DEVICE), 2, "last_token").to(DEVICE), Messages()
    source = ShuffledBatches(data, SETTINGS.batch_size, STEPS, 1)
    task = Task(model, losses.classification, source, evaluation_batches(data, data, SETTINGS))
    fit(task, SETTINGS, replace(tiny.FP32, log_every=log_every), 1)


def reward() -> None:
    """Three micro-batches of an update with rewards on the device, and what was measured of them."""
    model, ids = tiny_model(DEVICE), Sentences().ids[:4]
    places = torch.ones(ids.shape[0], ids.shape[1] - 1)
    batch = Answers(
        ids[:, :-1],
        ids[:, 1:],
        advantages=torch.tensor([1.0, -1.0, 0.5, -0.5]),
        factors=torch.ones(len(ids)),
        old=-5 * places,
        reference=-6 * places,
        total=int(places.sum()),
    ).to(DEVICE)
    loss = GrpoLoss(replace(tiny.REWARDS, updates=2, kl=0.1))
    for _ in range(3):
        loss(model, batch)["loss"].backward()
    measured = loss.measures()
    assert measured["kl"] > 0


class Numbers(Callback):
    """Keeps the mean gradient norm of each row of the curve, and whether a speed was known then."""

    def __init__(self) -> None:
        self.found: list[tuple[float, bool]] = []

    def on_evaluation(self, training: Training) -> None:
        self.found.append((training.history.last.get("norm", 0.0), training.tokens_per_second > 0))


def numbers(log_every: int, *callbacks: Callback) -> list[tuple[float, bool]]:
    with Remote():
        train(DEVICE, log_every, replace(SETTINGS, eval_every=4), callbacks=[*callbacks, seen := Numbers()])
    return seen.found


def searches(name: str) -> dict[str, int]:
    """The operations of a training of tests/llm/reason/ranked.py that look for what counts on the device, and wait."""
    with Remote() as remote:
        with_rewards.train(name, replace(tiny.FP32, device="cuda", log_every=100))
    return {operation: count for operation, count in remote.waits.items() if operation != "_to_copy"}


def waits(work: Callable[[], Any]) -> int:
    with Remote() as remote:
        work()
    return sum(remote.waits.values())


def spoiled_at(step: int) -> Callable[[int, Tensor], Tensor]:
    return lambda number, loss: loss * math.nan if number == step else loss


class Watch(Callback):
    """Keeps the weights after each update, and the model."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def on_step(self, training: Training) -> None:
        self.weights.append(training.task.model.lm_head.weight.detach().cpu().clone())


def divergence(log_every: int, save_every: int, kind: str = "cuda") -> dict[str, Any]:
    """A run whose loss is NaN at its sixth update: what is said, saved and left in the weights."""
    watch = Watch()
    with Remote(kind), tempfile.TemporaryDirectory() as folder:
        saved = resume.TrainingCheckpoints(Path(folder), save_every, lambda _: None)
        said = ""
        try:
            train(kind, log_every, spoil=spoiled_at(5), callbacks=[watch, saved])
        except UserError as error:
            said = error.what
        files = sorted(path.name for path in Path(folder).iterdir())
    same = [bool(torch.equal(watch.weights[4], other)) for other in watch.weights]
    return {"said": said, "saved": files, "updates": len(watch.weights), "as_before": same}


def answers(model: GPT, config: DecodingConfig) -> list[list[int]]:
    return generate(model, PROMPTS, config, (), limits=[10] * len(PROMPTS))


def served(model: GPT, configs: Sequence[DecodingConfig]) -> list[list[int]]:
    decoder = Engine(model, frozenset(), rows=8)
    requests = [Request(p, c, 3, TextStream(str)) for p, c in zip(PROMPTS, configs, strict=True)]
    decoder.waiting.extend(requests)
    while decoder.busy:
        decoder.step()
    return [request.tokens for request in requests]


def main() -> None:
    torch.set_num_threads(1)
    micro = replace(SETTINGS, micro_batch_size=2, clip_norm=None)
    found: dict[str, Any] = {
        f"train {name} {every}": waits(lambda every=every, config=config: train(DEVICE, every, config))
        for name, config in (("whole", SETTINGS), ("micro", micro))
        for every in (1, 4, 100)
    }
    found["train classifier 4"] = waits(lambda: classify(4))
    found["rewards"] = waits(reward)
    found["searches"] = {name: searches(name) for name in ("grpo", "dpo", "soft targets")}
    found["norms"] = [
        numbers(every, Measures(lambda t: {"norm": t.gradient_norm}, lambda: {"norm": 0.0})) for every in (1, 3)
    ]
    found["speeds"] = [known for _, known in numbers(100)]
    with Remote():
        on_device = train(DEVICE, 5)[1]
    found["loss"] = [on_device, train("cpu", 5)[1]]
    found["diverged"] = {f"{log} {save}": divergence(log, save) for log, save in ((100, 100), (100, 8), (3, 100))}
    found["diverged on mps"] = divergence(100, 100, "mps")
    likeliest = greedy(10)
    kinds = [likeliest, SAMPLED, replace(SAMPLED, top_p=None), likeliest, replace(SAMPLED, top_k=None)]
    for name, work in (
        ("greedy", lambda model: answers(model, likeliest)),
        ("sampled", lambda model: answers(model, SAMPLED)),
        ("served", lambda model: served(model, kinds)),
    ):
        with Remote() as remote:
            there = work(tiny_model(DEVICE).eval())
        found[name] = {"waits": sum(remote.waits.values()), "same": there == work(tiny_model("cpu").eval())}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
