"""The console command `export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from llm.common import files


def export_model(arguments: argparse.Namespace) -> None:
    """Write a model folder as a GGUF file with a Modelfile beside it, and print how to run it."""
    from llm.weights import gguf_export, ollama

    path: Path = arguments.gguf
    recipe = ollama.modelfile(arguments.folder, path.name)  # before the large file, because it can be refused
    path.parent.mkdir(parents=True, exist_ok=True)
    gguf_export.export(arguments.folder, path, arguments.type)
    modelfile = path.with_suffix(".Modelfile")
    files.write_text(modelfile, recipe)
    print(f"{path}: {path.stat().st_size:,} bytes, {arguments.type}")
    print(f"to run it: ollama create {path.stem} -f {modelfile} && ollama run {path.stem}")
    print(f"or: llama-server -m {path}")
