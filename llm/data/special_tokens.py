"""The special tokens that a model folder names: those that end a text, and those of chat templates."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from llm.common.errors import DATA, UserError
from llm.common.files import UNROUNDED, read_json, write_json

END_OF_TEXT = "<|endoftext|>"
TOKENIZER_CONFIG = "tokenizer_config.json"
ID_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")


def ends(folder: Path, special: Mapping[str, int], ids: Collection[int]) -> list[int]:
    """The ids that end a text: the `declared` ones, then `eos_token`; added tokens before ordinary ones.

    If none of them is an added token of the tokenizer, <|endoftext|> is the first. Raises UserError if there is none
    either.
    """
    named = names(folder).get("eos_token", "")
    found = [*declared(folder, ids), *([special[named]] if named in special else [])]
    added = set(special.values())
    if not added & set(found):
        if END_OF_TEXT not in special:
            what = "no token ends a text: there is no eos_token that is an added token of tokenizer.json"
            raise UserError(str(folder / TOKENIZER_CONFIG), what, "name it as eos_token", DATA)
        found.append(special[END_OF_TEXT])
    return sorted(dict.fromkeys(found), key=lambda one: one not in added)


def declared(folder: Path, ids: Collection[int], key: str = "eos_token_id") -> list[int]:
    """The ids under `key` in generation_config.json and config.json that are in `ids`; others are a larger tokenizer's.

    Raises UserError for a value that is not a whole number.
    """
    found: list[int] = []
    for name in ("generation_config.json", "config.json"):
        value = read_object(folder / name).get(key)
        several = value if isinstance(value, list) else [] if value is None else [value]
        if any(type(one) is not int for one in several):
            what = f"{key} is {value!r:.60}, not a token id or a list of them"
            raise UserError(str(folder / name), what, "use the file of the published model", DATA)
        found += [one for one in several if one in ids]
    return found


def drop_ids(folder: Path, rows: int) -> None:
    """Take the ids from `rows` on, whose embedding a model does not have, out of a folder's generation_config.json."""
    settings = read_object(path := folder / "generation_config.json")
    kept = dict(settings)
    for key in [key for key in ID_KEYS if key in settings]:
        several = settings[key] if isinstance(settings[key], list) else [settings[key]]
        known = [one for one in several if type(one) is not int or one < rows]
        if not known and several:
            del kept[key]
        elif known != several:
            kept[key] = known
    if kept != settings:
        write_json(path, kept, UNROUNDED)


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
