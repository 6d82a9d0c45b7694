"""The text of one record of a corpus: a line of JSON Lines, or a row of a Parquet file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llm.common.errors import DATA, UserError, listed
from llm.common.files import DuplicateKeyError, unique_keys
from llm.data.decoding import has_lone_surrogate


def parse_record(line: str) -> tuple[dict[str, Any], str]:
    """Return the object of a line, and what is wrong with the line."""
    try:
        record = json.loads(line, object_pairs_hook=unique_keys)
    except DuplicateKeyError:
        return {}, "use a key twice"
    except (ValueError, RecursionError):
        return {}, "are not JSON"
    return (record, "") if isinstance(record, dict) else ({}, "are not JSON objects")


def text_of(value: object, name: str) -> tuple[str, str]:
    """Return the text of a record, the value of its key `name`, and what is wrong with it."""
    if isinstance(value, str):
        return ("", f"have a {name!r} with a lone surrogate") if has_lone_surrogate(value) else (value, "")
    return "", f"have no {name!r}" if value is None else f"have a {name!r} that is not text"


def is_text(kind: Any) -> bool:
    """Whether a column of Parquet with this type holds texts."""
    import pyarrow as pa

    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_string_view(inner))


def bad_records(path: Path, kind: str, what: str, numbers: list[int]) -> UserError:
    """The error that names the records, `lines` or `rows`, with the same problem."""
    where = f"{path}:{numbers[0]}" if kind == "lines" else str(path)
    return UserError(where, f"{kind} that {what}: {listed(numbers)}", "correct or remove them", DATA)
