"""chrF, the F2 score of character n-grams (Popović 2015), from 0 to 100, as sacrebleu computes it.

It needs no words, so it serves texts without spaces and languages with many word forms or a free word order.
"""

from __future__ import annotations

from collections.abc import Sequence


def corpus_score(answers: Sequence[str], references: Sequence[str]) -> float:
    """Return the score of all answers together, each with one reference."""
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF().corpus_score(answers, [references]).score)


def sentence_score(answer: str, reference: str) -> float:
    """Return the score of one answer."""
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF().sentence_score(answer, [reference]).score)
