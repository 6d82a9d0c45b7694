"""Chapter 4: GPT-2's sizes, layer norm, GELU, shortcuts, greedy decoding, FLOPs.

Names of this chapter that are defined elsewhere:
DummyGPTModel -> llm/model/gpt.py:GPT
FeedForward -> llm/model/gpt.py:MLP
TransformerBlock -> llm/model/gpt.py:Block
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.model.meta import on_meta_device

GPT_CONFIG_124M = {
    "vocab_size": 50257,
    "context_length": 1024,
    "emb_dim": 768,
    "n_heads": 12,
    "n_layers": 12,
    "drop_rate": 0.1,
    "qkv_bias": False,
}
# All sizes of GPT-2 (exercise 4.2).
CONFIGS: dict[str, dict[str, Any]] = {
    "124M": GPT_CONFIG_124M,
    "355M": {**GPT_CONFIG_124M, "emb_dim": 1024, "n_layers": 24, "n_heads": 16},
    "774M": {**GPT_CONFIG_124M, "emb_dim": 1280, "n_layers": 36, "n_heads": 20},
    "1558M": {**GPT_CONFIG_124M, "emb_dim": 1600, "n_layers": 48, "n_heads": 25},
}


def model_config(cfg: Mapping[str, Any], tie_head: bool) -> ModelConfig:
    """The pipeline's settings for the keys of GPT_CONFIG_124M."""
    return ModelConfig(
        family="gpt2",
        vocab_size=cfg["vocab_size"],
        context_length=cfg["context_length"],
        n_layer=cfg["n_layers"],
        n_head=cfg["n_heads"],
        n_kv_head=None,
        n_embd=cfg["emb_dim"],
        dropout=cfg["drop_rate"],
        dropout_embedding=None,
        dropout_attention=None,
        qkv_bias=cfg["qkv_bias"],
        tie_head=tie_head,
        init="torch",
        attention="eager",
        dropout_random="each",
    )


class GPTModel(GPT):
    """The pipeline's GPT, built from the keys of GPT_CONFIG_124M (section 4.6).

    The initial weights are PyTorch's, drawn from its global generator. `tie_head` shares the head with the token
    embedding, as OpenAI's weights do.
    """

    def __init__(self, cfg: Mapping[str, Any], tie_head: bool = False) -> None:
        super().__init__(model_config(cfg, tie_head))


class LayerNorm(nn.Module):
    """Normalise the features to mean 0 and variance 1, then scale and shift (section 4.2)."""

    def __init__(self, emb_dim: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(emb_dim)), nn.Parameter(torch.zeros(emb_dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., emb_dim) -> (..., emb_dim)."""
        variance = x.var(dim=-1, keepdim=True, unbiased=False)
        return self.scale * (x - x.mean(dim=-1, keepdim=True)) / torch.sqrt(variance + 1e-5) + self.shift


def layer_norm_demo() -> tuple[Tensor, Tensor]:
    """Outputs (2, 6) of a small layer with seed 123, before and after normalising (section 4.2)."""
    torch.manual_seed(123)
    batch = torch.randn(2, 5)
    out = nn.Sequential(nn.Linear(5, 6), nn.ReLU())(batch).detach()
    normed = (out - out.mean(dim=-1, keepdim=True)) / out.var(dim=-1, keepdim=True).sqrt()
    return out, normed


class GELU(nn.Module):
    """GELU in the tanh approximation of GPT-2 (section 4.3)."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


class ExampleDeepNeuralNetwork(nn.Module):
    """Linear layers with GELU; with `use_shortcut`, a shortcut around each layer that keeps the width (section 4.4)."""

    def __init__(self, layer_sizes: Sequence[int], use_shortcut: bool) -> None:
        super().__init__()
        self.use_shortcut = use_shortcut
        pairs = pairwise(layer_sizes)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(a, b), GELU()) for a, b in pairs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, first size) -> (B, last size)."""
        for layer in self.layers:
            y = layer(x)
            x = x + y if self.use_shortcut and x.shape == y.shape else y
        return x


def mean_gradients(use_shortcut: bool) -> list[float]:
    """Mean absolute gradient of five layers with seed 123, for one input and target 0 (section 4.4)."""
    torch.manual_seed(123)
    model = ExampleDeepNeuralNetwork([3, 3, 3, 3, 3, 1], use_shortcut)
    loss = nn.functional.mse_loss(model(torch.tensor([[1.0, 0.0, -1.0]])), torch.tensor([[0.0]]))
    loss.backward()  # type: ignore[no-untyped-call]
    return [
        p.grad.abs().mean().item() for name, p in model.named_parameters() if "weight" in name and p.grad is not None
    ]


@torch.no_grad()
def generate_text_simple(model: nn.Module, idx: Tensor, max_new_tokens: int, context_size: int) -> Tensor:
    """Append the most likely token `max_new_tokens` times to ids (B, T), without a cache (section 4.7).

    The model sees the last `context_size` tokens. Call `model.eval()` before.
    """
    for _ in range(max_new_tokens):
        logits = model(idx[:, -context_size:])[:, -1]  # (B, V)
        idx = torch.cat([idx, logits.argmax(dim=-1, keepdim=True)], dim=1)
    return idx


def forward_flops(size: str, rows: int = 2, tokens: int = 1024) -> int:
    """Operations of the linear layers in one forward pass: two for each weight and token.

    As in the usual counters, attention's own products, norms and embeddings are left out.
    """
    with on_meta_device():
        model = GPTModel(CONFIGS[size])
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    return 2 * weights * rows * tokens
