"""The sample's figures beside cheap baselines, over three seeds of the split -> docs/sample-results.md.

`python -m benchmarks.sample` runs the pipeline in copies of the project, once a split seed and once more with random
weights. They share this project's DVC cache, so the pretraining that all have in common is not done again.
"""

from __future__ import annotations

import csv
import io
import json
import math
import random
import re
import statistics
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rapidfuzz import fuzz, process
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from llm.book import runs
from llm.common import files, params, profiles
from llm.data.batches import SequentialBatches
from llm.data.corpus import read_shard
from llm.data.corpus_dataset import TokenWindows
from llm.data.prompts import RESPONSE, extract_answer, format_prompt
from llm.data.tokenizer import Tokenizer
from llm.evaluate.reference_score import reference_score
from llm.generate.decoding import generate, greedy
from llm.model.gpt import GPT
from llm.runtime.device import set_up_device
from llm.train import losses
from llm.train.loop import evaluate
from llm.weights import model_folder
from stages.schema import AllParams

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "sample-results.md"
SPLIT_SEEDS = (1, 2, 3)
NOTE = """\
Mean and sample standard deviation over split seeds {seeds}. Test patterns of the spam data and test facts
of the instructions do not occur in their training data. The README shows the committed sample, which is split
seed 0, and the validation loss of `pretrain.eval_batches` batches.
"""
Figures = dict[str, list[float]]


def main() -> None:
    """Measure all and write the table."""
    figures: Figures = defaultdict(list)
    with tempfile.TemporaryDirectory() as parent:
        for seed in SPLIT_SEEDS:
            project = copy_project(Path(parent) / f"split-{seed}", seed)
            dvc(project, "repro", "-q")
            if seed == SPLIT_SEEDS[0]:
                pretraining = measure_pretraining(project)
            measure_spam(project, figures)
            measure_instructions(project, figures)
            profiles.apply(
                [{"finetune_spam": {"weights": "random"}, "finetune_instruct": {"weights": "random"}}],
                AllParams,
                project / "params.yaml",
            )
            dvc(project, "repro", "-q")
            figures["spam: fine-tuned from random weights"].append(metrics(project, "finetune_spam")["test_accuracy"])
            figures["judge: fine-tuned from random weights"].append(judge_score(project))
            print(f"split seed {seed}: done", file=sys.stderr)
    files.write_text(OUT, "\n".join(table(pretraining, figures)) + "\n")
    print(OUT.read_text(encoding="utf-8"))


def copy_project(folder: Path, split_seed: int) -> Path:
    """A copy of the project whose sample is split with `split_seed`, on this project's cache."""
    runs.copy_project(ROOT, folder, "dvc.lock")
    make = [sys.executable, "data/sample/make.py", "--out", "data/sample", "--split-seed", str(split_seed)]
    subprocess.run(make, cwd=folder, check=True)
    for words in (["config", "--local", "core.no_scm", "true"], ["cache", "dir", "--local", str(ROOT / ".dvc/cache")]):
        dvc(folder, *words)
    profiles.apply([{"tracking": {"enabled": False}}], AllParams, folder / "params.yaml")
    return folder


def dvc(project: Path, *words: str) -> None:
    """Run DVC there."""
    subprocess.run([sys.executable, "-m", "dvc", *words], cwd=project, check=True, env=runs.with_python())


def measure_pretraining(project: Path) -> dict[str, float]:
    """Validation loss against a trigram model on the same tokens, and the share of the world's facts known."""
    config = params.read(AllParams, project / "params.yaml")
    set_up_device(config.runtime)
    model, tokenizer = load(project / "models/pretrain")
    size, context = model.config.vocab_size, config.pretrain.context
    val = TokenWindows(project / "data/corpus", "val", context, context, size)
    ids = {
        split: [
            int(i) for path in sorted((project / "data/corpus").glob(f"{split}-*")) for i in read_shard(path, size)[0]
        ]
        for split in ("train", "val")
    }
    probes = json.loads((project / "data/sample/facts.json").read_text(encoding="utf-8"))
    known = sum(knows(model, tokenizer, probe) for probe in probes)
    return {
        "loss": evaluate(model, losses.next_token, SequentialBatches(val, 64), config.runtime)["loss"],
        "trigram": trigram_loss(ids["train"], ids["val"], size),
        "facts": known / len(probes),
        "n_facts": len(probes),
    }


