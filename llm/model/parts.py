"""The parts in which model families differ, and which parts each family has.

The model reads only these parts, never the name of a family. `llm/weights/families.py` knows how each family names its
tensors and the keys of its `config.json`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Family = Literal["gpt2", "llama", "smollm3", "qwen2", "qwen3"]


@dataclass(frozen=True)
class Llama3Scaling:
    """How Llama 3.1 and later stretch rotary positions to a longer context."""

    factor: float  # slow rotations become slower by this factor
    low_freq_factor: float  # rotations with fewer turns than this in the original context are slow
    high_freq_factor: float  # rotations with more turns than this are fast, and stay as they are
    original_context: int  # tokens


@dataclass(frozen=True)
class Rope:
    """Rotary positions (Su et al. 2021, "RoFormer")."""

    theta: float  # base of the wavelengths
    scaling: Llama3Scaling | None = None
    skip_every: int | None = None  # each layer with a number divisible by this has no positions (SmolLM3)

    def rotates(self, layer: int) -> bool:
        """Whether the layer with this index, from 0, has positions."""
        return self.skip_every is None or (layer + 1) % self.skip_every != 0


@dataclass(frozen=True)
class Parts:
    """What a block and the embedding are made of."""

    norm: Literal["layer", "rms"] = "layer"
    norm_eps: float = 1e-5
    rope: Rope | None = None  # None: learned positions, added to the token embedding
    mlp: Literal["gelu", "swiglu"] = "gelu"
    bias: bool = True  # of all linear layers but c_attn (qkv_bias) and the heads
    qk_norm: bool = False  # norm queries and keys, each head by itself
    n_inner: int | None = None  # width of the MLP; None: 4 n_embd, or two thirds of it for the three matrices of SwiGLU
    head_dim: int | None = None  # None: n_embd / n_head


GPT2 = Parts()
LLAMA = Parts(norm="rms", norm_eps=1e-5, rope=Rope(theta=10_000.0), mlp="swiglu", bias=False)
QWEN2 = replace(LLAMA, norm_eps=1e-6)

# The parts of a new model. An imported one has those that its config.json says.
FAMILIES: dict[Family, Parts] = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "smollm3": replace(LLAMA, norm_eps=1e-6, rope=Rope(theta=2_000_000.0, skip_every=4)),
    "qwen2": QWEN2,
    "qwen3": replace(QWEN2, qk_norm=True),
}
