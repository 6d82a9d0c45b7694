"""The console command `export`."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

from llm.common import files


def export_model(arguments: argparse.Namespace) -> None:
    """Write a model folder as a GGUF file with a Modelfile beside it, and print how to run it."""
    from llm.weights import gguf_export, ollama
    from llm.weights.gguf_tables import ENDS

    path: Path = arguments.gguf
    recipe = ollama.modelfile(arguments.folder, path.name)  # before the large file, because it can be refused
    path.parent.mkdir(parents=True, exist_ok=True)
    left_out = gguf_export.export(arguments.folder, path, arguments.type)
    modelfile = path.with_suffix(".Modelfile")
    files.write_text(modelfile, recipe)
    print(f"{path}: {path.stat().st_size:,} bytes, {arguments.type}")
    if left_out:
        print(f"not in the GGUF file, which has room for {len(ENDS)} end tokens: {' '.join(left_out)}")
    name = re.sub(r"[^\w.-]+", "-", path.stem, flags=re.ASCII).strip("-.") or "model"  # what Ollama accepts
    print(f"to run it: ollama create {name} -f {shlex.quote(str(modelfile))} && ollama run {name}")
    print(f"or: llama-server -m {shlex.quote(str(path))}")
