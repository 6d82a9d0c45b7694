"""How fast this machine computes: some training steps on random tokens."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch

from llm.data.batches import Batch
from llm.model.gpt import GPT
from llm.model.memory import Training
from llm.plan import work
from llm.runtime.device import autocast, set_up_device
from llm.train import losses
from llm.train.config import TrainConfig
from llm.train.optim import AdamW, trainable_parameters

SECONDS = 1.0  # of timed steps
LAYERS = 2  # more have the same speed
MOST = 2e11  # operations in a step: a second or two on two cores


def speed(training: Training, config: TrainConfig) -> float:
    """Operations a second of whole updates (forward, backward, AdamW) of such a training, counted as in `work`.

    The model has at most LAYERS blocks, and fewer rows if a step would take long. It takes some three seconds.
    """
    device = set_up_device(training.runtime)
    shape = replace(training.model, n_layer=min(LAYERS, training.model.n_layer))
    per_row = work.BOTH * work.forward(shape, training.length) * training.length
    rows = max(1, min(training.rows, int(MOST / per_row)))
    model = GPT(shape).to(device)
    optimizer = AdamW(model, config)
    ids = torch.randint(shape.vocab_size, (rows, training.length + 1))
    batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous()).to(device)
    loss = losses.next_token_of(training.runtime.fused_loss)
    best, spent = math.inf, 0.0
    for number in range(1000):
        started = time.perf_counter()
        with autocast(training.runtime):
            mean = loss(model, batch)["loss"] / batch.count
        mean.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trainable_parameters(model).values(), 1.0)
        optimizer.step(0.0)
        optimizer.zero_grad()
        mean.item()  # waits for the device
        took = time.perf_counter() - started
        spent += took
        if number:  # the first step also allocates
            best = min(best, took)
        if spent > SECONDS and number:
            break
    return rows * per_row / best
