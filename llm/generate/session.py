"""A loaded model that answers prompts, as `llm generate` uses it."""

from __future__ import annotations

from pathlib import Path

from llm.generate.config import DecodingConfig
from llm.generate.decoding import generate
from llm.model import packed_weights
from llm.runtime.device import RuntimeConfig
from llm.weights import model_folder


class Session:
    """A model and its tokenizer, loaded from a folder with the device and precision of `runtime`."""

    def __init__(self, folder: Path | str, decoding: DecodingConfig, runtime: RuntimeConfig, seed: int) -> None:
        self.tokenizer = model_folder.load_tokenizer(folder)
        model = model_folder.load_model(folder, self.tokenizer.vocab_size).to(runtime.device)
        self.model = packed_weights.pack_for_decoding(model, runtime, rows=1)
        self.decoding, self.seed = decoding, seed

    def answer(self, prompt: str) -> str:
        """The continuation of `prompt`. Raises UserError if prompt and new tokens do not fit into the context."""
        ids = self.tokenizer.encode_prompt(prompt)
        return self.tokenizer.decode(generate(self.model, [ids], self.decoding, self.tokenizer.stops, [self.seed])[0])
