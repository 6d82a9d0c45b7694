"""Model cards: README.md in a model folder, with the block of metadata that the Hugging Face Hub reads.

A card is a part of a stage's output. So nothing in it differs between two rebuilds: no time, no machine, no path
outside the project. It names data by the md5 that DVC knows it by; `llm trace MD5` says where that came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from llm.common import files
from llm.common.params import flat
from llm.data.source import Source
from llm.weights import known

README = "README.md"
UNKNOWN = "unknown"  # the Hub's name of a licence that is not known
INHERITED = ("license", "language", "base_model")
FENCE = "---\n"
NOT_STATED = (
    "not stated. Who publishes them decides, within the licences of the data and of the model that they started from"
)
Task = Literal["text-generation", "text-classification"]

USES = {
    "text-generation": "Learning and experiments: continue texts like those that it was trained on.",
    "text-classification": "Learning and experiments: put messages like those of the data into the classes below.",
}
WEAKNESSES = {
    "text-generation": (
        "It states falsehoods as fluently as facts, and has no safety training. Do not rely on what it writes.",
        "It repeats what is frequent in its data, also prejudices and private details, if there are any.",
        "Texts in other languages, on other subjects or in other forms than its data give poor results.",
    ),
    "text-classification": (
        "Messages of another kind, time or language than the data are classified by chance or with false certainty.",
        "The probabilities are those of this data; where classes are as frequent as elsewhere, they may be too sure.",
        "Do not let it alone decide about people, or delete messages.",
    ),
}


@dataclass(frozen=True)
class Card:
    """What a card tells besides the metadata."""

    name: str  # of the folder
    task: Task
    summary: str
    data: Mapping[str, str]  # inputs of the stage: path and md5
    parameters: Any  # a dataclass or a mapping
    metrics: Mapping[str, Any]  # of the report; lists and texts are left out
    evaluated: str  # the data of the metrics
    source: Source | None = None  # of the raw data
    weaknesses: Sequence[str] = ()  # of this model, besides those of its task


def write(folder: Path, card: Card, facts: Mapping[str, Any]) -> None:
    """Write the card; `facts` are `license`, `language` and `base_model`, where known."""
    files.write_text(folder / README, FENCE + _yaml(_metadata(card, facts)) + FENCE + _text(card, facts))


def read(folder: Path) -> dict[str, Any]:
    """Licence, language and base model in the card of a folder, also one from the Hub; nothing without a card."""
    path = folder / README
    if not path.is_file():
        return {}
    text = path.read_text("utf-8", "replace").replace("\r\n", "\n")
    if not text.startswith(FENCE) or FENCE not in text[len(FENCE) :]:
        return {}
    try:
        found = yaml.safe_load(text[len(FENCE) :].partition(f"\n{FENCE}")[0])
    except (yaml.YAMLError, ValueError):  # ValueError: a date such as 2024-02-30
        return {}
    kept = {key: found[key] for key in INHERITED if key in found} if isinstance(found, Mapping) else {}
    return {key: value for key, value in kept.items() if _is_plain(value)}


def of_weights(path: Path) -> dict[str, Any]:
    """What is known of published weights by their content."""
    origin = known.FILES.get(files.sha256(path)) if path.is_file() else None
    return _facts(origin) if origin else {}


def of_source(source: Source) -> dict[str, Any]:
    """What is known of a model that learned from this source alone: nothing, if the licences differ."""
    found = [_facts(origin) for *_, origin in known.origins(source)]
    return found[0] if found and all(facts == found[0] for facts in found) else {}


def _facts(origin: known.Origin) -> dict[str, Any]:
    return {key: value for key in INHERITED if (value := getattr(origin, key)) is not None}


def _is_plain(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return bool(items) and all(isinstance(item, str) and item.isprintable() for item in items)


def _metadata(card: Card, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The Hub's keys; `model-index` holds the metrics."""
    values = {"license": UNKNOWN} | {key: facts[key] for key in INHERITED if key in facts}
    found: dict[str, Any] = values | {"library_name": "transformers", "pipeline_tag": card.task}
    found["tags"] = ["llm-from-scratch-pipeline", card.name]
    numbers = [(name, value) for name, value, *_ in _measures(card.metrics)]
    if numbers:
        dataset = {"name": card.evaluated, "type": "custom"}
        metrics = [{"type": name, "value": value, "name": name.replace("_", " ")} for name, value in numbers]
        result = {"task": {"type": card.task}, "dataset": dataset, "metrics": metrics}
        found["model-index"] = [{"name": card.name, "results": [result]}]
    return found


def _text(card: Card, facts: Mapping[str, Any]) -> str:
    weaknesses = "\n".join(f"- {line}" for line in (*card.weaknesses, *WEAKNESSES[card.task]))
    values = {key: value for key, value in flat(card.parameters).items() if not key.endswith("save_every")}
    license = facts.get("license", UNKNOWN)
    return f"""# {card.name}
{card.summary}

## Intended use
{USES[card.task]}

## Known weaknesses
{weaknesses}

## Data
{_table(("input", "md5"), card.data.items())}
`llm trace MD5` shows what each was made from.

{_raw_data(card.source) if card.source else ""}{_metrics(card)}## Parameters
```yaml
{_yaml(files.round_floats(values))}```

## Licences
The weights: {license if license != UNKNOWN else NOT_STATED}.
The data: as in the table above; data that is not named there, see its source.
"""


def _raw_data(source: Source) -> str:
    rows = [(name, sha or "", o.title, o.note or o.license or "not known") for name, sha, o in known.origins(source)]
    return _table(("raw data", "sha256", "what it is", "licence"), rows) + "\n"


def _metrics(card: Card) -> str:
    rows = []
    for name, value, low, high in _measures(card.metrics):
        shown = f"{value:,.6g}" if isinstance(value, float) else f"{value:,}"
        rows.append((name.replace("_", " "), shown, "" if low is None else f"{low:.4g} to {high:.4g}"))
    if not rows:
        return ""
    table = _table(("metric", "value", "95 % interval"), rows)
    return f"## Metrics\nOn {card.evaluated}, with 95 % intervals where there are any.\n\n{table}\n"


def _measures(metrics: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any, Any]]:
    """Name, value and interval of each number; the bounds of intervals are no metrics of their own."""
    for name, value in files.round_floats(dict(metrics)).items():
        if isinstance(value, int | float) and not isinstance(value, bool) and "_ci95_" not in name:
            yield name, value, metrics.get(f"{name}_ci95_low"), metrics.get(f"{name}_ci95_high")


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    for row in rows:
        cells = (" ".join(str(cell).replace("|", r"\|").split()) for cell in row)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _yaml(value: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000))