def measure_spam(project: Path, figures: Figures) -> None:
    """Test accuracy of the model, of a bag of words and of the best single word."""
    spam = metrics(project, "finetune_spam")
    figures["spam: fine-tuned from the pretrained model"].append(spam["test_accuracy"])
    data = {split: read_csv(project / f"data/spam/{split}.csv") for split in ("train", "test")}
    words = make_pipeline(CountVectorizer(token_pattern=r"\S+"), LogisticRegression(max_iter=1000))
    words.fit(*reversed(data["train"]))
    figures["spam: bag of words, logistic regression"].append(words.score(*reversed(data["test"])))
    figures["spam: best single word, chosen on training"].append(single_word(data["train"], data["test"]))
    figures["spam: best single word, chosen on the test itself"].append(single_word(data["test"], data["test"]))


def measure_instructions(project: Path, figures: Figures) -> None:
    """Reference score of the model, and of what costs nothing."""
    figures["judge: fine-tuned from the pretrained model"].append(judge_score(project))
    train, test = (files.read_json(project / f"data/instructions/{split}.json") for split in ("train", "test"))
    model, tokenizer = load(project / "models/pretrain")
    figures["judge: the pretrained model before fine-tuning"].append(score(test, respond(model, tokenizer, test)))
    prompts = [format_prompt(entry) for entry in train]
    nearest = [process.extractOne(format_prompt(entry), prompts, scorer=fuzz.ratio)[2] for entry in test]
    figures["judge: the nearest training prompt's answer"].append(score(test, [train[i]["output"] for i in nearest]))
    shuffled = [entry["output"] for entry in test]
    random.Random(0).shuffle(shuffled)
    figures["judge: answers shuffled among the entries"].append(score(test, shuffled))
    figures["judge: an echo of the prompt"].append(score(test, [f"{e['instruction']} {e['input']}" for e in test]))


def trigram_loss(train: Sequence[int], val: Sequence[int], vocab_size: int) -> float:
    """Nats per token of an interpolated trigram model with Witten-Bell weights (Chen and Goodman 1999, section 2.5)."""
    counts: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(3)]
    contexts: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(3)]
    followers: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(3)]
    for n in range(3):
        for gram in zip(*(train[i:] for i in range(n + 1)), strict=False):
            followers[n][gram[:-1]] += gram not in counts[n]
            counts[n][gram] += 1
            contexts[n][gram[:-1]] += 1

    def probability(gram: tuple[int, ...]) -> float:
        if not gram:
            return 1 / vocab_size
        n, context = len(gram) - 1, gram[:-1]
        lower = probability(gram[1:])
        seen, kinds = contexts[n][context], followers[n][context]
        return (counts[n][gram] + kinds * lower) / (seen + kinds) if seen else lower

    grams = list(zip(val, val[1:], val[2:], strict=False))
    return -sum(math.log(probability(gram)) for gram in grams) / len(grams)


def knows(model: GPT, tokenizer: Tokenizer, probe: dict[str, str]) -> bool:
    """Whether the likeliest continuation of the prompt is the answer."""
    prompt, answer = tokenizer.encode(probe["prompt"]), tokenizer.encode(probe["answer"])
    decoding = greedy(len(answer))
    return generate(model, [prompt], decoding, stop=None)[0] == answer


