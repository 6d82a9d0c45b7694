"""Compare the sample results with simple baselines, over three split seeds: `python -m benchmarks.sample`.

Writes docs/sample-results.md. For each split seed, the pipeline runs in a copy of the project, once from the pretrained
model and once from random weights. The copies share this project's DVC cache, so pretraining runs only once.
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

from benchmarks.machine import describe
from llm.book import runs
from llm.cli.repro import chapters
from llm.common import files, params, profiles
from llm.data.batches import SequentialBatches
from llm.data.corpus import read_shard
from llm.data.corpus_dataset import TokenWindows
from llm.data.prompts import ALPACA, RESPONSE, format_prompt
from llm.data.tokenizer import Tokenizer
from llm.evaluate.reference_score import reference_score
from llm.generate.config import greedy
from llm.generate.decoding import generate
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
The tables below give the mean and the sample standard deviation over the split seeds {seeds}. Message patterns and
facts of the test splits do not occur in the training splits. The README shows the results of the committed sample. It
has split seed 0, and its validation loss is over `pretrain.eval_batches` batches only.
"""
Figures = dict[str, list[float]]


def main() -> None:
    """Measure everything and write the page."""
    figures: Figures = defaultdict(list)
    with tempfile.TemporaryDirectory() as parent:
        for seed in SPLIT_SEEDS:
            project = copy_project(Path(parent) / f"split-{seed}", seed)
            dvc(project, "repro", "-q", *chapters())
            if seed == SPLIT_SEEDS[0]:
                pretraining = measure_pretraining(project)
            measure_spam(project, figures)
            measure_instructions(project, figures)
            profiles.apply(
                [{"finetune_spam": {"weights": "random"}, "finetune_instruct": {"weights": "random"}}],
                AllParams,
                project / "params.yaml",
            )
            dvc(project, "repro", "-q", *chapters())
            figures["spam: fine-tuned from random weights"].append(metrics(project, "finetune_spam")["test_accuracy"])
            figures["judge: fine-tuned from random weights"].append(judge_score(project))
            print(f"split seed {seed}: done", file=sys.stderr)
    files.write_text(OUT, "\n".join(table(pretraining, figures)) + "\n")
    print(OUT.read_text(encoding="utf-8"))


def copy_project(folder: Path, split_seed: int) -> Path:
    """Copy the project, with the sample of `split_seed` and this project's DVC cache."""
    runs.copy_project(ROOT, folder, "dvc.lock")
    make = [sys.executable, "data/sample/make.py", "--out", "data/sample", "--split-seed", str(split_seed)]
    subprocess.run(make, cwd=folder, check=True)
    for words in (["config", "--local", "core.no_scm", "true"], ["cache", "dir", "--local", str(ROOT / ".dvc/cache")]):
        dvc(folder, *words)
    profiles.apply([{"tracking": {"enabled": False}}], AllParams, folder / "params.yaml")
    return folder


def dvc(project: Path, *words: str) -> None:
    """Run DVC in `project`."""
    subprocess.run([sys.executable, "-m", "dvc", *words], cwd=project, check=True, env=runs.with_python())


def measure_pretraining(project: Path) -> dict[str, float]:
    """Validation loss of the model and of a trigram model, and the share of facts that the model knows."""
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
    """Add the test accuracies of the model and of the baselines."""
    spam = metrics(project, "finetune_spam")
    figures["spam: fine-tuned from the pretrained model"].append(spam["test_accuracy"])
    data = {split: read_csv(project / f"data/spam/{split}.csv") for split in ("train", "test")}
    words = make_pipeline(CountVectorizer(token_pattern=r"\S+"), LogisticRegression(max_iter=1000))
    words.fit(*reversed(data["train"]))
    figures["spam: bag of words, logistic regression"].append(words.score(*reversed(data["test"])))
    figures["spam: best single word, chosen on the training split"].append(single_word(data["train"], data["test"]))
    figures["spam: best single word, chosen on the test split itself"].append(single_word(data["test"], data["test"]))


def measure_instructions(project: Path, figures: Figures) -> None:
    """Add the reference scores of the model and of the baselines."""
    figures["judge: fine-tuned from the pretrained model"].append(judge_score(project))
    train, test = (files.read_json(project / f"data/instructions/{split}.json") for split in ("train", "test"))
    model, tokenizer = load(project / "models/pretrain")
    figures["judge: the pretrained model before fine-tuning"].append(score(test, respond(model, tokenizer, test)))
    prompts = [format_prompt(entry) for entry in train]
    nearest = [process.extractOne(format_prompt(entry), prompts, scorer=fuzz.ratio)[2] for entry in test]
    figures["judge: answer of the nearest training prompt"].append(score(test, [train[i]["output"] for i in nearest]))
    shuffled = [entry["output"] for entry in test]
    random.Random(0).shuffle(shuffled)
    figures["judge: shuffled reference answers"].append(score(test, shuffled))
    figures["judge: the prompt itself"].append(score(test, [f"{e['instruction']} {e['input']}" for e in test]))


