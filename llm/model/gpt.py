"""GPT, built up as in chapters 3 and 4: attention, feed-forward part, block, the whole model.

`ModelConfig.parts` says which parts: those of the book, which are GPT-2's, or those of Llama and later families.

Shapes: B rows, T tokens, S tokens attended to (T plus the cached ones), C = n_embd, H heads of queries, K heads of keys
and values (K = H in GPT-2), D = head_dim (C / H in GPT-2), V = vocab_size.
Modules of all families have the names of GPT-2's published weights. Linear weights are (out, in).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llm.model.config import ModelConfig
from llm.model.dropout import Dropout
from llm.model.kv_cache import KVCache
from llm.model.rope import Rotation, rotate, rotation


def norm(config: ModelConfig, size: int) -> nn.LayerNorm | nn.RMSNorm:
    """Layer norm (section 4.2); or RMSNorm, which does not subtract the mean and has no bias."""
    kind = nn.LayerNorm if config.parts.norm == "layer" else nn.RMSNorm
    return kind(size, eps=config.parts.norm_eps)


class Attention(nn.Module):
    """Causal multi-head self-attention, with one matrix for queries, keys and values (section 3.6)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.eager, parts = layer, config.attention == "eager", config.parts
        self.heads, self.head_dim = (config.n_head, config.kv_heads, config.kv_heads), config.head_dim
        self.c_attn = nn.Linear(config.n_embd, sum(self.heads) * self.head_dim, bias=config.qkv_bias)
        self.c_proj = nn.Linear(config.n_head * self.head_dim, config.n_embd, bias=parts.bias)
        self.q_norm, self.k_norm = (norm(config, self.head_dim) if parts.qk_norm else None for _ in "qk")
        self.rotates = parts.rope is not None and parts.rope.rotates(layer)
        self.drop = Dropout(config.attention_rate, config.dropout_random == "packed")
        self.causal = True  # a classifier may set it to False

    def forward(self, x: Tensor, mask: Tensor | None, cache: KVCache | None, rotation: Rotation | None) -> Tensor:
        """(B, T, C) -> (B, T, C). `mask` is True where a query may attend to a key; None: as `causal` says."""
        B, T, _ = x.shape
        qkv = self.c_attn(x).view(B, T, -1, self.head_dim).transpose(1, 2)  # (B, H + 2 K, T, D)
        q, k, v = qkv.split(self.heads, dim=1)
        q, k = self.prepare(q, self.q_norm, rotation), self.prepare(k, self.k_norm, rotation)
        y = cache.attend(self.layer, q, k, v, mask, self._attend) if cache else self._attend(q, k, v, mask)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, -1))  # type: ignore[no-any-return]

    def prepare(self, x: Tensor, norm: nn.LayerNorm | nn.RMSNorm | None, rotation: Rotation | None) -> Tensor:
        """Norm and rotate queries or keys (B, heads, T, D), where the family does; GPT-2 does neither."""
        if norm is not None:
            x = norm(x.to(norm.weight.dtype)).to(x.dtype)  # under autocast x is bf16
        return rotate(x, rotation) if rotation is not None and self.rotates else x

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """(B, H, T, D), (B, K, S, D), (B, K, S, D) -> (B, H, T, D), step by step or with PyTorch's fused kernel."""
        if self.eager or (self.training and self.drop.packed and self.drop.rate > 0):
            if mask is None and not self.causal:
                mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
            return attend(q, k, v, mask, self.drop)
        dropout, causal = self.drop.rate if self.training else 0.0, self.causal and mask is None and q.shape[2] > 1
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, causal, enable_gqa=k.shape[1] < q.shape[1])


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, drop: nn.Module) -> Tensor:
    """Scaled dot-product attention, step by step (section 3.5); H / K heads of queries share one of keys and values."""
    T, S, shared = q.shape[2], k.shape[2], q.shape[1] // k.shape[1]
    if shared > 1:
        k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
    if mask is None:
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    scores = q @ k.transpose(2, 3)  # (B, H, T, S)
    bias = torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, -math.inf)  # 0, or -inf to hide a key
    scores = torch.add(bias, scores, alpha=k.shape[-1] ** -0.5)  # scales and masks in one pass over memory
    return drop(torch.softmax(scores, dim=-1)) @ v  # type: ignore[no-any-return]


