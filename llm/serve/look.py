"""Looks inside a model: the next token's candidates and the attention behind it, and which tokens decide a class.

The functions are generators. They yield between parts of the work, so that answers which are being decoded go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from llm.data.spam_dataset import pad_right
from llm.generate.config import DecodingConfig
from llm.generate.decoding import weights
from llm.model.classifier import Classifier
from llm.model.gpt import GPT
from llm.model.kv_cache import KVCache
from llm.serve.text import INCOMPLETE

SHOWN_TOKENS = 64  # of the attention, the last ones
PARTS = 64  # a text is left out in at most so many parts
ROWS = 16  # texts classified at once

Decode = Callable[[Sequence[int]], str]
Work = Generator[None, None, dict[str, Any]]


class AttentionRecorder(KVCache):
    """Stands for an empty cache, and records attention weights of one layer and head for one sequence of T tokens.

    `weights` (t, T) are those of the last t tokens, at most SHOWN_TOKENS.
    """

    def __init__(self, layer: int, head: int) -> None:
        self.length, self._layer, self._head = 0, layer, head
        self.weights = torch.empty(0, 0)

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, attend: Callable[..., Tensor]
    ) -> Tensor:
        """The model's own attention: (B, H, T, D) -> (B, H, T, D)."""
        if layer == self._layer:
            last, keys = q[0, self._head, -SHOWN_TOKENS:], k[0, self._head * k.shape[1] // q.shape[1]]
            scores = last.float() @ keys.float().T * q.shape[-1] ** -0.5
            hidden = torch.ones_like(scores, dtype=torch.bool).triu(1 + len(keys) - len(last))
            self.weights = scores.masked_fill(hidden, -math.inf).softmax(dim=-1)
        return attend(q, k, v, mask)


def next_token(
    model: GPT, ids: Sequence[int], decoding: DecodingConfig, shown: int, layer: int, head: int, decode: Decode
) -> Work:
    """The `shown` most likely next tokens, and the attention of a layer and head among the last SHOWN_TOKENS tokens.

    `probability` is the model's own. `drawn` is the probability after temperature, top-k and top-p.
    """
    yield
    with torch.inference_mode():
        recorder = AttentionRecorder(layer, head)
        weight = model.transformer.wte.weight
        hidden = model.transformer(torch.tensor([ids], device=weight.device), recorder)
        logits = model.lm_head(hidden[:, -1]).float().cpu()  # (1, V)
        likely = logits.softmax(dim=-1)[0]
        best = likely.topk(min(shown, len(likely)))
        if decoding.is_greedy:
            drawn = torch.zeros_like(likely)
            drawn[best.indices[0]] = 1.0
        else:
            drawn = weights(logits, decoding)[0]
            drawn = drawn / drawn.sum()
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        candidates = [
            {"token": decode([token]), "id": token, "probability": value, "drawn": float(drawn[token])}
            for token, value in rows
        ]
        attention = [[round(value, 4) for value in row] for row in recorder.weights[:, -SHOWN_TOKENS:].tolist()]
    tokens = [decode([token]) for token in ids[-SHOWN_TOKENS:]]
    entropy = float(torch.special.entr(likely).sum() / math.log(2))
    return {"tokens": tokens, "n_tokens": len(ids), "candidates": candidates, "attention": attention, "bits": entropy}


def classify(model: Classifier, labels: Sequence[str], ids: Sequence[int], pad: int, decode: Decode) -> Work:
    """The probability of each label, and how much each part of the text matters.

    `change` of a part is the probability of the likeliest label minus the one without the part. The text is left out
    token by token, or in PARTS parts of equal length if it is longer. Tokens of one character stay together.
    """
    parts = split(ids, -(-len(ids) // PARTS), decode)
    texts = [list(ids), *([*ids[: part.start], *ids[part.stop :]] for part in parts)]
    found = []
    for start in range(0, len(texts), ROWS):
        yield
        found.append(_probabilities(model, texts[start : start + ROWS], pad))
    probabilities = torch.cat(found)  # (1 + parts, labels)
    best = int(probabilities[0].argmax())
    changes = (probabilities[0, best] - probabilities[1:, best]).tolist()
    return {
        "label": labels[best],
        "probabilities": dict(zip(labels, probabilities[0].tolist(), strict=True)),
        "parts": [
            {"text": decode(ids[part.start : part.stop]), "change": change}
            for part, change in zip(parts, changes, strict=True)
        ],
        "n_tokens": len(ids),
    }


def split(ids: Sequence[int], size: int, decode: Decode) -> list[range]:
    """Cut `ids` into parts of at least `size` tokens that do not end within a character."""
    parts, start = [], 0
    for end in range(1, len(ids) + 1):
        whole = end - start >= size and not decode(ids[start:end]).endswith(INCOMPLETE)
        if whole or end == len(ids):
            parts.append(range(start, end))
            start = end
    return parts


@torch.inference_mode()
def _probabilities(model: Classifier, texts: Sequence[list[int]], pad: int) -> Tensor:
    """Probabilities (N, labels) in fp32 on the CPU."""
    device = model.score.weight.device
    batch = pad_right(texts, pad, model.pad_to, [0] * len(texts)).to(device)
    return model(batch.inputs, batch.lengths).float().softmax(dim=-1).cpu()  # type: ignore[no-any-return]
