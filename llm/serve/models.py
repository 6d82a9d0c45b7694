"""The models that a server holds, loaded from their folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llm.common.errors import RESOURCES, USAGE, UserError, collect_errors, raise_all
from llm.common.files import read_json
from llm.data.tokenizer import Tokenizer
from llm.model import packed_weights
from llm.model.classifier import Classifier
from llm.model.config import ModelConfig
from llm.runtime.device import RuntimeConfig
from llm.serve.batch import ROWS, SLOTS
from llm.serve.dialog import Dialog
from llm.serve.engine import PREFILL, Engine, Memory
from llm.weights import classifier_folder, model_folder

SAFE = 0.9  # share of the free memory that a suggested context takes


@dataclass(frozen=True)
class Room:
    """How many requests of one model are decoded together at most, and how many tokens each may have."""

    rows: int
    context: int | None = None  # None: as many as the model can read


@dataclass(frozen=True)
class Language:
    """A language model with its engine."""

    name: str
    config: ModelConfig  # its context_length is that of the requests
    tokenizer: Tokenizer
    dialog: Dialog
    engine: Engine


@dataclass(frozen=True)
class TextClassifier:
    """A classifier of texts."""

    name: str
    model: Classifier
    labels: list[str]
    tokenizer: Tokenizer

    @property
    def limit(self) -> int:
        """The most tokens it reads."""
        return self.model.pad_to or self.model.gpt_config.context_length

    def encode(self, text: str) -> list[int]:
        """Token ids as in training: cut to the limit."""
        return self.tokenizer.encode_prompt(text)[: self.limit] or [self.tokenizer.eot]


@dataclass(frozen=True)
class Models:
    """All models of a server by name."""

    languages: dict[str, Language]
    classifiers: dict[str, TextClassifier]

    @property
    def engines(self) -> list[Engine]:
        return [language.engine for language in self.languages.values()]


def load(
    folders: Sequence[str], runtime: RuntimeConfig, room: Room, observe: Callable[[str, int], None] | None = None
) -> Models:
    """Load language models, with `room` for the requests of each, and classifiers.

    A model is named after its folder. Raises UserError for all folders that cannot be loaded, and if two names agree.
    """
    models, problems, memory = Models({}, {}), list[UserError](), Memory(runtime.device)
    for folder in folders:
        name = Path(folder).resolve().name
        if name in models.languages or name in models.classifiers:
            problems.append(UserError(folder, f"is a second model named {name}", "rename one of the folders", USAGE))
            continue
        with collect_errors(problems):
            if model_folder.is_classifier(read_json(Path(folder) / "config.json")):
                models.classifiers[name] = load_text_classifier(folder, name, runtime)
            else:
                models.languages[name] = load_language(folder, name, runtime, room, memory, observe)
    raise_all(problems)
    return models


def load_language(
    folder: str,
    name: str,
    runtime: RuntimeConfig,
    room: Room,
    memory: Memory | None = None,
    observe: Callable[[str, int], None] | None = None,
) -> Language:
    """Load a language model. Raises UserError if there is no memory for one request of the whole context."""
    tokenizer = model_folder.load_tokenizer(folder)
    model = model_folder.load_model(folder, tokenizer.vocab_size).to(runtime.device)
    model = packed_weights.pack_for_decoding(model, runtime, rows=ROWS)
    most = min(room.context or model.config.context_length, model.config.context_length)
    config = model.config = replace(model.config, context_length=most)
    dialog = Dialog(folder, tokenizer)
    told = None if observe is None else (lambda size: observe(name, size))
    engine = Engine(model, tokenizer.stops, room.rows, told, memory)
    first = engine.prompt_bytes(PREFILL)
    if lacks := engine.lacks(first + engine.owed(most)):
        fits = int(SAFE * engine.memory.free(engine) - first) // engine.owed(1) * SLOTS
        fix = f"give a smaller --context, such as {fits}" if fits > 0 else "free some memory, or take a smaller model"
        raise UserError(folder, f"a request of {most:,} tokens needs {lacks}", fix, RESOURCES)
    return Language(name, config, tokenizer, dialog, engine)


def load_text_classifier(folder: str, name: str, runtime: RuntimeConfig) -> TextClassifier:
    """Load a classifier."""
    model, labels = classifier_folder.load_classifier(folder)
    return TextClassifier(name, model.to(runtime.device).eval(), labels, model_folder.load_tokenizer(folder))
