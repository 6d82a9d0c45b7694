"""Chapter 4: GPT-2's sizes, its parts, and its text before training."""

from __future__ import annotations

from llm.book import ch04
from llm.book.measures.common import Measured, continue_text, measure
from llm.book.measures.sources import Sources
from llm.model.gpt import Block, count_parameters
from llm.model.meta import on_meta_device


@measure
def parameters(_sources: Sources, size: str, head: str) -> Measured:
    """Parameters of a GPT-2 size; `head` is untied (no QKV bias), tied (with QKV bias) or none (head not counted)."""
    with on_meta_device():
        model = ch04.GPTModel(ch04.CONFIGS[size] | {"qkv_bias": head == "tied"}, tie_head=head == "tied")
    return [count_parameters(model) - (model.lm_head.weight.numel() if head == "none" else 0)]


@measure
def mebibytes(_sources: Sources, size: str) -> Measured:
    """MiB of the weights in fp32, with an untied head."""
    with on_meta_device():
        model = ch04.GPTModel(ch04.CONFIGS[size])
    return [sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20]


@measure
def block_parameters(_sources: Sources) -> Measured:
    """Parameters of the feed-forward part and of the attention in a block of 124M."""
    with on_meta_device():
        block: Block = ch04.GPTModel(ch04.GPT_CONFIG_124M).transformer.h[0]  # type: ignore[assignment]
    return [count_parameters(block.mlp), count_parameters(block.attn)]


@measure
def flops(_sources: Sources, size: str) -> Measured:
    """Operations of a forward pass over 2 x 1024 tokens, printed with two digits."""
    return f"{ch04.forward_flops(size):.1e}"


@measure
def layer_norm(_sources: Sources) -> Measured:
    """Means and variances of two rows before the norm, then after the norm."""
    return [v for part in ch04.layer_norm_demo() for v in (*part.mean(dim=-1).tolist(), *part.var(dim=-1).tolist())]


@measure
def gradients(_sources: Sources, shortcuts: str) -> Measured:
    """Mean absolute gradients of five layers."""
    return list(ch04.mean_gradients(shortcuts == "yes"))


@measure
def untrained_text(sources: Sources, prompt: str, tokens: str, context: str) -> Measured:
    """Greedy continuation by GPT-2 124M before training."""
    return continue_text(sources.untrained(int(context)), sources.gpt2, prompt, int(tokens), 0.0, None)
