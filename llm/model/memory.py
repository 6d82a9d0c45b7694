"""Before a heavy stage starts: will it fit into memory, and on the disk? Estimates from the parameters alone.

A false refusal is worse than none. The estimates are within 0.6 to 1.15 times the measured peaks (tested), so a peak is
at least 0.87 of its estimate; a stage is refused only where even 0.7 of it exceeds what is available. Between that and
the whole estimate there is a warning. What this system does not tell is not checked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from llm.model.config import ModelConfig
from llm.model.lora import LoraConfig
from llm.runtime.device import RuntimeConfig
from llm.runtime.machine import check_disk, check_memory

FP32 = 4  # bytes
STARTED = 90 << 20  # what torch loads and allocates with its first training step
STATES = 3  # of a training on disk: two kept, one being written


@dataclass(frozen=True)
class Training:
    """What of a training takes memory; `length` is that of the longest row."""

    model: ModelConfig
    runtime: RuntimeConfig
    rows: int  # computed at once
    length: int  # tokens in a row
    accumulates: bool = False  # gradients of one micro-batch are there while the next one is computed
    trained_blocks: int | None = None  # at the upper end; None: all of the model trains
    lora: LoraConfig | None = None
    classes: int | None = None  # of a classifier's head; None: the head is over the vocabulary
    keeps_best: bool = False  # the trainable weights of the best evaluation, beside those of the last
    targets: int | None = None  # that count among those computed at once, at most; None: all

    @property
    def parameters(self) -> int:
        """All of them, without LoRA's."""
        if self.classes is None:
            return parameters(self.model)
        return parameters(replace(self.model, tie_head=True)) + (self.model.n_embd + 1) * self.classes

    @property
    def trainable(self) -> int:
        """Those that have gradients and moments."""
        C, V = self.model.n_embd, self.model.vocab_size
        if self.lora:  # A is (in, rank) for each of c_attn's three parts, B (rank, out)
            return self.lora.rank * (self.model.n_layer * 18 * C + C + (self.classes or V))
        if self.trained_blocks is None:
            return self.parameters
        return self.trained_blocks * block_parameters(self.model) + 2 * C + (C + 1) * (self.classes or V)

    @property
    def state_bytes(self) -> int:
        """A saved state but the last: trainable weights, two moments each, and the best weights where they are kept."""
        return (3 + self.keeps_best) * FP32 * self.trainable

    @property
    def memory(self) -> int:
        """Bytes at the peak, beyond those of the process that has loaded torch and no model yet."""
        held = FP32 * (self.parameters + (2 + self.keeps_best) * self.trainable)  # weights and AdamW's moments
        gradients = FP32 * self.trainable
        loss = _logits(self) + _of_head(self)
        step = _activations(self) + max(loss + gradients * self.accumulates, gradients)
        evaluation = _logits(self) + _passing(self)
        return STARTED + held + _copies(self) + max(step, evaluation)


def parameters(config: ModelConfig) -> int:
    """Parameters of a GPT of this shape, a tied head counted once."""
    C, V = config.n_embd, config.vocab_size
    heads = 1 if config.tie_head else 2
    return heads * V * C + config.context_length * C + config.n_layer * block_parameters(config) + 2 * C


def block_parameters(config: ModelConfig) -> int:
    """Parameters of one block."""
    C = config.n_embd
    return 12 * C * C + 10 * C + 3 * C * config.qkv_bias


def _fused(training: Training) -> bool:
    return training.runtime.fused_loss and training.classes is None and training.lora is None


def _logits(training: Training) -> int:
    """Logits of targets that count; without `fused_loss` of all, with log-probabilities and both gradients, in fp32."""
    tokens = training.rows * (training.length if training.classes is None else 1)
    if _fused(training):
        counting = tokens if training.targets is None else training.targets
        return (2 if _half(training) else FP32) * counting * training.model.vocab_size
    return 4 * FP32 * tokens * (training.classes or training.model.vocab_size)


def _of_head(training: Training) -> int:
    """With `fused_loss` the gradient of the head's weights is there, as computed and in fp32, while the logits are."""
    weights = training.model.vocab_size * training.model.n_embd if _fused(training) else 0
    return weights * (FP32 + 2 * _half(training))


def _half(training: Training) -> bool:
    """Whether matrix products are in bf16."""
    return training.runtime.precision == "bf16"


def _copies(training: Training) -> int:
    """The matrices that train in bf16, where that is the precision."""
    config = training.model
    blocks = config.n_layer if training.trained_blocks is None else training.trained_blocks
    head = config.n_embd * config.vocab_size if training.classes is None else 0
    return 2 * (blocks * 12 * config.n_embd**2 + head) * _half(training)


def _activations(training: Training) -> int:
    """What the blocks that train keep for the way back."""
    config, half = training.model, _half(training)
    B, T, C, H = training.rows, training.length, config.n_embd, config.n_head
    blocks = config.n_layer if training.trained_blocks is None else training.trained_blocks
    # by token: inputs of both norms in fp32; their outputs, q, k, v, y, and the MLP's 4 C twice as computed
    size = 2 if half else FP32
    block = B * T * C * (2 * FP32 + 14 * size)
    if config.dropout > 0:
        block += B * T * C * 2 * size
    if config.attention == "eager" or config.attention_rate > 0:  # SDPA with dropout is written out too
        block += B * T * C * 3 * size  # q, k, v once more, in the order of the product
        block += B * H * T * T * ((FP32 + 2 if half else 2 * FP32) + (2 * FP32 if config.attention_rate > 0 else 0))
    return blocks * block + 2 * FP32 * B * T * C


def _passing(training: Training) -> int:
    """What a block needs while it computes, whether or not it trains."""
    config = training.model
    B, T, C, H = training.rows, training.length, config.n_embd, config.n_head
    scores = 3 * B * H * T * T if config.attention == "eager" else 0
    return FP32 * (B * T * C * 10 + scores)


def decoding(config: ModelConfig, runtime: RuntimeConfig, rows: int, prompt: int, new: int) -> int:
    """Bytes to answer `rows` prompts of at most so many tokens at once: weights, the cache, and the first pass."""
    C, slots = config.n_embd, prompt + new
    half = runtime.precision == "bf16"
    weights = parameters(config) * (FP32 + 2 * half)
    width = 2 if half else FP32
    cache = (FP32 + width) * config.n_layer * rows * slots * C
    first = width * rows * (prompt * C * 10 + 2 * config.vocab_size)
    if config.attention == "eager":
        first += FP32 * 3 * rows * config.n_head * prompt * prompt
    return weights + cache + first


def check_training(
    section: str, training: Training, work: Path, steps: int, save_every: int | None, besides: int = 0
) -> None:
    """Refuse a training that does not fit into memory, or whose outputs and states the disk of `work` cannot hold.

    `besides` bytes are written there too. States of a run that was stopped lie there already, and count.
    """
    fix = "lower it, or the length of the rows, or take a smaller model"
    where = f"params.yaml: {section}.micro_batch_size"
    check_memory(where, "training", training.memory, training.runtime.device, fix)
    states = 0 if save_every is None else min(STATES, -(-steps // save_every)) * training.state_bytes
    there = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    check_disk(work, max(0, FP32 * training.parameters + besides + states - there))
