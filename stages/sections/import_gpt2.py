"""The section `import_gpt2` of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImportSource:
    """A checkpoint to import."""

    # a folder in Hugging Face's layout (config.json, model.safetensors) or in OpenAI's, or with a GGUF file
    source: str
    tokenizer: str  # a folder with the vocabulary that the checkpoint was trained on; `source` if it holds one
    untie_head: bool  # give the head a matrix of its own, as the book does before fine-tuning
