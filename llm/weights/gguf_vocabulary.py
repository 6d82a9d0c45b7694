"""The tokenizer of a GGUF file as the files of a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llm.common.errors import DATA, UserError
from llm.data import slow_tokenizer
from llm.data.special_tokens import END_OF_TEXT
from llm.weights.gguf_tables import ALIASES, ENDS, FIX, PRE_TOKENIZERS

Metadata = Mapping[str, Any]
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # kinds of tokens


def files(metadata: Metadata, context: int) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """`tokenizer.json`, `tokenizer_config.json` and `generation_config.json`, from keys without `problems`."""
    prefix = "tokenizer.ggml."
    tokens, kinds = metadata[f"{prefix}tokens"], metadata[f"{prefix}token_type"]
    pre = PRE_TOKENIZERS[_pre_tokenizer(metadata)]
    added = [
        slow_tokenizer.token(token, number, {"special": kind == CONTROL})
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (CONTROL, USER_DEFINED)
    ]
    names = {"bos_token": "bos_token_id", "eos_token": "eos_token_id", "pad_token": "padding_token_id"}
    ids = {name: metadata.get(prefix + key) for name, key in names.items()}
    special = {name: tokens[number] for name, number in ids.items() if number is not None}
    template = metadata.get("tokenizer.chat_template")
    begins = metadata.get(f"{prefix}add_bos_token", pre.begins) and "bos_token" in special
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": pre.normalizer,
        "pre_tokenizer": pre.steps[0] if len(pre.steps) == 1 else {"type": "Sequence", "pretokenizers": pre.steps},
        "post_processor": _begin_with(special["bos_token"], metadata[f"{prefix}bos_token_id"]) if begins else None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "ignore_merges": pre.ignore_merges,
            # with the added tokens: Hugging Face numbers those that are not here by itself
            "vocab": {t: n for n, (t, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind != UNUSED},
            "merges": [merge.split(" ") for merge in metadata[f"{prefix}merges"]],
        },
    }
    found = [metadata.get(f"{prefix}{key}_token_id") for key in ENDS]
    ends = list(dict.fromkeys(end for end in found if end is not None))
    generation = {
        "bos_token_id": ids["bos_token"],
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
        "pad_token_id": ids["pad_token"],
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        **special,
        **({"chat_template": template} if template else {}),
    }
    return tokenizer, tokenizer_config, {key: value for key, value in generation.items() if value not in (None, [])}


def problems(metadata: Metadata, where: str) -> Iterator[UserError]:
    """What keeps the tokenizer from being read: missing keys, other kinds of tokenizers, values of another type."""
    model, pre = metadata.get("tokenizer.ggml.model"), _pre_tokenizer(metadata)
    tokens, kinds, merges = (metadata.get(f"tokenizer.ggml.{key}") for key in ("tokens", "token_type", "merges"))
    typed = _all_are(str, tokens) and _all_are(int, kinds) and _all_are(str, merges)
    if model != "gpt2":
        what = f"tokenizer.ggml.model is {model!r:.40}, not the byte-level BPE 'gpt2'"
        yield UserError(where, what, FIX, DATA)
    elif pre not in PRE_TOKENIZERS:
        what = f"tokenizer.ggml.pre is {pre!r:.40}, not one of {', '.join(PRE_TOKENIZERS)}"
        yield UserError(where, what, FIX, DATA)
    elif tokens is None or kinds is None or not typed:
        what = "tokenizer.ggml.tokens, token_type or merges is missing, or of another type"
        yield UserError(where, what, FIX, DATA)
    elif len(tokens) != len(kinds):
        what = f"tokenizer.ggml.tokens has {len(tokens)} tokens, but token_type {len(kinds)}"
        yield UserError(where, what, "download it again", DATA)
    elif unknown := set(kinds) - {NORMAL, CONTROL, USER_DEFINED, UNUSED}:
        yield UserError(where, f"tokenizer.ggml.token_type holds {min(unknown)}, which is not supported", FIX, DATA)
    else:
        for key in ("bos", *ENDS, "padding"):
            number = metadata.get(f"tokenizer.ggml.{key}_token_id", 0)
            if type(number) is not int or not 0 <= number < len(tokens):
                what = f"tokenizer.ggml.{key}_token_id is {number!r:.60}, but there are {len(tokens)} tokens"
                yield UserError(where, what, "download it again", DATA)
        added = [token for token, kind in zip(tokens, kinds, strict=True) if kind in (CONTROL, USER_DEFINED)]
        if END_OF_TEXT not in added and all(metadata.get(f"tokenizer.ggml.{key}_token_id") is None for key in ENDS):
            yield UserError(where, "tokenizer.ggml.eos_token_id is missing", FIX, DATA)
        if metadata.get("tokenizer.ggml.add_eos_token"):
            yield UserError(where, "tokenizer.ggml.add_eos_token is true, which is not supported", FIX, DATA)
        if not isinstance(metadata.get("tokenizer.chat_template", ""), str):
            yield UserError(where, "tokenizer.chat_template is not a text", FIX, DATA)


def _all_are(kind: type, values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def _pre_tokenizer(metadata: Metadata) -> str:
    """The name of the pre-tokenizer. Old files of GPT-2 do not name it."""
    name = str(metadata.get("tokenizer.ggml.pre", "gpt-2" if metadata["general.architecture"] == "gpt2" else ""))
    return ALIASES.get(name, name)


def _begin_with(token: str, number: int) -> dict[str, Any]:
    """The part of `tokenizer.json` that puts a token before each text."""
    start, text = {"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    second = [{"SpecialToken": {"id": token, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    return {
        "type": "TemplateProcessing",
        "single": [start, text],
        "pair": [start, text, *second],
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    }
