"""GPT-2, composed as in chapters 3 and 4 of the book: configuration, attention, block, the whole.

Shapes: B rows, T tokens, S tokens seen by attention (cached ones included), C = n_embd, H heads, D = C / H, V words.
Modules carry GPT-2's published names, so a state dict reads like the checkpoint (weights here are (out, in)).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.model.config import ModelConfig
from llm.model.dropout import Dropout
from llm.model.kv_cache import KVCache, attend_one

BY_VECTORS = ("cpu",)  # devices that compute the attention of a single query as `attend_one` does


class Attention(nn.Module):
    """Causal multi-head self-attention with one fused matrix for queries, keys and values (section 3.6)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.n_head, self.eager = layer, config.n_head, config.attention == "eager"
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.qkv_bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.drop = Dropout(config.attention_rate, config.dropout_random == "packed")

    def forward(self, x: Tensor, mask: Tensor | None, cache: KVCache | None) -> Tensor:
        """Attend (B, T, C) -> (B, T, C); `mask` is True where a query may see a key; None means causal."""
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head).permute(2, 0, 3, 1, 4)
        q, k, v = qkv  # (B, H, T, D) each
        y = self._attend(q, k, v, mask, cache)
        return self.c_proj(y.to(qkv.dtype).transpose(1, 2).reshape(B, T, C))  # type: ignore[no-any-return]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, cache: KVCache | None) -> Tensor:
        """(B, H, T, D) each -> (B, H, T, D)."""
        T = q.shape[2]
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # (B, H, S, D) each
            if T == 1 and q.device.type in BY_VECTORS:
                return attend_one(q, cache, self.layer, mask)
            q, v = q.to(k.dtype), v.to(k.dtype)
        if self.eager or (self.training and self.drop.packed and self.drop.rate > 0):
            return attend(q, k, v, mask, self.drop)
        dropout = self.drop.rate if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=mask is None and T > 1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, drop: nn.Module) -> Tensor:
    """Scaled dot-product attention written out (section 3.5): what SDPA computes, one step a line."""
    T, S = q.shape[2], k.shape[2]
    if mask is None:
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    scores = q @ k.transpose(2, 3)  # (B, H, T, S)
    unseen = torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, -math.inf)
    weights = torch.softmax(torch.add(unseen, scores, alpha=k.shape[-1] ** -0.5), dim=-1)
    return drop(weights) @ v  # type: ignore[no-any-return]  # (B, H, T, D)


class MLP(nn.Module):
    """The feed-forward part of a block (section 4.3)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.c_proj(gelu(self.c_fc(x)))  # type: ignore[no-any-return]


def gelu(x: Tensor) -> Tensor:
    """GPT-2's GELU, x (1 + tanh u) / 2; where it is compiled as x / (1 + exp -2u), which is the same and faster."""
    if not torch.compiler.is_compiling():
        return F.gelu(x, approximate="tanh")
    wide = x.float()
    u = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)
    return (wide * torch.sigmoid(2 * u)).to(x.dtype)


class Block(nn.Module):
    """A transformer block: norm before each part, shortcut around it (section 4.5)."""

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
    """Everything below the head: embeddings, blocks, the final norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.context_length, config.n_embd)
        self.drop = Dropout(config.embedding_rate, config.dropout_random == "packed")
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)

    def forward(self, ids: Tensor, cache: KVCache | None = None, left_padding: Tensor | None = None) -> Tensor:
        """Hidden states (B, T, C) of token ids (B, T), normed by `ln_f`.

        With `cache`, `ids` continue what the cache has seen. `left_padding` (B,) says how many of the first
        tokens of each row are padding: they take no position and nothing real attends to them.
        """
        T, seen = ids.shape[1], cache.length if cache is not None else 0
        positions = torch.arange(seen, seen + T, device=ids.device)
        mask = visible(seen, T, left_padding, ids.device)
        if left_padding is not None:
            positions = (positions - left_padding[:, None]).clamp(min=0)  # (B, T)
        x = self.drop(self.wte(ids) + self.wpe(positions))  # (B, T, C)
        for block in self.h:
            x = block(x, mask, cache)
        if cache is not None:
            cache.length += T
        return self.ln_f(x)  # type: ignore[no-any-return]

    def embed_and_run(self, ids: Tensor, blocks: int, sparse: bool = False) -> Tensor:
        """The states (B, T, C) of token ids (B, T) above so many blocks.

        With `sparse` the gradient of the token embedding is that of these tokens only, a sparse tensor.
        """
        tokens = F.embedding(ids, self.wte.weight, sparse=sparse)
        x = self.drop(tokens + self.wpe(torch.arange(ids.shape[1], device=ids.device)))
        for block in self.h[:blocks]:
            x = block(x, None, None)
        return x  # type: ignore[no-any-return]


class GPT(nn.Module):
    """A GPT-2 with its language-model head (section 4.6)."""

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
        """Next-token logits (B, T, V) of token ids (B, T); see `Transformer.forward`."""
        return self.lm_head(self.transformer(ids, cache, left_padding))  # type: ignore[no-any-return]

    def _init_gpt2(self, module: nn.Module) -> None:
        """Normal 0.02, zero biases, and the ends of the 2 x n_layer shortcuts scaled down (GPT-2 paper, 2.3)."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, Block):
            for part in (module.attn.c_proj, module.mlp.c_proj):
                nn.init.normal_(part.weight, std=0.02 / math.sqrt(2 * self.config.n_layer))


def visible(seen: int, T: int, left_padding: Tensor | None, device: torch.device) -> Tensor | None:
    """Which keys each of T new queries may see, after `seen` cached tokens; None where plain causal will do.

    (T, S) booleans, or (B, 1, T, S) with padding. A padded query sees itself, or softmax would divide by nothing.
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
    """Parameters, a tied matrix counted once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)
