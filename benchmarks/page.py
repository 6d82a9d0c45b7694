"""Write docs/benchmarks.md and docs/benchmarks.png from the kept figures: `python -m benchmarks.page`."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.results import DOCS, Rounds, Works, median, ratios, read, spread
from benchmarks.work import BATCH, CONTEXT, SHAPES
from llm.common import files

PEERS = {"book": "the book's package", "transformers": "transformers"}
BELOW = ("machine", "chapter-6-fp32", "pipeline", "corpus", "serve", "llama.cpp")  # not in the table
HEAD = """\
# Benchmarks against other implementations

Written by `python -m benchmarks`. Rates and ratios are medians over the rounds; brackets hold the range of a ratio.

- Each class of machine has its own figures. Where two rows differ in hours or load, compare ratios, not rates.
- Rates are tokens per second; in chapter 6, training messages per second.
- "by CPU time" is the ratio of tokens per second of CPU time. On a busy machine it is more reliable than wall-clock
  time.
- train-* is eager against eager; train-*-compiled is `pretrain.compile: true` against `torch.compile` of transformers'
  model. The first two steps are not counted, and gradients are not clipped.
- decode-* is the decoding of the stage `respond` and of the commands `generate` and `chat`, with the weights of GPT-2's
  smallest size.
- chapter-5 is timed up to the saved model, ours including the start of the program.
- chapter-6 (random weights, last block, 5 epochs) is timed from the tokenized messages to the accuracies of all splits.
- Of the book's epochs, two are timed in chapter 5 and one in chapter 6. The time of all epochs is computed from them.
- Ours uses the settings of `llm use auto`, with native kernels.
- The others use tcmalloc if it is installed (Debian: `libtcmalloc-minimal4`); ours sets up the C library's allocator.
- A benchmark that is not run again keeps its earlier figures.

All benchmarks except `pipeline` and `machine` need transformers or `pip install --no-deps llms-from-scratch` for the
comparison. tokenize and the chapters also need `LLM_MIRROR` ([data.md](data.md)). `python -m benchmarks.tokenize`,
`python -m benchmarks.serve` and `python -m benchmarks.llama_cpp models/instruct` add their own figures.
"""


def write() -> str:
    """Write the page and the picture; return the page."""
    figures = read()
    text = HEAD + "".join("\n" + "\n".join(section(name, **found)) + "\n" for name, found in figures.items())
    files.write_text(DOCS / "benchmarks.md", text)
    draw({name: found["rounds"] for name, found in figures.items()})
    return text


def section(name: str, machine: str, packages: str, rounds: Works) -> Iterator[str]:
    """The lines about a class of machine."""
    yield from (f"## {name}", "", f"Measured on {machine};", f"{packages}.")
    if limits := rounds.get("machine"):
        parts = ((what.partition(", "), median(found)) for what, found in limits.items())
        yield from (
            "",
            f"Limits of the machine: {'; '.join(f'{what} {rate:.0f} {unit}' for (what, _, unit), rate in parts)}.",
        )
    if rows := [row(work, found) for work, found in rounds.items() if work not in BELOW]:
        peers = " | ".join(f"ours / {peer} | by CPU time" for peer in PEERS)
        yield from ("", f"| benchmark | rounds | per second: ours | {' | '.join(PEERS)} | {peers} | peak MiB |")
        yield "| --- " * 10 + "|"
        yield from rows
    for about in (utilisation, compiling, chapter_5, chapter_6, sample, corpus, serving, llama_cpp):
        if text := list(about(rounds)):
            yield from ("", *text)


def row(work: str, found: Rounds) -> str:
    """One row of the table. Memory peaks are in the order ours, book, transformers."""
    rates = [f"{median(found[name]):.1f}" if name in found else "-" for name in ("ours", *PEERS)]
    columns = []
    for name in PEERS:
        columns.append(spread(ratios(found, name)))
        by_cpu = ratios(found, name, "cpu_rate")
        columns.append(f"{statistics.median(by_cpu):.2f}" if by_cpu else "-")
    peaks = (f"{max(r['peak_mib'] for r in found[name]):.0f}" for name in ("ours", *PEERS) if name in found)
    return f"| {work} | {len(found['ours'])} | {' | '.join(rates)} | {' | '.join(columns)} | {' / '.join(peaks)} |"


def utilisation(rounds: Works) -> Iterator[str]:
    """Training as a share of the machine's rate of matrix products, in the precision that it uses."""
    limits = {name.split()[0]: median(found) for name, found in rounds.get("machine", {}).items()}
    for size in SHAPES:
        for work in (f"train-{size}", f"train-{size}-compiled"):
            if work in rounds and limits:
                precision = rounds[work]["ours"][0].get("precision", "bf16")
                flops = SHAPES[size].flops_per_token(CONTEXT) * median(rounds[work]["ours"]) / 1e9
                what = f"{work} (batch {BATCH[size]} x {CONTEXT}): ours computes {flops:.0f} GFLOP/s"
                yield f"{what}, {flops / limits[precision]:.2f} of the {precision} rate."


def compiling(rounds: Works) -> Iterator[str]:
    """The time that `pretrain.compile` takes, and the number of steps after which it is worth it."""
    for size in SHAPES:
        eager, compiled = (rounds.get(work, {}).get("ours") for work in (f"train-{size}", f"train-{size}-compiled"))
        if eager and compiled:
            cost = statistics.median(r["first_step"] for r in compiled)
            saved = BATCH[size] * CONTEXT * (1 / median(eager) - 1 / median(compiled))  # seconds per step
            text = f"train-{size}: `pretrain.compile` takes {cost:.0f} s"
            yield (
                f"{text} and saves time after {cost / saved:.0f} steps." if saved > 0 else f"{text} and saves no time."
            )


