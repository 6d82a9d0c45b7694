"""Read the keys of a published `config.json`, and collect every problem."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from llm.common.errors import DATA, UserError, raise_all
from llm.model.config import INITS, ModelConfig

FIX = "use the config.json that belongs to the weights"
SIZE = "a whole number above 0"
HUGE = 1e18  # no setting of a model is near it; torch refuses whole numbers of more than 64 bits


class Keys:
    """The keys of a `config.json`. Readers return the value even if it is wrong, and add to `problems`."""

    def __init__(self, published: Mapping[str, Any], where: str) -> None:
        self.published, self.where = published, where
        self.problems: list[UserError] = []

    def report(self, what: str, fix: str = FIX) -> None:
        self.problems.append(UserError(self.where, what, fix, DATA))

    def only(self, supported: Mapping[str, tuple[Any, ...]]) -> None:
        """Report each key whose value is not one of those supported; a missing key has the first of them."""
        for key, values in supported.items():
            if (value := self.published.get(key, values[0])) not in values:
                allowed = " and ".join(map(repr, values))
                what = f"{key} is {value!r}, only {allowed} {'is' if len(values) == 1 else 'are'} supported"
                self.report(what, "use another checkpoint of the family")

    def read(self, key: str, kind: str, valid: Callable[[Any], bool], default: Any = None) -> Any:
        """The value of `key`; `kind` says in words what `valid` accepts."""
        value = self.published.get(key, default)
        if not valid(value):
            self.report(f"{key} is {value!r:.60}, not {kind}")
        return value

    def size(self, key: str, default: Any = None) -> Any:
        return self.read(key, SIZE, is_size, default)

    def size_or_none(self, key: str, default: Any = None) -> Any:
        """A whole number above 0; the default if the key is missing or null."""
        return default if self.published.get(key) is None else self.size(key)

    def flag(self, key: str, default: bool) -> Any:
        return self.read(key, "true or false", lambda value: type(value) is bool, default)

    def number(self, key: str, default: Any) -> Any:
        return self.read(key, "a number", lambda value: type(value) in (int, float), default)

    def positive(self, key: str, default: Any) -> Any:
        """A number above 0 that torch can compute with."""
        kind = f"a number above 0 and below {HUGE:g}"
        return self.read(key, kind, lambda value: type(value) in (int, float) and 0 < value < HUGE, default)

    def shape(self, names: Mapping[str, str], tie_head: bool) -> dict[str, Any]:
        """The settings that all families have, under our names; `tie_head` is what a missing key means."""
        sizes = ("vocab_size", "context_length", "n_layer", "n_head", "n_embd")
        found = {ours: self.size(names.get(ours, ours)) for ours in sizes}
        found["dropout"] = rate = self.number(names["dropout"], 0.0)
        for ours in ("dropout_embedding", "dropout_attention"):
            found[ours] = unless(rate, self.number(names[ours], rate))
        found["init"] = self.read("init", "one of gpt2, torch, width", lambda value: value in INITS, "gpt2")
        found["tie_head"] = self.flag("tie_word_embeddings", tie_head)
        return found | {"attention": "sdpa", "dropout_random": "each"}

    def config(self, make: Callable[[], ModelConfig], names: Mapping[str, str]) -> ModelConfig:
        """The config, if no problem was found; raises UserError with all problems.

        `names` are as in `published_keys`.
        """
        raise_all(self.problems)
        config = make()
        for name, what, fix in config.problems():
            self.report(published_keys(f"{name}: {what}", names), published_keys(fix, names))
        raise_all(self.problems)
        return config


def published_keys(text: str, names: Mapping[str, str]) -> str:
    """A message with the keys of a config.json instead of ours; `names` has theirs by ours."""
    return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), text)


def is_size(value: Any) -> bool:
    """Whether a value is a whole number above 0."""
    return type(value) is int and value > 0


def unless(default: Any, value: Any) -> Any:
    """`value`, or None if it is the default: configs are then equal no matter whether a default is written out."""
    return None if value == default else value
