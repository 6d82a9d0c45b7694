"""The splits in data/preferences, encoded for a model."""

from __future__ import annotations

from dataclasses import dataclass

from llm.common.errors import UserError, collect_errors, raise_all
from llm.data.prompts import Frame
from llm.data.tokenizer import Tokenizer
from llm.preference.dataset import PreferenceDataset
from llm.preference.pairs import PREFERENCES, SPLITS, UNSEEN, Pair, read_pairs


@dataclass(frozen=True)
class Split:
    """The pairs of a split, and the same encoded."""

    pairs: list[Pair]
    data: PreferenceDataset


def read_splits(tokenizer: Tokenizer, limit: int, frame: Frame, most: int | None = None) -> dict[str, Split]:
    """Read train, of which `most` limits the pairs, test and validation, and `unseen` if it is there.

    Raises UserError with the problems of all splits.
    """
    problems: list[UserError] = []
    splits: dict[str, Split] = {}
    for name in (*SPLITS, UNSEEN):
        path = PREFERENCES / f"{name}.json"
        if name == UNSEEN and not path.exists():
            continue
        with collect_errors(problems):
            pairs = read_pairs(path)[: most if name == "train" else None]
            splits[name] = Split(pairs, PreferenceDataset(pairs, tokenizer, limit, frame, str(path)))
    raise_all(problems)
    return splits
