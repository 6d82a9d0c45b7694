"""Run one benchmark with one implementation: `python -m benchmarks.work train-124M ours`.

Prints a JSON line with the rate per second, by the clock and by CPU time, and the peak of memory. Each run needs its
own process, because allocator settings and the peak of memory hold for a whole process.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import chapter5, chapter6, pipeline
from llm.data.batches import Batch, ShuffledBatches
from llm.data.tokenizer import Tokenizer
from llm.generate.config import greedy
from llm.generate.decoding import generate
from llm.model import packed_weights
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.runtime import device
from llm.runtime.device import RuntimeConfig, cpu_has_bf16, set_up_device
from llm.train import losses
from llm.train.callbacks import Progress
from llm.train.compiled import CompiledNextToken
from llm.train.config import TrainConfig
from llm.train.loop import fit
from llm.train.task import Task

VOCABULARY = 50_257
PROMPT_TOKENS = 32
THREADS = device.detect().threads
BF16 = RuntimeConfig("bf16" if cpu_has_bf16() else "fp32", "cpu", THREADS, True, True)


@dataclass(frozen=True)
class Shape:
    """Size of a GPT with GPT-2's vocabulary."""

    n_layer: int
    n_embd: int
    n_head: int
    context_length: int = 1024
    dropout: float = 0.0
    qkv_bias: bool = True

    def config(self) -> ModelConfig:
        """Our configuration."""
        return ModelConfig(
            family="gpt2",
            vocab_size=VOCABULARY,
            context_length=self.context_length,
            n_layer=self.n_layer,
            n_head=self.n_head,
            n_kv_head=None,
            n_embd=self.n_embd,
            dropout=self.dropout,
            dropout_embedding=None,
            dropout_attention=None,
            qkv_bias=self.qkv_bias,
            tie_head=True,
            init="gpt2",
            attention="sdpa",
            dropout_random="each",
        )

    def book(self) -> nn.Module:
        """The model of the book's package (`pip install --no-deps llms-from-scratch`)."""
        from llms_from_scratch.ch04 import GPTModel

        torch.manual_seed(0)
        config: dict[str, Any] = {
            "vocab_size": VOCABULARY,
            "context_length": self.context_length,
            "emb_dim": self.n_embd,
        }
        config |= {"n_heads": self.n_head, "n_layers": self.n_layer}
        config |= {"drop_rate": self.dropout, "qkv_bias": self.qkv_bias}
        model: nn.Module = GPTModel(config)
        return model

    def transformers(self) -> Any:
        """The model of transformers, with fused attention."""
        from transformers import GPT2Config, GPT2LMHeadModel

        sizes = {"n_layer": self.n_layer, "n_embd": self.n_embd, "n_head": self.n_head}
        config = GPT2Config(n_positions=self.context_length, attn_implementation="sdpa", **sizes)
        config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
        return GPT2LMHeadModel(config)

    def flops_per_token(self, context: int) -> float:
        """FLOPs per token of a training step: 6 x weights of all matrices + 12 x layers x width x context."""
        matrices = 12 * self.n_layer * self.n_embd**2 + VOCABULARY * self.n_embd
        return 6 * matrices + 12 * self.n_layer * self.n_embd * context


SHAPES = {"124M": Shape(12, 768, 12), "13M": Shape(6, 192, 6)}
CHAPTER_5 = Shape(12, 768, 12, context_length=256, dropout=0.1, qkv_bias=False)
CONTEXT = 256
BATCH = {"124M": 4, "13M": 8}
STEPS = {"124M": 6, "13M": 16}  # the first two are not counted
TEXT = Path(__file__).parents[1] / "data/sample/corpus.txt"
Result = dict[str, Any]


class RandomTokens:
    """A data set of windows of random token ids."""

    def __init__(self, count: int) -> None:
        self.ids = torch.randint(VOCABULARY, (count, CONTEXT + 1), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: Any) -> Batch:
        """The windows at `indices`, with the next tokens as targets."""
        rows = self.ids[list(indices)]
        return Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())


class Clock:
    """A reporter that keeps the rate of each step."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.cpu: list[float] = []  # seconds of CPU time since the start, after each step

    def progress(self, _step: int, _steps: int, _loss: float, tokens_per_second: float) -> None:
        """Keep the rate."""
        self.rates.append(tokens_per_second)
        self.cpu.append(time.process_time())

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Keep nothing."""