def trigram_loss(train: Sequence[int], val: Sequence[int], vocab_size: int) -> float:
    """Nats per token of an interpolated trigram model, Witten-Bell smoothing (Chen and Goodman 1999, section 2.5)."""
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
    """Whether the greedy continuation of the prompt is the answer."""
    prompt, answer = tokenizer.encode(probe["prompt"]), tokenizer.encode(probe["answer"])
    decoding = greedy(len(answer))
    return generate(model, [prompt], decoding, stops=())[0] == answer


def single_word(chosen_on: tuple[list[int], list[str]], measured_on: tuple[list[int], list[str]]) -> float:
    """Accuracy of the rule "one class if the word occurs, another if not", with the best word of `chosen_on`.

    Of the messages of `chosen_on` with the word, the first class is the most frequent one, and the second without it.
    """

    def word_sets(data: tuple[list[int], list[str]]) -> list[tuple[int, set[str]]]:
        return [
            (label, set(re.findall(r"\w+|[^\w\s]", text.lower())) | set(text.split()))
            for label, text in zip(*data, strict=True)
        ]

    chosen, measured = word_sets(chosen_on), word_sets(measured_on)
    everything = Counter(label for label, _ in chosen)
    having: dict[str, Counter[int]] = defaultdict(Counter)
    for label, words in chosen:
        for word in words:
            having[word][label] += 1

    def hits(word: str) -> int:
        return max(having[word].values()) + max((everything - having[word]).values(), default=0)

    best = max(sorted(having), key=hits)
    with_it = having[best].most_common(1)[0][0]
    without_it = (everything - having[best] or everything).most_common(1)[0][0]
    return sum((with_it if best in words else without_it) == label for label, words in measured) / len(measured)


def respond(model: GPT, tokenizer: Tokenizer, entries: Sequence[dict[str, str]]) -> list[str]:
    """Greedy answers to the entries."""
    prompts = tokenizer.encode_all([format_prompt(entry) + RESPONSE for entry in entries])
    room = [min(64, model.config.context_length - len(prompt)) for prompt in prompts]
    decoding = greedy(64)
    return [
        ALPACA.extract_answer(tokenizer.decode(ids))
        for ids in generate(model, prompts, decoding, tokenizer.stops, limits=room)
    ]


def score(entries: Sequence[dict[str, str]], answers: Sequence[str]) -> float:
    """Mean reference score of the answers."""
    pairs = zip(entries, answers, strict=True)
    return statistics.fmean(reference_score({**entry, "model_response": answer}) for entry, answer in pairs)


def load(folder: Path) -> tuple[GPT, Tokenizer]:
    """A model and its tokenizer."""
    return model_folder.load_model(folder), model_folder.load_tokenizer(folder)


def metrics(project: Path, stage: str) -> dict[str, Any]:
    """The metrics report of a stage."""
    return dict(files.read_json(project / "reports" / stage / "metrics.json"))


def judge_score(project: Path) -> float:
    """The judge's mean score."""
    return float(metrics(project, "evaluate_with_judge")["score_mean"])


def read_csv(path: Path) -> tuple[list[int], list[str]]:
    """Labels and messages of a split."""
    rows = list(csv.DictReader(io.StringIO(files.read_bytes(path).decode())))
    return [int(row["Label"]) for row in rows], [row["Text"] for row in rows]


def table(pretraining: dict[str, float], figures: Figures) -> list[str]:
    """The lines of the Markdown page."""
    known = f"{pretraining['facts']:.1%} of {pretraining['n_facts']:.0f}"
    runtime = params.read(AllParams, ROOT / "params.yaml").runtime
    measured = f"Measured on {describe()}, in {runtime.precision} with {runtime.kernels} kernels."
    lines = ["# Sample results against simple baselines", ""]
    lines += ["Written by `python -m benchmarks.sample`.", measured, ""]
    lines += ["| pretraining | |", "| --- | ---: |"]
    lines += [f"| validation loss over all windows, nats per token | {pretraining['loss']:.3f} |"]
    lines += [f"| validation loss of a trigram model (Witten-Bell) on the same tokens | {pretraining['trigram']:.3f} |"]
    lines += [f"| facts of the sample that the model knows (greedy) | {known} |", ""]
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
