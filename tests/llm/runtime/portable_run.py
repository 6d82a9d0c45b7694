"""Train, classify, decode and judge at tiny size, and print the hash of every result as JSON: [KERNELS].

Run as a program, with the pinned variables set. The first line of output is the whole of it.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

import torch
from torch import Tensor

from llm.data.batches import IGNORED, Batch, ConcatBatches, SequentialBatches, ShuffledBatches
from llm.data.spam_dataset import SpamDataset
from llm.data.tokenizer import Tokenizer, train
from llm.evaluate.accuracy import predict
from llm.evaluate.reference_score import reference_score
from llm.generate.config import DecodingConfig, greedy
from llm.generate.decoding import generate
from llm.model import lora
from llm.model.classifier import Classifier, freeze
from llm.model.gpt import GPT
from llm.model.trainable import LoraConfig
from llm.runtime.device import RuntimeConfig, set_up_device
from llm.train import frozen_blocks, losses
from llm.train.loop import evaluation_batches, fit
from llm.train.task import Task
from tests.llm.tiny_run import MODEL, TRAIN

TEXT = "Every effort moves you. The opposite of hot is cold, and the plural of mouse is mice.\n" * 3
SHAPE = replace(MODEL, vocab_size=300, context_length=40, n_embd=24, n_head=3, dropout=0.1)
SETTINGS = replace(TRAIN, batch_size=5, eval_every=4, save_every=None, lr=0.003)


class Windows:
    """Windows of random tokens; a few targets do not count."""

    def __init__(self, n: int, length: int) -> None:
        self.ids = torch.randint(300, (n, length + 1), generator=torch.Generator().manual_seed(length))

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: Sequence[int]) -> Batch:
        rows = self.ids[list(indices)]
        targets = rows[:, 1:].clone()
        targets[:, ::7] = IGNORED
        return Batch(rows[:, :-1].contiguous(), targets)


def bits(*tensors: Tensor) -> str:
    return hashlib.sha256(b"".join(t.detach().contiguous().numpy().tobytes() for t in tensors)).hexdigest()


def text(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def main(kernels: str = "portable") -> None:
    runtime = RuntimeConfig("fp32", "cpu", 1, False, False, kernels)  # type: ignore[arg-type]
    set_up_device(runtime)
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        train([TEXT], 300, Path(folder))
        tokenizer = Tokenizer.load(folder)
        messages = [TEXT[i : i + 3 * i + 4] for i in range(12)]
        spam = SpamDataset([i % 2 for i in range(12)], messages, tokenizer, SHAPE.context_length)
        models = {}
        for attention in ("sdpa", "eager"):
            torch.manual_seed(1)
            gpt = models[attention] = GPT(replace(SHAPE, attention=attention))  # type: ignore[arg-type]
            short, long = Windows(20, 17), Windows(20, 33)
            source = ConcatBatches(ShuffledBatches(short, 5, 4, 1), ShuffledBatches(long, 5, 4, 2))
            task = Task(gpt, losses.next_token, source, evaluation_batches(long, short, SETTINGS))
            history = fit(task, SETTINGS, runtime, 3)
            found |= {f"{attention} weights": bits(*gpt.parameters()), f"{attention} curve": text(history.rows)}
        gpt = models["sdpa"].eval()
        prompts = [tokenizer.encode(text) for text in ("The opposite of hot is", "Every", "you. The")]
        sampled = DecodingConfig(12, temperature=0.7, top_k=40, top_p=0.9)
        ids = [generate(gpt, prompts, config, tokenizer.stops) for config in (greedy(12), sampled)]
        answers = [tokenizer.decode(row) for row in ids[0]]
        entry = {"instruction": "The opposite of hot is", "input": "", "output": " ".join(answers[1:])}
        scores = [reference_score(entry | {"model_response": answer}) for answer in answers]
        found |= {"greedy": text(ids[0]), "sampled": text(ids[1]), "scores": text(scores)}
        found["logits"] = bits(gpt(torch.tensor([range(40)])))
        classifier = Classifier(gpt, 2, "last_token")
        freeze(classifier, "last_block")
        states = frozen_blocks.compute(classifier, 1, spam, runtime, Path(folder))
        upper = frozen_blocks.UpperBlocks(classifier, 1)
        evaluations = evaluation_batches(states, states, SETTINGS)
        task = Task(upper, losses.classification, ShuffledBatches(states, 4, 6, 1), evaluations)
        history = fit(task, SETTINGS, runtime, 3)
        logits = predict(upper, SequentialBatches(states, 5), runtime)
        found |= {"spam curve": text(history.rows), "predictions": bits(logits, logits.softmax(dim=-1))}
        adapted = models["eager"]
        lora.add_lora(adapted, LoraConfig(2, 4.0, "alpha/rank"), 1)
        task = Task(adapted, losses.next_token, ShuffledBatches(short, 5, 4, 1), {})
        fit(task, replace(SETTINGS, micro_batch_size=2, batch_size=4, eval_every=100, keep="last"), runtime, 3)
        found |= {"adapter": bits(*(t for n, t in adapted.named_parameters() if "lora" in n))}
        found["merged"] = bits(*lora.merge_lora(adapted).values(), *adapted.parameters())
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