def train_ours(size: str, compiled: bool) -> Result:
    """Tokens per second of our training loop, and the extra seconds of its first step."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # empty: nothing was compiled before
        return _train_ours(size, compiled)


def _train_ours(size: str, compiled: bool) -> Result:
    set_up_device(BF16)
    torch.manual_seed(0)
    model = GPT(replace(SHAPES[size].config(), attention=device.fastest_attention(BF16, CONTEXT)))
    loss = CompiledNextToken(model, BF16.fused_loss) if compiled else losses.next_token_of(BF16.fused_loss)
    steps, clock = STEPS[size], Clock()
    config = TrainConfig(
        epochs=1,
        batch_size=BATCH[size],
        micro_batch_size=None,
        eval_every=10**9,
        eval_batches=None,
        save_every=None,
        keep="last",
        patience=None,
        lr=1e-4,
        schedule="constant",
        warmup_steps=0,
        warmup_from=0.0,
        decay_to=0.1,
        weight_decay=0.1,
        weight_decay_on="matrices",
        beta2=0.95,
        clip_norm=None,  # like the other implementations
    )
    source = ShuffledBatches(RandomTokens(BATCH[size] * steps), BATCH[size], steps, 0)
    fit(Task(model, loss, source, {}), config, BF16, 0, [Progress(clock)])
    rate, tokens = statistics.median(clock.rates[2:]), BATCH[size] * CONTEXT
    cpu = statistics.median(after - before for before, after in pairwise(clock.cpu[1:]))
    found = {"rate": rate, "cpu_rate": tokens / cpu, "precision": BF16.precision}
    return found | {"first_step": tokens / clock.rates[0] - tokens / rate}


def train_book(size: str) -> Result:
    """Tokens per second of the book's model in the loop of chapter 5: fp32, AdamW with default settings."""
    model = SHAPES[size].book()
    return _train(model, lambda ids, targets: _mean_loss(model(ids), targets), size, torch.optim.AdamW)


def train_transformers(size: str, compiled: bool) -> Result:
    """Tokens per second of transformers' GPT-2 with fused AdamW, in bf16 (autocast) where the CPU has it."""
    model = SHAPES[size].transformers().train()

    def loss(ids: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cpu_has_bf16()):
            return _mean_loss(model(ids).logits, targets)

    loss = torch.compile(loss) if compiled else loss
    return _train(model, loss, size, lambda *a, **k: torch.optim.AdamW(*a, fused=True, **k))


def _mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def _train(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], size: str, adamw: Any) -> Result:
    torch.set_num_threads(THREADS)
    data = RandomTokens(BATCH[size] * STEPS[size])
    optimizer = adamw(model.parameters(), lr=1e-4, weight_decay=0.1)
    rates, cpu_rates = [], []
    for step in range(STEPS[size]):
        batch = data.batch(range(step * BATCH[size], (step + 1) * BATCH[size]))
        begun, used = time.perf_counter(), time.process_time()
        optimizer.zero_grad()
        value = loss(batch.inputs, batch.targets)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        value.item()
        rates.append(batch.inputs.numel() / (time.perf_counter() - begun))
        cpu_rates.append(batch.inputs.numel() / (time.process_time() - used))
    return {"rate": statistics.median(rates[2:]), "cpu_rate": statistics.median(cpu_rates[2:])}


def _prompts(rows: int) -> Tensor:
    return torch.randint(VOCABULARY, (rows, PROMPT_TOKENS), generator=torch.Generator().manual_seed(1))


def decode_ours(rows: int) -> Result:
    """New tokens per second of our greedy decoding."""
    set_up_device(BF16)
    torch.manual_seed(0)
    model = packed_weights.pack_for_decoding(GPT(SHAPES["124M"].config()), BF16, rows)

    def decode(tokens: int) -> None:
        config = greedy(tokens)
        generate(model, _prompts(rows).tolist(), config, stops=())

    return _decode(decode, rows, 100)


def decode_transformers(rows: int) -> Result:
    """The same with transformers' `generate`; weights are in bf16 if the CPU supports it."""
    torch.set_num_threads(THREADS)
    model = SHAPES["124M"].transformers().eval()
    if cpu_has_bf16():
        model = model.to(torch.bfloat16)
    ids = _prompts(rows)

    def decode(tokens: int) -> None:
        fixed = {"min_new_tokens": tokens, "max_new_tokens": tokens, "do_sample": False, "pad_token_id": 50256}
        model.generate(ids, attention_mask=torch.ones_like(ids), **fixed)

    return _decode(decode, rows, 100)


def decode_book(rows: int) -> Result:
    """The same with the book's loop, which runs the model on the whole text for every token."""
    from llms_from_scratch.ch04 import generate_text_simple

    torch.set_num_threads(THREADS)
    model = SHAPES["124M"].book().eval()
    return _decode(lambda tokens: generate_text_simple(model, _prompts(rows), tokens, 1024), rows, 100)


