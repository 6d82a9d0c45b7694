"""Estimates of the memory and disk space a stage needs, from the parameters alone, checked before it starts.

Estimates are 0.6 to 1.15 times the measured peaks (tested). A stage is refused only if 0.7 of its estimate exceeds the
free memory, because a wrong refusal is worse than none. If only the whole estimate exceeds it, there is a warning.
Memory the system does not report is not checked.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from torch import nn

from llm.common.ranks import is_first
from llm.model.config import ModelConfig
from llm.model.gpt import GPT, Block, count_parameters
from llm.model.lora import fused_sizes
from llm.model.meta import on_meta_device
from llm.model.trainable import LoraConfig
from llm.runtime.device import RuntimeConfig
from llm.runtime.machine import check_disk, check_memory

FP32 = 4  # bytes
FIRST_STEP = 90 << 20  # bytes that torch allocates in the first training step
STATES = 3  # training states on disk at once: two kept, one being written


@dataclass(frozen=True)
class Training:
    """What decides about the memory of a training."""

    model: ModelConfig
    runtime: RuntimeConfig
    rows: int  # computed at once
    length: int  # tokens of the longest row
    accumulates: bool = False  # gradients are kept from one micro-batch to the next
    trained_blocks: int | None = None  # the last ones; None: the whole model trains
    lora: LoraConfig | None = None
    classes: int | None = None  # outputs of a classifier; None: a language model
    keeps_best: bool = False  # the weights of the best evaluation are kept too
    targets: int | None = None  # at most so many targets count in the loss at once; None: all

    @property
    def parameters(self) -> int:
        """All parameters but LoRA's."""
        if self.classes is None:
            return parameters(self.model)
        return parameters(replace(self.model, tie_head=True)) + self._head

    @property
    def _head(self) -> int:
        """Parameters of the head; that of a language model may be tied."""
        C, bias = self.model.n_embd, self.model.parts.bias
        return C * self.model.vocab_size if self.classes is None else (C + bias) * self.classes

    @property
    def trainable(self) -> int:
        """Parameters with gradients and moments."""
        if self.lora:  # of every linear layer, also the head
            head = self.model.n_embd + (self.classes or self.model.vocab_size)
            return self.lora.rank * (self.model.n_layer * lora_width(self.model) + head)
        if self.trained_blocks is None:
            return self.parameters
        norm = count_parameters(one_layer(self.model).transformer.ln_f)
        return self.trained_blocks * block_parameters(self.model) + norm + self._head

    @property
    def state_bytes(self) -> int:
        """Bytes of a training state on disk: trainable weights, two moments each, and the best weights if kept."""
        return (3 + self.keeps_best) * FP32 * self.trainable

    def _sharded_weights(self) -> int:
        """Weights and moments of a rank with fsdp: its part, and what is whole for a moment."""
        whole, block = FP32 * self.parameters, FP32 * block_parameters(self.model)
        part = (whole + 2 * FP32 * self.trainable) // self.runtime.ranks
        rest = whole - self.model.n_layer * block
        gathered = 2 * block + rest + block + rest  # one block ahead; the gradients of one block and of the rest
        if self.runtime.device == "cpu":  # the model of the task, and the best weights
            gathered += whole + FP32 * self.trainable * self.keeps_best
        return part + gathered

    @property
    def memory(self) -> int:
        """Peak bytes of a rank, on top of those of a process that has loaded torch but no model."""
        config, B, T = self.model, self.rows, self.length
        C, H, V = config.n_embd, config.n_head, config.vocab_size
        eager, half = config.attention == "eager", self.runtime.precision == "bf16"
        size = 2 if half else FP32  # bytes of a number in matrix products
        blocks = config.n_layer if self.trained_blocks is None else self.trained_blocks
        gradients = FP32 * self.trainable

        weights = FP32 * (self.parameters + (2 + self.keeps_best) * self.trainable)  # with AdamW's moments
        if self.runtime.ranks > 1 and self.runtime.sharding == "fsdp":
            weights, gradients = self._sharded_weights(), gradients // self.runtime.ranks
        copies = blocks * matrix_parameters(config) + (C * V if self.classes is None else 0)
        weights += 2 * half * copies  # in bf16

        # For backward, a block keeps the inputs of both norms in fp32; their outputs, q, k, v, y, and those of the MLP.
        queries, keys = H * config.head_dim, config.kv_heads * config.head_dim
        inner = config.n_inner * (2 if config.parts.mlp == "gelu" else 4)
        block = B * T * (C * 2 * FP32 + (2 * C + 2 * queries + 2 * keys + inner) * size)
        if config.parts.rope:  # q and k before the rotation too: they share the memory of v
            block += B * T * (queries + keys) * size
        if config.parts.qk_norm:  # q and k as inputs of their norms
            block += B * T * (queries + keys) * FP32
        if config.dropout > 0:
            block += B * T * C * 2 * size
        if eager or config.attention_rate > 0:  # fused attention with dropout is also computed step by step
            block += B * T * queries * 3 * size  # q, k, v once more, in the memory layout of the product
            block += B * H * T * T * ((FP32 + 2 if half else 2 * FP32) + 2 * FP32 * (config.attention_rate > 0))
        kept = blocks * block
        if self.runtime.checkpoint_activations and self.trained_blocks is None:  # the inputs of blocks, and one block
            kept = blocks * FP32 * B * T * C + block
        activations = kept + 2 * FP32 * B * T * C

        if self.runtime.fused_loss and self.classes is None and self.lora is None:
            logits = size * (B * T if self.targets is None else self.targets) * V
            head = V * C * (FP32 + 2 * half)  # the gradient of its weights, as computed and in fp32
        else:  # logits, log-probabilities and the gradients of both, in fp32
            logits, head = 4 * FP32 * (B * T * V if self.classes is None else B * self.classes), 0

        step = activations + max(logits + head + gradients * self.accumulates, gradients)
        evaluation = logits + FP32 * (B * T * 2 * (C + config.n_inner) + 3 * B * H * T * T * eager)
        return FIRST_STEP + weights + max(step, evaluation)


