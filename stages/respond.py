"""Answer the test instructions: models/instruct, data/instructions -> data/responses, reports/respond."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from llm.common import files
from llm.common.seeds import derive
from llm.data.instructions import read_entries
from llm.data.prompts import frame_of, question, single
from llm.evaluate import chrf
from llm.generate.decoding import generate
from llm.model import memory, packed_weights
from llm.runtime import machine
from llm.runtime.device import RuntimeConfig, set_up_device
from llm.tracking import traces
from llm.tracking.traces import Answer
from llm.train.ranks import ranks_of
from llm.weights import model_folder
from stages.run import run_stage, stage
from stages.sections.respond import RespondConfig

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
        frame = frame_of(MODEL, tokenizer)
        header = config.response_header == "given"
        prompts = [tokenizer.encode_segments(frame.prompt(entry, header))[0] for entry in entries]
        wanted = config.decoding.max_new_tokens
        longest = min(max(map(len, prompts), default=0), shape.context_length)
        size = memory.decoding(shape, params.runtime, min(config.batch_size, len(prompts)), longest, wanted)
        where = "params.yaml: respond.batch_size"
        machine.check_memory(where, "decoding", size, params.runtime.device, "lower it, or take a smaller model")
        model = model_folder.load_model(MODEL, tokenizer.vocab_size).to(device)
        model = packed_weights.pack_for_decoding(model, params.runtime, config.batch_size)
        limits = [max(0, min(wanted, model.config.context_length - len(prompt))) for prompt in prompts]
        seeds = [derive(params.seed, "respond", number) for number in range(len(prompts))]
        by_length = sorted(range(len(prompts)), key=lambda number: len(prompts[number]), reverse=True)

        def answer(start: int) -> list[Answer]:
            rows = by_length[start : start + config.batch_size]  # of similar length, so little is computed on padding
            began = time.time_ns()
            asked = [prompts[row] for row in rows]
            drawn, most = ([part[row] for row in rows] for part in (seeds, limits))
            answers = generate(model, asked, config.decoding, tokenizer.stops, drawn, most)
            run.say(f"{start + len(rows)} of {len(prompts)} answered")
            took = (began, time.time_ns())
            return [
                Answer(
                    row,
                    str(MODEL),
                    question(entries[row]).strip(),
                    tokenizer.decode(prompts[row]),
                    tokenizer.decode(ids),
                    single(entries[row])["output"],
                    len(prompts[row]),
                    len(ids),
                    *took,
                )
                for row, ids in zip(rows, answers, strict=True)
            ]

        run.turn_to("compute")
        ranks, starts = ranks_of(params.runtime), range(0, len(prompts), config.batch_size)
        answers = [one for part in ranks.each(answer, starts) for one in part]
        ranks.leave()
        answers.sort(key=lambda one: one.index)
        traces.record(answers)
        raw = [one.text for one in answers]
        run.turn_to("save")
        texts = [frame.extract_answer(text) for text in raw]
        singles = map(single, entries)  # of a chat: its last question with the turns before it as the input
        responses = [entry | {"model_response": answer} for entry, answer in zip(singles, texts, strict=True)]
        files.write_json(run.out("data/responses") / "raw.json", raw)
        files.write_json(run.out("reports/respond/responses.json"), responses)
        run.write_metrics(
            {
                "n_items": len(responses),
                "n_empty": sum(not text for text in texts),
                "n_capped": sum(limit < wanted for limit in limits),  # the context left fewer new tokens than requested
                "chrf": chrf.corpus_score(texts, [response["output"] for response in responses]),
                "n_exact": sum(r["model_response"] == r["output"].strip() for r in responses),
            }
        )


if __name__ == "__main__":
    run_stage(main, Params, ranked=True)