def _decode(decode: Callable[[int], Any], rows: int, tokens: int) -> Result:
    decode(3)
    begun, used = time.perf_counter(), time.process_time()
    decode(tokens)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - used
    return {"rate": rows * tokens / seconds, "cpu_rate": rows * tokens / cpu}


def matmul(precision: str) -> float:
    """GFLOP/s of square matrix products."""
    set_up_device(BF16)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
    return 2 * 2048**3 / _median_seconds(lambda: a @ b) / 1e9


def copy() -> float:
    """GB/s of a large copy; bytes read and bytes written both count."""
    set_up_device(BF16)
    source = torch.ones(2**28, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * source.numel() / _median_seconds(lambda: target.copy_(source)) / 1e9


def _median_seconds(action: Callable[[], Any]) -> float:
    action()
    seconds = []
    for _ in range(20):
        begun = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def tokenize_ours(folder: Path) -> Callable[[list[str]], int]:
    """Our tokenizer, on all cores."""
    tokenizer = Tokenizer.load(folder)
    return lambda texts: sum(map(len, tokenizer.encode_all(texts)))


def tokenize_transformers(folder: Path) -> Callable[[list[str]], int]:
    """transformers' fast tokenizer with the same vocabulary, on all cores."""
    from transformers import GPT2TokenizerFast

    tokenizer = GPT2TokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))
    return lambda texts: sum(map(len, tokenizer(texts)["input_ids"]))


def tokenize(encoder: Callable[[Path], Callable[[list[str]], int]]) -> float:
    """Tokens per second on the documents of the sample's corpus, with GPT-2's vocabulary from LLM_MIRROR."""
    with tempfile.TemporaryDirectory() as name:
        chapter6.write_vocabulary(Path(name))
        encode = encoder(Path(name))
    texts = TEXT.read_text(encoding="utf-8").split("\n\n")
    count = encode(texts)
    return count / _median_seconds(lambda: encode(texts))


WORK: dict[str, dict[str, Callable[[], float | Result]]] = {
    "train-124M": {
        "ours": lambda: train_ours("124M", compiled=False),
        "book": lambda: train_book("124M"),
        "transformers": lambda: train_transformers("124M", compiled=False),
    },
    "train-13M": {
        "ours": lambda: train_ours("13M", compiled=False),
        "book": lambda: train_book("13M"),
        "transformers": lambda: train_transformers("13M", compiled=False),
    },
    "train-124M-compiled": {
        "ours": lambda: train_ours("124M", compiled=True),
        "transformers": lambda: train_transformers("124M", compiled=True),
    },
    "train-13M-compiled": {
        "ours": lambda: train_ours("13M", compiled=True),
        "transformers": lambda: train_transformers("13M", compiled=True),
    },
    "decode-1": {
        "ours": lambda: decode_ours(1),
        "book": lambda: decode_book(1),
        "transformers": lambda: decode_transformers(1),
    },
    "decode-16": {"ours": lambda: decode_ours(16), "transformers": lambda: decode_transformers(16)},
    "tokenize": {
        "ours": lambda: tokenize(tokenize_ours),
        "transformers": lambda: tokenize(tokenize_transformers),
    },
    "chapter-5": {"ours": chapter5.ours, "book": lambda: chapter5.book(CHAPTER_5.book)},
    "chapter-6": {
        "ours": lambda: chapter6.ours(SHAPES["124M"].config(), BF16),
        "whole": lambda: chapter6.ours(SHAPES["124M"].config(), BF16, frozen_prefix=False),
        "book": lambda: chapter6.book(SHAPES["124M"].book()),
    },
    "chapter-6-fp32": {
        "ours": lambda: chapter6.ours(SHAPES["124M"].config(), replace(BF16, precision="fp32")),
        "whole": lambda: chapter6.ours(SHAPES["124M"].config(), replace(BF16, precision="fp32"), frozen_prefix=False),
    },
    "pipeline": {"ours": pipeline.ours},
    "machine": {
        "fp32 matrix product, GFLOP/s": lambda: matmul("fp32"),
        # without instructions for it, a product takes seconds
        **({"bf16 matrix product, GFLOP/s": lambda: matmul("bf16")} if cpu_has_bf16() else {}),
        "copy, GB/s": copy,
    },
}


def main() -> None:
    """Run the benchmark named on the command line."""
    with redirect_stdout(sys.stderr):  # the book's functions print
        found = WORK[sys.argv[1]][sys.argv[2]]()
    result = found if isinstance(found, dict) else {"rate": found}
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 2**10
    print(json.dumps(result | {"peak_mib": peak}))


if __name__ == "__main__":
    main()
