"""Added tokens of a folder with `vocab.json` and `merges.txt`, which a slow tokenizer of transformers saves.

They are in `added_tokens.json`, or in `added_tokens_decoder` of `tokenizer_config.json`. A folder with more than
<|endoftext|> is read as the `tokenizer.json` that transformers would make of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from llm.common.errors import DATA, UserError
from llm.data.decoding import has_lone_surrogate
from llm.data.special_tokens import END_OF_TEXT, TOKENIZER_CONFIG, names, read_object

ADDED = "added_tokens.json"
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
# The last two are general: their rules are in a tokenizer.json.
CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
QWEN = ("qwen2", "qwen3")  # model types whose texts are not cut as GPT-2's
LONGEST = 12  # ids have fewer digits; Python refuses to read thousands
FIX = "write a tokenizer.json with `AutoTokenizer.from_pretrained(...).save_pretrained(...)` of transformers"


def added_tokens(folder: Path) -> dict[str, dict[str, Any]]:
    """The added tokens of a folder by their text, each as in `tokenizer.json`; empty if only <|endoftext|> is one.

    Raises UserError if the files contradict each other, or are of another tokenizer than GPT-2's.
    """
    _check_kind(folder)
    where = str(folder / TOKENIZER_CONFIG)
    found = {text: token(text, number) for text, number in read_object(folder / ADDED).items()}
    decoder = read_object(folder / TOKENIZER_CONFIG).get("added_tokens_decoder") or {}
    for key, entry in decoder.items() if isinstance(decoder, Mapping) else [("", decoder)]:
        text = entry.get("content") if isinstance(entry, Mapping) else None
        number = int(key) if key.isdecimal() and len(key) < LONGEST else None
        if not isinstance(text, str) or number is None or found.get(text, {}).get("id", number) != number:
            what = f"added_tokens_decoder[{key!r:.40}] is {entry!r:.60}, not a token with its id in {ADDED}"
            raise UserError(where, what, "use the files of one tokenizer", DATA)
        found[text] = token(text, number, entry)
    if damaged := [text for text in found if has_lone_surrogate(text)]:
        file = ADDED if damaged[0] in read_object(folder / ADDED) else TOKENIZER_CONFIG
        raise UserError(str(folder / file), f"the added token {damaged[0]!r:.60} has a lone surrogate", FIX, DATA)
    end = names(folder).get("eos_token", END_OF_TEXT)
    if end not in {*found, END_OF_TEXT}:
        what = f"eos_token is {end!r:.60}, which is neither in {ADDED} nor in added_tokens_decoder"
        raise UserError(where, what, FIX, DATA)
    return found if found.keys() - {END_OF_TEXT} else {}


def tokenizer_json(
    vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], added: Mapping[str, dict[str, Any]], where: str
) -> dict[str, Any]:
    """The `tokenizer.json` of GPT-2's tokenizer with added tokens. Raises UserError if ids do not follow the others."""
    by_id = sorted(added.values(), key=lambda one: str(one["id"]).zfill(12))
    for number, one in enumerate(by_id, len(vocab)):
        if one["id"] != number:
            what = f"the added token {one['content']!r:.60} has the id {one['id']!r:.20}, not {number}, the next one"
            raise UserError(where, what, FIX, DATA)
    step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": dict(vocab), "merges": [list(merge) for merge in merges]}
    steps = {"normalizer": None, "pre_tokenizer": step, "post_processor": None, "decoder": step}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": by_id, **steps, "model": model}


def token(text: str, number: Any, flags: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """An added token as in `tokenizer.json`."""
    return {"id": number, "content": text, **{flag: flags.get(flag) is True for flag in FLAGS}}


def _check_kind(folder: Path) -> None:
    """Raise UserError for a tokenizer that is not GPT-2's, or that puts something before a text."""
    settings, model_type = read_object(folder / TOKENIZER_CONFIG), read_object(folder / "config.json").get("model_type")
    where, kind = str(folder / TOKENIZER_CONFIG), settings.get("tokenizer_class")
    if kind is None and model_type in QWEN:
        where, kind = str(folder / "config.json"), "Qwen2Tokenizer"
    if kind not in (None, *CLASSES):
        what = f"the tokenizer is {kind!r:.60}; without a tokenizer.json only {CLASSES[0]} is supported"
        raise UserError(where, what, FIX, DATA)
    for key in ("add_bos_token", "add_prefix_space"):
        if settings.get(key):
            what = f"{key} is {settings[key]!r:.60}, which is only supported in a tokenizer.json"
            raise UserError(where, what, FIX, DATA)
