"""Chapters 4 and 5 in small: layer norm, GELU, shortcuts, FLOPs, the loss of six tokens, temperature and top-k."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.model.meta import on_meta_device

# The shapes of GPT-2 (section 4.1, exercise 4.2): width, layers, heads.
SIZES = {"124M": (768, 12, 12), "355M": (1024, 24, 16), "774M": (1280, 36, 20), "1558M": (1600, 48, 25)}

WORDS = ("closer", "every", "effort", "forward", "inches", "moves", "pizza", "toward", "you")
LOGITS = (4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79)  # after "every effort moves you" (section 5.3)

# "every effort moves", "I really like", and what follows each token (section 5.1).
LOSS_INPUTS = ((16833, 3626, 6100), (40, 1107, 588))
LOSS_TARGETS = ((3626, 6100, 345), (1107, 588, 11311))


def book_gpt(size: str, context_length: int = 1024, qkv_bias: bool = False, tie_head: bool = False) -> GPT:
    """A GPT as chapter 4 builds it: PyTorch's initialisation, attention written out; draws from torch's generator."""
    n_embd, n_layer, n_head = SIZES[size]
    shape = ModelConfig(
        vocab_size=50257,
        context_length=context_length,
        n_layer=n_layer,
        n_head=n_head,
        n_embd=n_embd,
        dropout=0.1,
        dropout_embedding=None,
        dropout_attention=None,
        qkv_bias=qkv_bias,
        tie_head=tie_head,
        init="torch",
        attention="eager",
        dropout_random="each",
    )
    return GPT(shape)


class LayerNorm(nn.Module):
    """Mean 0 and variance 1 over the features, then a trainable scale and shift (section 4.2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        variance = x.var(dim=-1, keepdim=True, unbiased=False)
        return self.scale * (x - x.mean(dim=-1, keepdim=True)) / torch.sqrt(variance + 1e-5) + self.shift


def layer_norm_demo() -> tuple[Tensor, Tensor]:
    """Outputs (2, 6) of a small layer at seed 123, before and after taking off the mean and the scale (section 4.2)."""
    torch.manual_seed(123)
    batch = torch.randn(2, 5)
    out = nn.Sequential(nn.Linear(5, 6), nn.ReLU())(batch).detach()
    normed = (out - out.mean(dim=-1, keepdim=True)) / out.var(dim=-1, keepdim=True).sqrt()
    return out, normed


class GELU(nn.Module):
    """GPT-2's approximation of x * Phi(x) by tanh (section 4.3)."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


class FeedForward(nn.Module):
    """Four times as wide, GELU, and back (section 4.3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return self.layers(x)  # type: ignore[no-any-return]


class DeepNetwork(nn.Module):
    """Linears with GELU in a row, with or without a shortcut around each that keeps the width (section 4.4)."""

    def __init__(self, widths: Sequence[int], shortcuts: bool) -> None:
        super().__init__()
        self.shortcuts = shortcuts
        pairs = pairwise(widths)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(a, b), GELU()) for a, b in pairs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, first width) -> (B, last width)."""
        for layer in self.layers:
            y = layer(x)
            x = x + y if self.shortcuts and x.shape == y.shape else y
        return x


def mean_gradients(shortcuts: bool) -> list[float]:
    """Mean absolute gradient of each of five layers at seed 123, for one input and a target of 0 (section 4.4)."""
    torch.manual_seed(123)
    model = DeepNetwork([3, 3, 3, 3, 3, 1], shortcuts)
    loss = nn.functional.mse_loss(model(torch.tensor([[1.0, 0.0, -1.0]])), torch.tensor([[0.0]]))
    loss.backward()  # type: ignore[no-untyped-call]
    return [
        p.grad.abs().mean().item() for name, p in model.named_parameters() if "weight" in name and p.grad is not None
    ]


def forward_flops(size: str, rows: int = 2, tokens: int = 1024) -> int:
    """Operations of one forward pass in the Linears: a multiplication and an addition a weight and token.

    Left out, as by the usual counters: attention's own products, norms, embeddings.
    """
    with on_meta_device():
        model = book_gpt(size)
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    return 2 * weights * rows * tokens


def with_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Probabilities of logits (V,); above 1 flatter, below 1 sharper (section 5.3)."""
    return torch.softmax(logits / temperature, dim=-1)


def top_k_logits(logits: Tensor, k: int) -> Tensor:
    """Logits (V,) with all but the k highest at minus infinity (section 5.3)."""
    return logits.masked_fill(logits < logits.topk(k).values[-1], -torch.inf)


def draw_counts(temperature: float, draws: int = 1000) -> list[int]:
    """How often each of WORDS is drawn, one draw at a time at seed 123 (section 5.3, exercise 5.1)."""
    probabilities = with_temperature(torch.tensor(LOGITS), temperature)
    torch.manual_seed(123)
    drawn = [int(torch.multinomial(probabilities, num_samples=1)) for _ in range(draws)]
    return torch.bincount(torch.tensor(drawn), minlength=len(WORDS)).tolist()


@torch.no_grad()
def toy_loss(model: GPT) -> tuple[list[float], float]:
    """Probabilities that `model` gives the six target tokens, and their mean cross-entropy (section 5.1)."""
    logits = model.eval()(torch.tensor(LOSS_INPUTS)).flatten(0, 1)  # (6, V)
    targets = torch.tensor(LOSS_TARGETS).flatten()
    probabilities = logits.softmax(dim=-1)[torch.arange(len(targets)), targets]
    return probabilities.tolist(), nn.functional.cross_entropy(logits, targets).item()