def chapter_5(rounds: Works) -> Iterator[str]:
    """Time and validation loss of our run of chapter 5."""
    for found in rounds.get("chapter-5", {}).get("ours", [])[:1]:
        yield f"chapter-5: {found['seconds']:.0f} s, lowest validation loss {found['best_val_loss']:.3f}."


def chapter_6(rounds: Works) -> Iterator[str]:
    """Rate and predictions without `frozen_prefix`."""
    for work in ("chapter-6", "chapter-6-fp32"):
        found = rounds.get(work, {})
        for with_it, without in zip(found.get("ours", []), found.get("whole", []), strict=False):
            pairs = list(zip(with_it["predictions"], without["predictions"], strict=True))
            differ = sum(a != b for a, b in pairs)
            rate = f" {without['rate']:.1f} messages per second;" if work == "chapter-6" else ""
            yield f"{work} without `frozen_prefix`:{rate} {differ} of {len(pairs)} test predictions differ."


def sample(rounds: Works) -> Iterator[str]:
    """Time of the sample's `dvc repro`, and of one with nothing to do."""
    for found in rounds.get("pipeline", {}).get("ours", [])[:1]:
        share = 1 - found["compute"] / found["seconds"]
        yield f"`make repro` of the sample with `use auto`: {found['seconds']:.0f} s, {share:.0%} of it not computing."
        empty = f"{found['no_op_ratio']:.2f} times that of a pipeline of empty stages with as many dependencies"
        yield f"`dvc repro` with nothing to do: {found['no_op']:.2f} s, {empty}."


def corpus(rounds: Works) -> Iterator[str]:
    """The stage tokenize@corpus beside tiktoken's batch call."""
    found = rounds.get("corpus", {})
    if not found:
        return
    yield "`python -m benchmarks.tokenize` (generated text, documents of 50 to 2,000 words, GPT-2's vocabulary):"
    yield ""
    yield "| corpus | rounds | MB/s: stage | tiktoken | stage / tiktoken | by CPU time | peak MiB: stage | tiktoken |"
    yield "| --- " * 8 + "|"
    for size in dict.fromkeys(name.partition(", ")[2] for name in found):
        runs = {"ours": found[f"stage, {size}"], "tiktoken": found[f"tiktoken, {size}"]}
        rates = " | ".join(f"{median(each):.1f}" for each in runs.values())
        by_cpu = spread([theirs["cpu"] / ours["cpu"] for ours, theirs in zip(*runs.values(), strict=True)])
        peaks = " | ".join(f"{max(one['peak_mib'] for one in each):.0f}" for each in runs.values())
        yield f"| {size} | {len(runs['ours'])} | {rates} | {spread(ratios(runs, 'tiktoken'))} | {by_cpu} | {peaks} |"
    yield ""
    yield "The stage is timed as a whole: start, reading, encoding, writing and splitting. tiktoken's time is that of"
    yield "`encode_ordinary_batch` alone, with as many threads; it writes nothing."


def serving(rounds: Works) -> Iterator[str]:
    """Many clients of `llm serve` at once."""
    for at, (model, found) in enumerate(rounds.get("serve", {}).items()):
        if at == 0:
            yield f"`llm serve`, {found[0]['clients']} clients at once against one at a time, with the same texts,"
            yield "client and server on the same cores, with the kernels of params.yaml:"
        times = [each["together"] / each["alone"] for each in found]
        rates = f"{median(found, 'together'):.0f} against {median(found, 'alone'):.0f}"
        length = f"{found[0]['tokens'] / found[0]['clients']:.0f} tokens an answer"
        yield f"- models/{model}: {spread(times)} times the tokens per second, {rates} ({len(found)} rounds, {length})."


def llama_cpp(rounds: Works) -> Iterator[str]:
    """An exported model under llama.cpp."""
    found = rounds.get("llama.cpp", {})
    if not found:
        return
    yield "`python -m benchmarks.llama_cpp models/instruct` (30 test instructions, greedy, one at a time, 2 threads):"
    yield ""
    yield "| | bytes | same texts | tokens/s |"
    yield "| --- " * 4 + "|"
    for name, runs in found.items():
        yield f"| {name} | {runs[0]['bytes']:,} | {runs[0].get('same', '')} | {median(runs):.0f} |"


def draw(classes: Mapping[str, Any]) -> None:
    """Draw the median ratios as bars, one panel for each class of machine."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = {
        kind: [(work, name) for work in rounds for name in PEERS if work not in BELOW and ratios(rounds[work], name)]
        for kind, rounds in classes.items()
    }
    shown = {kind: bars for kind, bars in shown.items() if bars}
    if not shown:
        return
    heights = [len(bars) for bars in shown.values()]
    figure, panels = plt.subplots(
        len(shown), figsize=(8, 0.4 * sum(heights) + 1.1 * len(shown)), height_ratios=heights, squeeze=False
    )
    for axes, (kind, bars) in zip(panels[:, 0], shown.items(), strict=True):
        values = [statistics.median(ratios(classes[kind][work], name)) for work, name in bars]
        colours = ["tab:blue" if name == "book" else "tab:orange" for _, name in bars]
        labels = axes.barh([f"{work}, against {PEERS[name]}" for work, name in bars], values, color=colours)
        axes.bar_label(labels, fmt="%.1f x", padding=3)
        axes.axvline(1, color="black", linewidth=1)
        axes.invert_yaxis()
        axes.set_title(kind, loc="left")
        axes.set_xlabel("times as fast (median over the rounds)")
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(DOCS / "benchmarks.png", dpi=120, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    print(write())