@lru_cache(maxsize=8)
def one_layer(config: ModelConfig) -> GPT:
    """A model with one block, without data, to count on."""
    with on_meta_device():
        return GPT(replace(config, n_layer=1))


def _block(config: ModelConfig) -> Block:
    return one_layer(config).transformer.h[0]  # type: ignore[return-value]


def parameters(config: ModelConfig) -> int:
    """Parameters of a GPT; a tied head counts once."""
    return count_parameters(one_layer(config)) + (config.n_layer - 1) * block_parameters(config)


def block_parameters(config: ModelConfig) -> int:
    """Parameters of one block."""
    return count_parameters(_block(config))


def matrix_parameters(config: ModelConfig) -> int:
    """Parameters in the matrices of one block."""
    return sum(layer.weight.numel() for layer in _block(config).modules() if isinstance(layer, nn.Linear))


def lora_width(config: ModelConfig) -> int:
    """Parameters of LoRA with rank 1 in one block: A (in, rank) for each layer in a matrix, and B (rank, out)."""
    return sum(
        len(fused_sizes(parent, name, layer)) * layer.in_features + layer.out_features
        for parent in _block(config).modules()
        for name, layer in parent.named_children()
        if isinstance(layer, nn.Linear)
    )


def decoding(config: ModelConfig, runtime: RuntimeConfig, rows: int, prompt: int, new: int) -> int:
    """Bytes to continue `rows` prompts of up to `prompt` tokens by `new` tokens: weights, cache, and first pass."""
    half = runtime.precision == "bf16"
    size = 2 if half else FP32
    weights = FP32 * parameters(config)  # in bf16 too: they are read in fp32 and converted one after the other
    if config.tie_head and not half and runtime.device == "cpu":
        weights += FP32 * config.n_embd * config.vocab_size  # the head, packed: the embedding keeps its own
    cache = (FP32 + size) * config.n_layer * rows * (prompt + new) * config.kv_heads * config.head_dim
    first = size * rows * (prompt * 2 * (config.n_embd + config.n_inner) + 2 * config.vocab_size)
    if config.attention == "eager":
        first += FP32 * 3 * rows * config.n_head * prompt * prompt
    return weights + cache + first


def first_pass(config: ModelConfig, tokens: int, by_steps: bool) -> int:
    """Bytes to compute a prompt of so many tokens, beside the cache; `by_steps`: without fused attention."""
    heads = 2 * (config.n_head + 2 * config.kv_heads) * config.head_dim
    inner = (2 if config.parts.mlp == "gelu" else 3) * config.n_inner
    scores = 3 * config.n_head * tokens * by_steps
    return FP32 * tokens * (3 * config.n_embd + heads + inner + scores)


MODELS = Path("models")  # the model goes there, perhaps on another disk than `work`


def check_training(
    section: str, training: Training, work: Path, steps: int, save_every: int | None, extra: int = 0
) -> None:
    """Raise UserError if a training does not fit into memory, or its files do not fit on the disk of folder `work`.

    `extra` is the bytes of further files in `work`, of all ranks. Files of an interrupted run that are already there
    count. The first rank checks the disk, for all.
    """
    fix = "lower it, shorten the rows, or take a smaller model"
    where = f"params.yaml: {section}.micro_batch_size"
    on_cpu = training.runtime.device == "cpu"  # whose memory the ranks of a machine share
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if on_cpu and training.runtime.ranks > 1 else 1
    what = "training" if ranks == 1 else f"training on {ranks} ranks"
    check_memory(where, what, ranks * training.memory, training.runtime.device, fix)
    if not is_first():
        return
    states = 0 if save_every is None else min(STATES, -(-steps // save_every)) * training.state_bytes
    there = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    check_disk(work, max(0, FP32 * training.parameters + extra + states - there))
    check_disk(MODELS, FP32 * training.parameters)