class MLP(nn.Module):
    """The feed-forward part of a block (section 4.3)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.n_inner, bias=config.parts.bias)
        self.c_proj = nn.Linear(config.n_inner, config.n_embd, bias=config.parts.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.c_proj(gelu(self.c_fc(x)))  # type: ignore[no-any-return]


class SwiGLU(nn.Module):
    """The feed-forward part of Llama and later families (Shazeer 2020, "GLU Variants Improve Transformer")."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_gate = nn.Linear(config.n_embd, config.n_inner, bias=config.parts.bias)
        self.c_fc = nn.Linear(config.n_embd, config.n_inner, bias=config.parts.bias)
        self.c_proj = nn.Linear(config.n_inner, config.n_embd, bias=config.parts.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.c_proj(F.silu(self.c_gate(x)) * self.c_fc(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A transformer block: a norm before each part, a shortcut around it (section 4.5)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = norm(config, config.n_embd)
        self.attn = Attention(config, layer)
        self.ln_2 = norm(config, config.n_embd)
        self.mlp = MLP(config) if config.parts.mlp == "gelu" else SwiGLU(config)
        self.drop = Dropout(config.dropout, config.dropout_random == "packed")

    def forward(self, x: Tensor, mask: Tensor | None, cache: KVCache | None, rotation: Rotation | None) -> Tensor:
        """(B, T, C) -> (B, T, C). `rotation` is that of `llm.model.rope` for the T tokens."""
        x = x + self.drop(self.attn(self.ln_1(x), mask, cache, rotation))
        return x + self.drop(self.mlp(self.ln_2(x)))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """GPT without its head: embeddings, blocks, final norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpoint = False  # in training, keep only the inputs of blocks, and compute them again for the gradients
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.context_length, config.n_embd) if config.parts.rope is None else None
        self.drop = Dropout(config.embedding_rate, config.dropout_random == "packed")
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = norm(config, config.n_embd)

    def forward(self, ids: Tensor, cache: KVCache | None = None, left_padding: Tensor | None = None) -> Tensor:
        """Hidden states (B, T, C) of token ids (B, T).

        With `cache`, `ids` continue the cached tokens. `left_padding` (B,) is the number of padding tokens at the
        start of each row. They take up no position, and no real token attends to them.
        """
        T, seen = ids.shape[1], cache.length if cache else 0
        positions = torch.arange(seen, seen + T, device=ids.device)
        if left_padding is not None:
            positions = (positions - left_padding[:, None]).clamp(min=0)  # (B, T)
        mask = attention_mask(seen, T, left_padding, ids.device)
        x, turned = self.embed(ids, positions), rotation(self.config, positions)
        for block in self.h:
            x = self.run(block, x, mask, cache, turned)
        if cache:
            cache.length += T
        return self.ln_f(x)  # type: ignore[no-any-return]

    def run(self, block: Callable[..., Tensor], *inputs: Any) -> Tensor:
        """`block(*inputs)`; with `checkpoint`, its activations are dropped and computed again in the backward pass.

        Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost". Dropout draws the same numbers again.
        """
        if self.checkpoint and self.training and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)  # type: ignore[no-any-return]
        return block(*inputs)

    def embed(self, ids: Tensor, positions: Tensor | None = None, sparse: bool = False) -> Tensor:
        """Token plus position embeddings (B, T, C) of token ids (B, T); sections 2.7 and 2.8.

        With rotary positions, only the token embeddings. `positions` default to 0, 1, ... With `sparse`, the gradient
        of the token embedding is a sparse tensor.
        """
        tokens = F.embedding(ids, self.wte.weight, sparse=sparse)
        if self.wpe is None:
            return self.drop(tokens)  # type: ignore[no-any-return]
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)
        return self.drop(tokens + self.wpe(positions))  # type: ignore[no-any-return]


class GPT(nn.Module):
    """A GPT with its language-model head (section 4.6)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie_head:
            self.lm_head.weight = self.transformer.wte.weight
        if config.init != "torch":
            self._std = 0.02 if config.init == "gpt2" else config.n_embd**-0.5
            self.apply(self._init_normal)

    def forward(self, ids: Tensor, cache: KVCache | None = None, left_padding: Tensor | None = None) -> Tensor:
        """Next-token logits (B, T, V) of token ids (B, T); for the other arguments see `Transformer.forward`."""
        return self.lm_head(self.transformer(ids, cache, left_padding))  # type: ignore[no-any-return]

    def _init_normal(self, module: nn.Module) -> None:
        """Normal weights, zero biases; smaller std for the last layer before each shortcut (GPT-2 paper, 2.3).

        The std is 0.02 with `init: gpt2`. It was chosen for widths near 768; a model of width 64 hardly learns from it.
        With `init: width` it is 1 / sqrt(n_embd), so that the output of a layer is about as large as its input.
        """
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self._std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, Block):
            for part in (module.attn.c_proj, module.mlp.c_proj):
                nn.init.normal_(part.weight, std=self._std / math.sqrt(2 * self.config.n_layer))


def gelu(x: Tensor) -> Tensor:
    """GELU in GPT-2's tanh approximation, x (1 + tanh u) / 2 (section 4.3)."""
    if not torch.compiler.is_compiling():
        return F.gelu(x, approximate="tanh")
    wide = x.float()  # x / (1 + exp -2u) is the same function, and compiles to faster code
    u = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)
    return (wide * torch.sigmoid(2 * u)).to(x.dtype)


def attention_mask(seen: int, T: int, left_padding: Tensor | None, device: torch.device) -> Tensor | None:
    """Which keys T new queries may attend to after `seen` cached tokens; None if plain causal attention is enough.

    (T, S), or (B, 1, T, S) with padding. Padding tokens attend to themselves, or their softmax would be NaN.
    """
    if left_padding is None and (seen == 0 or T == 1):
        return None
    keys = torch.arange(seen + T, device=device)
    queries = keys[seen:, None]
    causal = keys <= queries  # (T, S)
    if left_padding is None:
        return causal
    real = keys >= left_padding[:, None, None]  # (B, 1, S)
    return (causal & (real | (keys == queries)))[:, None]  # (B, 1, T, S)


def count_parameters(model: nn.Module, trainable_only: bool = False) -> int:
    """The number of parameters; a tied matrix counts once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)
