"""A plan for several GPUs in a terminal of at most 100 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from llm.compare.terminal import grid
from llm.model import memory
from llm.plan import scale
from llm.plan.gpus import Gpu
from llm.plan.scale import Assumptions, Plan
from llm.tracking.record import duration

HEADINGS = (
    *("model", "way", "ranks", "passes\nx rows", "state + gathered +\nactivations, GB", "sent, GB\na step"),
    *("step", "busy", "time", "cost"),
)


def show(names: Sequence[str], ranks: Sequence[int], gpu: Gpu, given: Assumptions, to: Console) -> None:
    """Print the plans of all models on all numbers of ranks, with all assumptions."""
    to.print(grid(HEADINGS, _rows(names, ranks, gpu, given), range(2, len(HEADINGS))))
    to.print()
    to.print(Text("Assumptions; nothing here is measured on GPUs", style="bold"))
    for line in _assumptions(names, gpu, given):
        to.print(Text(line))


def _rows(names: Sequence[str], ranks: Sequence[int], gpu: Gpu, given: Assumptions) -> Iterator[list[str]]:
    for name in names:
        config = scale.model(name, given.context)
        for number in ranks:
            for way in ("ddp", "fsdp") if number > 1 else ("ddp",):
                found = scale.plan(config, way, number, gpu, given)
                yield [name, way if number > 1 else "", f"{number}", *_figures(found, given)]


def _figures(found: Plan, given: Assumptions) -> list[str]:
    held = found.memory
    memory_parts = " + ".join(f"{part / 1e9:.3g}" for part in (held.state, held.gathered, held.activations))
    if not found.fits:
        why = "fewer rows than ranks" if found.ranks > given.batch else "does not fit"
        return ["", memory_parts, "", why, "", "", ""]
    cost = found.hours * found.ranks * given.price
    return [
        f"{found.passes} x {found.rows}",
        memory_parts,
        f"{found.sent / 1e9:.3g}",
        f"{found.step:.3g} s",
        f"{found.busy:.0%}",
        duration(found.hours * 3600),
        f"{cost:,.0f}" if cost >= 10 else f"{cost:.2g}",
    ]


def _assumptions(names: Sequence[str], gpu: Gpu, given: Assumptions) -> Iterator[str]:
    flops, link = gpu.flops / 1e12, gpu.link / 1e9
    yield f"- {gpu.name} (data sheet): {flops:,.0f} TFLOP/s in bf16 without sparsity, {gpu.memory / 1e9:.0f} GB"
    yield f"- {link:.0f} GB/s in one direction between the {gpu.machine} GPUs of a machine (data sheet)"
    yield f"- {given.network / 1e9:.0f} GB/s for each GPU between machines (--network)"
    yield f"- a GPU reaches {given.efficiency:.0%} of its speed (--efficiency), a message {scale.LINK_EFFICIENCY:.0%}"
    yield f"- a message takes {scale.LATENCY * 1e6:.0f} µs x log2(ranks) more"
    yield f"- computing hides sending, or the reverse, but for {scale.OVERLAP:.0%} of the shorter"
    rows = f"{given.batch:,} rows of {given.context:,} tokens (--batch, --context)"
    yield f"- an update has {rows}: {given.batch * given.context:,} tokens"
    tokens = (
        f"{scale.TOKENS_PER_PARAMETER} tokens a parameter" if given.tokens is None else f"{given.tokens:,.0f} tokens"
    )
    yield f"- the training reads {tokens} (--tokens)"
    yield f"- an hour of a GPU costs {given.price:g} (--price), in the currency of the cost"
    yield "- state: weights, gradients and AdamW's two moments in fp32, 16 bytes a parameter"
    yield "- gathered (fsdp): two whole blocks and the rest in fp32, with gradients of one block and the rest"
    yield "- fsdp gathers and sums in fp32, again in each pass; ddp sums once an update"
    yield "- activations: in bf16 by autocast, not recomputed; the loss without stored logits"
    yield f"- {scale.OVERHEAD / 1e9:.0f} GB of a GPU are kept free for CUDA and messages"
    for name in names:
        shape = "the shape of Llama 2" if name == "7B" else "GPT-2"
        yield f"- {name}: {memory.parameters(scale.model(name, given.context)):,} parameters ({shape})"
