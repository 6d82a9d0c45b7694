"""What a model answers to the questions of pairs, before and after: in which style, and whether it is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llm.data.prompts import Frame, single
from llm.data.tokenizer import Tokenizer
from llm.evaluate import chrf, stats
from llm.generate.config import greedy
from llm.generate.decoding import generate
from llm.model.gpt import GPT
from llm.preference.pairs import asks, entries_of
from llm.preference.wordings import read
from llm.train.ranks import ALONE, Alone

Style = Literal["chosen", "rejected", "neither"]
AT_ONCE = 32  # prompts


@dataclass(frozen=True)
class Answer:
    """A generated text; which answer of the pair it is like; and whether it is right, None where that is unknown."""

    text: str
    style: Style
    right: bool | None


def answer(
    model: GPT, pairs: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, frame: Frame, new: int, ranks: Alone = ALONE
) -> list[Answer]:
    """Answer the questions of the pairs by greedy decoding, with at most `new` tokens."""
    prompts = [tokenizer.encode_segments(frame.prompt(asks(pair), True))[0] for pair in pairs]
    limits = [max(0, min(new, model.config.context_length - len(prompt))) for prompt in prompts]

    def texts_of(start: int) -> list[str]:
        rows = slice(start, start + AT_ONCE)
        ids = generate(model, prompts[rows], greedy(new), tokenizer.stops, limits=limits[rows])
        return [frame.extract_answer(tokenizer.decode(row)) for row in ids]

    texts = [text for part in ranks.each(texts_of, range(0, len(prompts), AT_ONCE)) for text in part]
    return [judge(text, pair) for text, pair in zip(texts, pairs, strict=True)]


def judge(text: str, pair: Mapping[str, Any]) -> Answer:
    """Tell the style of a text: by our wordings if the pair was made with them, else by chrF to both answers."""
    if "answer" in pair:
        found = read(text)
        chosen_style = read(pair["chosen"]).style
        style: Style = "neither" if found.style is None else "chosen" if found.style == chosen_style else "rejected"
        return Answer(text, style, found.answer == pair["answer"])
    chosen, rejected = (chrf.sentence_score(text, pair[key]) for key in ("chosen", "rejected"))
    return Answer(text, "chosen" if chosen > rejected else "rejected" if rejected > chosen else "neither", None)


def measures(before: Sequence[Answer], after: Sequence[Answer]) -> dict[str, Any]:
    """Return shares of the answers with their intervals, before and after."""
    found: dict[str, Any] = {}
    for when, answers in (("before", before), ("after", after)):
        for style in ("chosen", "rejected"):
            found |= stats.share(f"{style}_style_{when}", [one.style == style for one in answers])
        known = [one.right for one in answers if one.right is not None]
        found |= stats.share(f"right_{when}", known) if known else {}
    return found | stats.share("changed", [old.text != new.text for old, new in zip(before, after, strict=True)])


def table(
    pairs: Sequence[Mapping[str, Any]], before: Sequence[Answer], after: Sequence[Answer]
) -> list[dict[str, Any]]:
    """Return a row for each question, with both answers."""
    rows = []
    for pair, old, new in zip(pairs, before, after, strict=True):
        asked = single(entries_of(pair)[0])
        row = {"instruction": asked["instruction"], "input": asked["input"]}
        row |= {"chosen": pair["chosen"], "rejected": pair["rejected"], "before": old.text, "after": new.text}
        rows.append(row | {"style_before": old.style, "style_after": new.style})
    return rows
