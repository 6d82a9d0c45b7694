"""The special tokens that a model folder names: those that end a text, and those of chat templates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm.common.errors import DATA, UserError
from llm.common.files import read_json
from llm.data.tokenizer_files import END_OF_TEXT

TOKENIZER_CONFIG = "tokenizer_config.json"


def ends(folder: Path, special: Mapping[str, int]) -> list[int]:
    """The ids that end a text: `eos_token_id` of generation_config.json and config.json, then `eos_token`.

    If none of them is an added token of the tokenizer, it is <|endoftext|>. Raises UserError if there is none either.
    """
    found: list[int] = []
    for name in ("generation_config.json", "config.json"):
        ids = read_object(folder / name).get("eos_token_id")
        several = ids if isinstance(ids, list) else [] if ids is None else [ids]
        if any(type(one) is not int for one in several):
            what = f"eos_token_id is {ids!r:.60}, not a token id or a list of them"
            raise UserError(str(folder / name), what, "use the file of the published model", DATA)
        found += several
    named = names(folder).get("eos_token", "")
    found += [special[named]] if named in special else []
    known = [one for one in dict.fromkeys(found) if one in special.values()]
    if not known and END_OF_TEXT not in special:
        what = "no token ends a text: there is no eos_token that is an added token of tokenizer.json"
        raise UserError(str(folder / TOKENIZER_CONFIG), what, "name it as eos_token", DATA)
    return known or [special[END_OF_TEXT]]


def names(folder: Path) -> dict[str, str]:
    """The special tokens by their names, such as `eos_token`. Chat templates use them as variables."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", TOKENIZER_CONFIG):
        for key, value in read_object(folder / name).items():
            text = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(text, str):
                found[key] = text
    return found


def read_object(path: Path) -> dict[str, Any]:
    """Read an object of a JSON file; empty if there is no such file. Raises UserError if it is something else."""
    value = read_json(path) if path.is_file() else {}
    if not isinstance(value, dict):
        raise UserError(str(path), f"holds {type(value).__name__}, not an object", "use the published file", DATA)
    return value
