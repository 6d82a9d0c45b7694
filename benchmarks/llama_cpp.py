"""Compare an exported model under llama.cpp with ours: the same answers, the size of the file, and the speed.

    python -m benchmarks.llama_cpp models/instruct

Needs the extra `llamacpp`. Answers the first 30 test instructions greedily, one at a time, with two threads each.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import urllib.request
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from benchmarks import page, results
from benchmarks.results import Result
from llm.common import files
from llm.data.prompts import frame_of
from llm.data.tokenizer import Tokenizer
from llm.generate.config import DecodingConfig
from llm.generate.decoding import generate
from llm.weights import gguf_export, model_folder

PROMPTS, NEW, THREADS = 30, 48, 2


class LlamaCpp:
    """llama.cpp's server with one model, on a free port of the loopback."""

    def __init__(self, path: Path, context: int) -> None:
        import xllamacpp

        options = xllamacpp.CommonParams()
        options.model.path, options.n_ctx, options.n_parallel = str(path), context, 1
        options.cpuparams.n_threads = options.cpuparams_batch.n_threads = THREADS
        options.warmup, options.verbosity = False, 0
        self.server = xllamacpp.Server(options)
        self.complete([0], 1)  # a server that is destroyed before its loop has begun waits for that loop forever

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The server's JSON answer to a JSON body."""
        address, kind = self.server.listening_address + path, {"Content-Type": "application/json"}
        request = urllib.request.Request(address, json.dumps(body).encode(), kind)
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.loads(response.read())

    def complete(self, ids: list[int], most: int = NEW) -> list[int]:
        """The greedy continuation of the ids, of at most `most` tokens."""
        asked = {"prompt": ids, "n_predict": most, "temperature": 0, "return_tokens": True, "cache_prompt": False}
        tokens: list[int] = self.post("/completion", asked)["tokens"]
        return tokens


def main() -> None:
    """Print a row for our decoding and for each type of GGUF file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    torch.set_num_threads(THREADS)
    tokenizer = Tokenizer.load(folder)
    model = model_folder.load_model(folder, tokenizer.vocab_size)
    frame = frame_of(folder, tokenizer)
    entries = files.read_json("data/instructions/test.json")[:PROMPTS]
    prompts = [tokenizer.encode_segments(frame.prompt(entry, header=True))[0] for entry in entries]
    greedy = DecodingConfig(max_new_tokens=NEW, temperature=0.0, top_k=None, top_p=None)

    def ours(ids: list[int]) -> list[int]:
        return generate(model, [ids], greedy, tokenizer.stops)[0]

    expected, speed = timed(ours, prompts, tokenizer)
    kept: dict[str, list[Result]] = {
        "ours, fp32": [{"bytes": (folder / "model.safetensors").stat().st_size, "rate": speed}]
    }
    with tempfile.TemporaryDirectory() as work:
        for kind in ("f32", "f16", "q8_0"):
            path = Path(work) / f"{kind}.gguf"
            gguf_export.export(folder, path, kind)
            context = min(model.config.context_length, max(map(len, prompts)) + NEW)
            found, speed = timed(LlamaCpp(path, context).complete, prompts, tokenizer)
            differ = [n for n, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b]
            same = f"{len(prompts) - len(differ)} of {len(prompts)}"
            kept[f"llama.cpp, {kind}"] = [{"bytes": path.stat().st_size, "same": same, "rate": speed}]
            for n in differ[:3]:
                pairs = zip_longest(found[n], expected[n])
                at = next(i for i, (first, second) in enumerate(pairs) if first != second)
                print(f"{kind}, prompt {n}: first different token at {at}: {tokenizer.decode(found[n][at : at + 1])!r}")
    results.keep("llama.cpp", kept)
    print(page.write())


def timed(answer: Any, prompts: list[list[int]], tokenizer: Tokenizer) -> tuple[list[list[int]], float]:
    """The new tokens of each prompt without those that end it, and how many came in a second."""
    answer(prompts[0])
    start, texts = time.perf_counter(), []
    for ids in prompts:
        texts.append([token for token in answer(ids) if token not in tokenizer.stops])
    return texts, sum(len(text) + 1 for text in texts) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
