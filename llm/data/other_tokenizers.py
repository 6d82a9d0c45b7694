"""Files of tokenizers that are not read."""

from __future__ import annotations

from pathlib import Path

from llm.common.errors import DATA, UserError

FIX = "use a model with a byte-level BPE tokenizer, such as GPT-2, Llama 3, Qwen 2, Qwen 3 or SmolLM2"
OPENAI = ("encoder.json", "vocab.bpe")  # the pair of GPT-2 under OpenAI's names
FILES = (*OPENAI, "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json")
GGUF_FIX = "import it below import_gpt2, and name models/ITEM"


def gguf(path: Path) -> Path | None:
    """The GGUF file at a path, or the first in it if it is a folder; None if there is none."""
    found = [path] if path.is_file() and path.suffix == ".gguf" else sorted(path.glob("*.gguf"))
    return next(iter(found), None)


def refuse(folder: Path, *more: str) -> None:
    """Raise UserError if a folder without files that are read holds one of another tokenizer, or of `more`."""
    for name in (*FILES, *more):
        if (folder / name).is_file():
            what = "this kind of tokenizer is not supported without a tokenizer.json"
            fix = "rename encoder.json to vocab.json, and vocab.bpe to merges.txt" if name in OPENAI else FIX
            raise UserError(str(folder / name), what, fix, DATA)
    if found := gguf(folder):
        raise UserError(str(found), "only import_gpt2 reads a GGUF file", GGUF_FIX, DATA)