def single_word(chosen_on: tuple[list[int], list[str]], measured_on: tuple[list[int], list[str]]) -> float:
    """Accuracy of the rule "spam if, or if not, it holds this word", with the best word of `chosen_on`."""

    def holding(data: tuple[list[int], list[str]]) -> list[tuple[int, set[str]]]:
        return [
            (label, set(re.findall(r"\w+|[^\w\s]", text.lower())) | set(text.split()))
            for label, text in zip(*data, strict=True)
        ]

    def accuracy(data: list[tuple[int, set[str]]], word: str) -> float:
        return sum((word in words) == label for label, words in data) / len(data)

    chosen, measured = holding(chosen_on), holding(measured_on)
    rules = {word: accuracy(chosen, word) for word in sorted(set().union(*(words for _, words in chosen)))}
    best = max(rules, key=lambda word: max(rules[word], 1 - rules[word]))
    hit = accuracy(measured, best)
    return hit if rules[best] >= 0.5 else 1 - hit


def respond(model: GPT, tokenizer: Tokenizer, entries: Sequence[dict[str, str]]) -> list[str]:
    """Greedy answers."""
    prompts = tokenizer.encode_all([format_prompt(entry) + RESPONSE for entry in entries])
    room = [min(64, model.config.context_length - len(prompt)) for prompt in prompts]
    decoding = greedy(64)
    return [
        extract_answer(tokenizer.decode(ids)) for ids in generate(model, prompts, decoding, tokenizer.eot, limits=room)
    ]


def score(entries: Sequence[dict[str, str]], answers: Sequence[str]) -> float:
    """Mean reference score of these answers."""
    pairs = zip(entries, answers, strict=True)
    return statistics.fmean(reference_score({**entry, "model_response": answer}) for entry, answer in pairs)


def load(folder: Path) -> tuple[GPT, Tokenizer]:
    """A model with its tokenizer."""
    return model_folder.load_model(folder), model_folder.load_tokenizer(folder)


def metrics(project: Path, stage: str) -> dict[str, Any]:
    """A stage's metrics there."""
    return dict(files.read_json(project / "reports" / stage / "metrics.json"))


def judge_score(project: Path) -> float:
    """The judge's mean score there."""
    return float(metrics(project, "evaluate_with_judge")["score_mean"])


def read_csv(path: Path) -> tuple[list[int], list[str]]:
    """Classes and messages of a split."""
    rows = list(csv.DictReader(io.StringIO(files.read_bytes(path).decode())))
    return [int(row["Label"]) for row in rows], [row["Text"] for row in rows]


def table(pretraining: dict[str, float], figures: Figures) -> list[str]:
    """The page as Markdown lines."""
    known = f"{pretraining['facts']:.1%} of {pretraining['n_facts']:.0f}"
    lines = ["# What the sample's figures are worth", ""]
    lines += ["Made by `python -m benchmarks.sample`; nothing here is written by hand.", ""]
    lines += ["| pretraining | |", "| --- | ---: |"]
    lines += [f"| validation loss, nats per token, over all windows | {pretraining['loss']:.3f} |"]
    lines += [f"| the same of a trigram model (Witten-Bell) on the same tokens | {pretraining['trigram']:.3f} |"]
    lines += [f"| facts of the sample world known (greedy) | {known} |", ""]
    seeds = ", ".join(str(seed) for seed in SPLIT_SEEDS)
    lines += [*NOTE.format(seeds=seeds).splitlines(), ""]
    for prefix, name, scale in (
        ("spam: ", "spam, test accuracy in %", 100),
        ("judge: ", "instructions, reference score", 1),
    ):
        lines += [f"| {name} | mean | spread | each |", "| --- | ---: | ---: | --- |"]
        for key, values in figures.items():
            if key.startswith(prefix):
                scaled = [value * scale for value in values]
                each = ", ".join(f"{value:.1f}" for value in scaled)
                mean, spread = statistics.fmean(scaled), statistics.stdev(scaled)
                lines += [f"| {key.removeprefix(prefix)} | {mean:.1f} | {spread:.1f} | {each} |"]
        lines += [""]
    return lines[:-1]


if __name__ == "__main__":
    main()
