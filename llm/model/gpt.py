"""GPT-2, built up as in chapters 3 and 4: attention, feed-forward part, block, the whole model.

Shapes: B rows, T tokens, S tokens attended to (T plus the cached ones), C = n_embd, H heads, D = C / H, V = vocab_size.
Modules have the names of GPT-2's published weights, so state dicts match its checkpoints. Linear weights are (out, in).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.model.config import ModelConfig
from llm.model.dropout import Dropout
from llm.model.kv_cache import KVCache


class Attention(nn.Module):
    """Causal multi-head self-attention, with one matrix for queries, keys and values (section 3.6)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.n_head, self.eager = layer, config.n_head, config.attention == "eager"
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.qkv_bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.drop = Dropout(config.attention_rate, config.dropout_random == "packed")

    def forward(self, x: Tensor, mask: Tensor | None, cache: KVCache | None) -> Tensor:
        """(B, T, C) -> (B, T, C). `mask` is True where a query may attend to a key; None means causal."""
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        y = cache.attend(self.layer, q, k, v, mask, self._attend) if cache else self._attend(q, k, v, mask)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))  # type: ignore[no-any-return]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """(B, H, T, D), (B, H, S, D), (B, H, S, D) -> (B, H, T, D), step by step or with PyTorch's fused kernel."""
        if self.eager or (self.training and self.drop.packed and self.drop.rate > 0):
            return attend(q, k, v, mask, self.drop)
        dropout = self.drop.rate if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=mask is None and q.shape[2] > 1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, drop: nn.Module) -> Tensor:
    """Scaled dot-product attention, step by step (section 3.5)."""
    T, S = q.shape[2], k.shape[2]
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
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.c_proj(gelu(self.c_fc(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A transformer block: layer norm before each part, a shortcut around it (section 4.5)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)
        self.drop = Dropout(config.dropout, config.dropout_random == "packed")

    def forward(self, x: Tensor, mask: Tensor | None, cache: KVCache | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.drop(self.attn(self.ln_1(x), mask, cache))
        return x + self.drop(self.mlp(self.ln_2(x)))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """GPT without its head: embeddings, blocks, final layer norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.causal = True  # a classifier may set it to False
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.context_length, config.n_embd)
        self.drop = Dropout(config.embedding_rate, config.dropout_random == "packed")
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)

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
        if not self.causal:
            mask = torch.ones(T, T, dtype=torch.bool, device=ids.device)
        x = self.embed(ids, positions)
        for block in self.h:
            x = block(x, mask, cache)
        if cache:
            cache.length += T
        return self.ln_f(x)  # type: ignore[no-any-return]

    def embed(self, ids: Tensor, positions: Tensor | None = None, sparse: bool = False) -> Tensor:
        """Token plus position embeddings (B, T, C) of token ids (B, T); sections 2.7 and 2.8.

        `positions` default to 0, 1, ... With `sparse`, the gradient of the token embedding is a sparse tensor.
        """
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)
        return self.drop(F.embedding(ids, self.wte.weight, sparse=sparse) + self.wpe(positions))  # type: ignore[no-any-return]


class GPT(nn.Module):
    """GPT-2 with its language-model head (section 4.6)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie_head:
            self.lm_head.weight = self.transformer.wte.weight
        if config.init == "gpt2":
            self.apply(self._init_gpt2)

    def forward(self, ids: Tensor, cache: KVCache | None = None, left_padding: Tensor | None = None) -> Tensor:
        """Next-token logits (B, T, V) of token ids (B, T); for the other arguments see `Transformer.forward`."""
        return self.lm_head(self.transformer(ids, cache, left_padding))  # type: ignore[no-any-return]

    def _init_gpt2(self, module: nn.Module) -> None:
        """Normal with std 0.02, zero biases; smaller std for the last layer before each shortcut (GPT-2 paper, 2.3)."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, Block):
            for part in (module.attn.c_proj, module.mlp.c_proj):
                nn.init.normal_(part.weight, std=0.02 / math.sqrt(2 * self.config.n_layer))


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
