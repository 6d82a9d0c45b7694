"""Compare the sample's model with a bag of words on texts whose word order counts: `python -m benchmarks.your_data`.

The texts are those of docs/your-data.md. The classifier starts from models/gpt2-sample (run `dvc repro` before), with
the parameters of params.yaml but for `EPOCHS`, in a copy of the project. The bag of words is a logistic regression of
word counts. The sample's own spam classifier is trained in the same way, to compare the CPU time.
"""

from __future__ import annotations

import csv
import io
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from benchmarks.machine import describe
from llm.book import runs
from llm.common import files, profiles
from llm.evaluate.stats import wilson
from stages.schema import AllParams

ROOT = Path(__file__).parents[1]
NEEDED = ("models/gpt2-sample", "data/tokenizer")
DATA = ("reviews.csv", "sentiment.jsonl")
EPOCHS = 5  # as many as fit into the CPU time of the sample


def main() -> None:
    """Print one row of the table for each file."""
    print(describe(), file=sys.stderr)
    with tempfile.TemporaryDirectory() as parent:
        project = copy(Path(parent), {})
        shutil.copytree(ROOT / "data/spam", project / "data/spam")
        sample = train(project)
    print(f"The sample's own classifier: {sample:.0f} CPU seconds.\n")
    print("| file | classes | test texts | fine-tuned | bag of words | CPU seconds, against the sample's |")
    print("| --- | ---: | ---: | --- | --- | ---: |")
    for name in DATA:
        with tempfile.TemporaryDirectory() as parent:
            print(row(name, Path(parent), sample), flush=True)


def row(name: str, parent: Path, sample: float) -> str:
    """Fine-tune on the file in a copy of the project, and compare."""
    changes = {"download": {"spam": {"source": f"mine/{name}"}}, "finetune_spam": {"epochs": EPOCHS}}
    project = copy(parent, changes)
    python(project, "-m", "stages.download", "spam")
    python(project, "-m", "stages.tokenize_spam")
    seconds = train(project)
    model = files.read_json(project / "reports/finetune_spam/metrics.json")
    first, test = (split(project / f"data/spam/{part}.csv") for part in ("train", "test"))
    n = len(test[0])
    tuned = share(round(model["test_accuracy"] * n), n)
    words = share(bag_of_words(first, test), n)
    return f"| {name} | {len(set(first[1]))} | {n} | {tuned} | {words} | {seconds / sample:.2f} |"


def copy(project: Path, changes: dict[str, Any]) -> Path:
    """A copy of the project with the sample's model, the texts of docs/your-data.md, and `changes` in params.yaml."""
    runs.copy_project(ROOT, project)
    for folder in NEEDED:
        shutil.copytree(ROOT / folder, project / folder)
    python(project, "-m", "data.sample.your_data", "mine")
    profiles.apply([{"tracking": {"enabled": False}}, changes], AllParams, project / "params.yaml")
    return project


def train(project: Path) -> float:
    """Run finetune_spam; return its CPU seconds, which other work on the machine hardly changes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    python(project, "-m", "stages.finetune_spam")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def bag_of_words(train: tuple[list[str], list[str]], test: tuple[list[str], list[str]]) -> int:
    """How many test texts a logistic regression of word counts classifies correctly; (texts, labels) each."""
    model = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=1000)).fit(*train)
    return sum(a == b for a, b in zip(model.predict(test[0]), test[1], strict=True))


def share(hits: int, n: int) -> str:
    """An accuracy with its 95 % interval."""
    low, high = wilson(hits, n)
    return f"{hits / n:.1%} ({low:.1%} to {high:.1%})"


def split(path: Path) -> tuple[list[str], list[str]]:
    """Texts and labels of a split."""
    rows = list(csv.DictReader(io.StringIO(files.read_bytes(path).decode())))
    return [row["Text"] for row in rows], [row["Label"] for row in rows]


def python(project: Path, *words: str) -> None:
    """Run Python in the project."""
    subprocess.run(
        [sys.executable, *words], cwd=project, check=True, env=runs.with_python(), stdout=sys.stderr, text=True
    )


if __name__ == "__main__":
    main()
