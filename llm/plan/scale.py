"""A training on several GPUs, on paper: memory of a rank, bytes that it sends, time of a step, days and cost.

A rank is a GPU with its process. With ddp, each rank holds the whole model, and gradients are summed (an all-reduce in
a ring). With fsdp (FSDP2, blocks sharded one by one), each holds a share, gathers each block before its forward and its
backward pass, and gradients are summed onto the shares (a reduce-scatter). Nothing here is measured on GPUs; a test
measures the bytes of tensors and of messages on one and two ranks of a small model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from llm.book.ch04 import CONFIGS, model_config
from llm.model import memory
from llm.model.config import ModelConfig
from llm.model.parts import FAMILIES
from llm.plan.gpus import Gpu
from llm.plan.work import BOTH, forward
from llm.runtime.device import RuntimeConfig

Sharding = Literal["ddp", "fsdp"]
FP32 = memory.FP32
BF16 = RuntimeConfig(precision="bf16", device="cuda", threads=1, keep_pages=False, fused_loss=True)
LINK_EFFICIENCY = 0.7  # of the stated speed of a link that large messages reach
OVERHEAD = 2e9  # bytes of the CUDA context, NCCL's buffers and fragments
OVERLAP = 0.1  # share of the shorter of computing and sending that is not hidden behind the other
LATENCY = 20e-6  # seconds of a message between two ranks, times log2(ranks)
TOKENS_PER_PARAMETER = 20  # Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models"
MODELS = (*CONFIGS, "7B")


@dataclass(frozen=True)
class Assumptions:
    """What the plan assumes of the training and of the machines."""

    context: int  # tokens in a row
    batch: int  # rows in an update
    efficiency: float  # of a GPU's highest speed that one GPU reaches in the passes
    network: float  # bytes a second of a GPU to other machines, as stated
    price: float  # of an hour of a GPU
    tokens: float | None  # of the whole training; None: TOKENS_PER_PARAMETER for each parameter


@dataclass(frozen=True)
class RankBytes:
    """Bytes of one rank's tensors at the peak of a step."""

    weights: int
    gradients: int
    moments: int
    gathered: int  # fsdp: weights and gradients of what is whole at the moment
    activations: int

    @property
    def state(self) -> int:
        """What a rank holds all the time."""
        return self.weights + self.gradients + self.moments

    @property
    def total(self) -> int:
        return self.state + self.gathered + self.activations


@dataclass(frozen=True)
class Plan:
    """One model on so many ranks."""

    ranks: int
    rows: int  # computed at once by a rank; 0: it does not fit
    passes: int  # micro-batches in an update
    memory: RankBytes
    sent: float  # bytes a rank sends in an update
    computing: float  # seconds in an update
    sending: float
    tokens: float  # of the whole training
    batch_tokens: int  # of an update

    @property
    def fits(self) -> bool:
        """Whether a rank has the memory, and at least one row of the batch."""
        return self.rows > 0

    @property
    def step(self) -> float:
        """Seconds of an update."""
        return max(self.computing, self.sending) + OVERLAP * min(self.computing, self.sending)

    @property
    def busy(self) -> float:
        """The share of the step in which the GPU computes."""
        return self.computing / self.step

    @property
    def hours(self) -> float:
        """Hours of the whole training."""
        return self.tokens / self.batch_tokens * self.step / 3600


def model(name: str, context: int) -> ModelConfig:
    """A published shape: GPT-2's sizes with a tied head, or Llama 2 7B's."""
    given = {"context_length": context, "drop_rate": 0.0, "qkv_bias": True}
    shape = replace(model_config(CONFIGS.get(name, CONFIGS["124M"]) | given, tie_head=True), attention="sdpa")
    if name in CONFIGS:
        return shape
    parts = replace(FAMILIES["llama"], n_inner=11008)
    llama = replace(shape, family="llama", qkv_bias=False, tie_head=False, parts=parts)
    return replace(llama, vocab_size=32000, n_layer=32, n_head=32, n_embd=4096)


def rank_bytes(config: ModelConfig, sharding: Sharding, ranks: int, rows: int, length: int) -> RankBytes:
    """Tensors of one rank: fp32 weights, gradients and moments, and the activations of `rows` rows in bf16."""
    total, block = memory.parameters(config), memory.block_parameters(config)
    root = total - config.n_layer * block
    held = total if sharding == "ddp" else math.ceil(total / ranks)
    # two blocks, one of which is gathered ahead, the rest of the model, and the gradients of one block and the rest
    gathered = 0 if sharding == "ddp" or ranks == 1 else FP32 * (2 * block + root + block + root)
    return RankBytes(FP32 * held, FP32 * held, 2 * FP32 * held, gathered, activation_bytes(config, rows, length))


def activation_bytes(config: ModelConfig, rows: int, length: int) -> int:
    """What a backward pass needs of `rows` rows: the estimate of `memory.Training` over that of no rows."""
    of = memory.Training(config, BF16, rows, length, accumulates=True)
    return of.memory - replace(of, rows=0).memory


def sent_bytes(config: ModelConfig, sharding: Sharding, ranks: int, passes: int = 1) -> float:
    """Bytes that a rank sends in an update of so many micro-batches; fsdp gathers and sums again in each."""
    total = memory.parameters(config)
    blocks = config.n_layer * memory.block_parameters(config)
    share = (ranks - 1) / ranks
    if sharding == "ddp":
        return 2 * share * FP32 * total
    return passes * share * FP32 * (2 * blocks + (total - blocks) + total)


def plan(config: ModelConfig, sharding: Sharding, ranks: int, gpu: Gpu, given: Assumptions) -> Plan:
    """The plan with the most rows at once that fit, as a power of two times the smallest."""
    per_rank = math.ceil(given.batch / ranks)
    sizes = [2**power for power in range(per_rank.bit_length()) if 2**power <= per_rank]
    room = gpu.memory - OVERHEAD
    fitting = [n for n in sizes if rank_bytes(config, sharding, ranks, n, given.context).total <= room]
    rows = max(fitting, default=0) if ranks <= given.batch else 0
    passes = math.ceil(per_rank / max(rows, 1))
    link = gpu.link if ranks <= gpu.machine else min(gpu.link, given.network)
    sent = sent_bytes(config, sharding, ranks, passes)
    messages = (3 * (config.n_layer + 1) * passes if sharding == "fsdp" else 1) if ranks > 1 else 0
    sending = sent / (link * LINK_EFFICIENCY) + messages * LATENCY * math.log2(ranks)
    batch_tokens = given.batch * given.context
    operations = BOTH * forward(config, given.context) * passes * max(rows, 1) * given.context
    tokens = given.tokens or TOKENS_PER_PARAMETER * float(memory.parameters(config))
    return Plan(
        ranks,
        rows,
        passes,
        rank_bytes(config, sharding, ranks, max(rows, 1), given.context),
        sent,
        operations / (gpu.flops * given.efficiency),
        sending,
        tokens,
        batch_tokens,
    )
