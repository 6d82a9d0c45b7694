"""A loaded model that answers prompts: what `generate` and `chat` use, and a server can."""

from __future__ import annotations

from pathlib import Path

from llm.common.errors import USAGE, UserError
from llm.generate.decoding import DecodingConfig, generate
from llm.model import packed_weights
from llm.runtime.device import RuntimeConfig
from llm.weights import model_folder


class Session:
    """A model folder, loaded on the device and in the precision of `runtime`, with its tokenizer."""

    def __init__(self, folder: Path | str, decoding: DecodingConfig, runtime: RuntimeConfig, seed: int) -> None:
        model = model_folder.load_model(folder).to(runtime.device)
        self.model = packed_weights.pack_for_decoding(model, runtime, rows=1)
        self.tokenizer = model_folder.load_tokenizer(folder)
        self.decoding, self.seed = decoding, seed

    def answer(self, prompt: str, capped: bool = False) -> str:
        """The continuation of `prompt`; `capped` limits the new tokens to what the context leaves.

        Raises UserError for a prompt that does not fit into the context, with its new tokens unless `capped`.
        """
        ids, context = self.tokenizer.encode(prompt), self.model.config.context_length
        if capped and len(ids) >= context:
            what = f"{len(ids)} tokens with the prompt's frame leave no room for an answer in a context of {context}"
            raise UserError("instruction", what, "shorten it", USAGE)
        limits = [min(self.decoding.max_new_tokens, context - len(ids))] if capped else None
        new = generate(self.model, [ids], self.decoding, self.tokenizer.eot, [self.seed], limits)
        return self.tokenizer.decode(new[0])
