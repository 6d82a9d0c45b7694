"""Answer the test instructions: models/instruct, data/instructions -> data/responses, reports/respond."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llm.common import files
from llm.common.params import Problem, positive
from llm.common.seeds import derive
from llm.data.instructions import read_entries
from llm.data.prompts import HEADERS, extract_answer, format_prompt, prompt_form
from llm.generate.decoding import DecodingConfig, generate
from llm.model import memory, packed_weights
from llm.runtime import machine
from llm.runtime.device import RuntimeConfig, set_up_device
from llm.weights import model_folder
from stages.run import run_stage, stage


@dataclass(frozen=True)
class RespondConfig:
    """How the test instructions are answered."""

    decoding: DecodingConfig
    batch_size: int  # prompts answered at once
    response_header: Literal["given", "generated"]  # given: the prompt ends with `### Response:`, unlike the book's

    def problems(self) -> Iterator[Problem]:
        """Contradictions between these values."""
        yield from positive(self, "batch_size")


MODEL, TEST = Path("models/instruct"), Path("data/instructions/test.json")


@dataclass(frozen=True)
class Params:
    """The sections of params.yaml that this stage reads."""

    seed: int
    runtime: RuntimeConfig
    respond: RespondConfig


def main(params: Params) -> None:
    """Decode in batches; save the raw texts, and the answers in the book's format."""
    with stage("respond", params) as run:
        config = params.respond
        device = set_up_device(params.runtime)
        shape = model_folder.read_config(MODEL)
        tokenizer = model_folder.load_tokenizer(MODEL)
        entries = read_entries(TEST)
        form = prompt_form(MODEL)
        header = HEADERS[form] if config.response_header == "given" else ""
        prompts = tokenizer.encode_all([format_prompt(entry, form) + header for entry in entries])
        wanted = config.decoding.max_new_tokens
        longest = min(max(map(len, prompts), default=0), shape.context_length)
        size = memory.decoding(shape, params.runtime, min(config.batch_size, len(prompts)), longest, wanted)
        where = "params.yaml: respond.batch_size"
        machine.check_memory(where, "decoding", size, params.runtime.device, "lower it, or take a smaller model")
        model = model_folder.load_model(MODEL).to(device)
        model = packed_weights.pack_for_decoding(model, params.runtime, config.batch_size)
        limits = [max(0, min(wanted, model.config.context_length - len(prompt))) for prompt in prompts]
        seeds = [derive(params.seed, "respond", number) for number in range(len(prompts))]
        raw = []
        run.turn_to("compute")
        for start in range(0, len(prompts), config.batch_size):
            rows = slice(start, start + config.batch_size)
            ids = generate(model, prompts[rows], config.decoding, tokenizer.eot, seeds[rows], limits[rows])
            raw += [tokenizer.decode(row) for row in ids]
            run.say(f"{len(raw)} of {len(prompts)} answered")
        run.turn_to("save")
        answers = [extract_answer(text, form) for text in raw]
        responses = [entry | {"model_response": answer} for entry, answer in zip(entries, answers, strict=True)]
        files.write_json(run.out("data/responses") / "raw.json", raw)
        files.write_json(run.out("reports/respond/responses.json"), responses)
        run.write_metrics(
            {
                "n_items": len(responses),
                "n_empty": sum(not answer for answer in answers),
                "n_capped": sum(limit < wanted for limit in limits),  # the context left fewer new tokens than requested
                "n_exact": sum(r["model_response"] == r["output"] for r in responses),
            }
        )


if __name__ == "__main__":
    run_stage(main, Params)
