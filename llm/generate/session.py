"""A loaded model that answers prompts, as `generate` and `chat` use it."""

from __future__ import annotations

from pathlib import Path

from llm.common.errors import USAGE, UserError
from llm.generate.decoding import DecodingConfig, generate
from llm.model import packed_weights
from llm.runtime.device import RuntimeConfig
from llm.weights import model_folder


class Session:
    """A model and its tokenizer, loaded from a folder with the device and precision of `runtime`."""

    def __init__(self, folder: Path | str, decoding: DecodingConfig, runtime: RuntimeConfig, seed: int) -> None:
        model = model_folder.load_model(folder).to(runtime.device)
        self.model = packed_weights.pack_for_decoding(model, runtime, rows=1)
        self.tokenizer = model_folder.load_tokenizer(folder)
        self.decoding, self.seed = decoding, seed

    def answer(self, prompt: str, capped: bool = False) -> str:
        """The continuation of `prompt`. With `capped`, it ends where the context does.

        Raises UserError if prompt and new tokens do not fit into the context, or with `capped` the prompt alone.
        """
        ids, context = self.tokenizer.encode(prompt), self.model.config.context_length
        if capped and len(ids) >= context:
            what = f"{len(ids)} tokens in the prompt template leave no room for an answer in a context of {context}"
            raise UserError("instruction", what, "shorten it", USAGE)
        limits = [min(self.decoding.max_new_tokens, context - len(ids))] if capped else None
        new = generate(self.model, [ids], self.decoding, self.tokenizer.eot, [self.seed], limits)
        return self.tokenizer.decode(new[0])
