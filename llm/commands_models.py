"""Console commands that use models or their answers: generate, chat, classify, judge, agree.

Models compute as `runtime` in params.yaml has it, like the stages. What loads torch is imported inside the functions:
`--help` and the commands without a model start quickly.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llm import files, params
from llm.errors import DATA, USAGE, UserError, show
from llm.progress import Bars

if TYPE_CHECKING:
    from llm.runtime import RuntimeConfig


def generate_text(arguments: argparse.Namespace) -> None:
    """Print the prompt with its continuation."""
    loaded = _Loaded(arguments)
    prompt = arguments.prompt
    if prompt is None:
        _hint("type the text to continue; Ctrl-D ends it")
        prompt = sys.stdin.read().removesuffix("\n")
    print(prompt + loaded.answer(prompt))


def chat_with_model(arguments: argparse.Namespace) -> None:
    """Answer one instruction a line until the input ends; one that cannot be answered does not end it."""
    from llm.instructions import HEADERS, extract_answer, format_prompt, prompt_form

    loaded = _Loaded(arguments)
    form = prompt_form(arguments.model)
    interactive = _hint("one instruction a line; Ctrl-D ends")
    while True:
        if interactive:
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            prompt = format_prompt({"instruction": line.strip(), "input": ""}, form) + HEADERS[form]
            try:
                print(extract_answer(loaded.answer(prompt, capped=True), form), flush=True)
            except UserError as error:
                show(error)


def classify_texts(arguments: argparse.Namespace) -> None:
    """Print label, probability of spam and message, one line each."""
    from llm import checkpoint
    from llm.classifier import predict
    from llm.runtime import autocast
    from llm.spam_dataset import pad_right

    config = _set_up()
    model, labels = checkpoint.load_classifier(arguments.model)
    if "spam" not in labels:
        what = f"its classes are {', '.join(labels)}, not spam"
        raise UserError(arguments.model, what, "take a folder of finetune_spam", DATA)
    tokenizer = checkpoint.load_tokenizer(arguments.model)
    limit = model.pad_to or model.gpt_config.context_length
    model.to(config.device)
    if not arguments.message:
        _hint("one message a line; Ctrl-D ends")
    with autocast(config):  # around all messages: it keeps what it makes of the weights
        for message in arguments.message or (line.rstrip("\n") for line in sys.stdin):
            batch = pad_right([tokenizer.encode(message)[:limit] or [tokenizer.eot]], tokenizer.eot, model.pad_to, [0])
            probabilities = predict(model, [batch], config).softmax(dim=-1)[0]
            spam = float(probabilities[labels.index("spam")])
            print(f"{labels[int(probabilities.argmax())]}\t{spam:.4f}\t{' '.join(message.split())}", flush=True)


def judge_file(arguments: argparse.Namespace) -> None:
    """Print the mean score and what became of every answer."""
    from llm.instructions import format_prompt
    from llm.judge import JudgeConfig, judge, read_responses, require_coverage, summarize

    files.project_root()
    section = params.load().get("judge")
    given = {o: getattr(arguments, o) for o in ("backend", "model", "url", "prompt") if getattr(arguments, o)}
    config = params.parse(JudgeConfig, {**(section if isinstance(section, dict) else {}), **given}, "judge")
    journal = Path(".work/judge/journal.jsonl")
    with Bars() as bars:
        verdicts = judge(
            read_responses(arguments.file), config, format_prompt, journal, lambda tasks: bars.each(tasks, "judge")
        )
    summary = summarize(verdicts)
    if arguments.out:
        files.write_json(arguments.out, [asdict(verdict) for verdict in verdicts])
    mean = "none" if summary["score_mean"] is None else f"{summary['score_mean']:.2f}"
    print(f"mean score {mean} ({config.backend}), {summary['n_scored']} of {summary['n_items']} answers scored", end="")
    print("".join(f", {summary[f'n_{status}']} {status}" for status in ("unparsed", "refused", "failed")))
    require_coverage(summary, config, journal)


def compare_judges(arguments: argparse.Namespace) -> None:
    """Print the agreement of two files of verdicts."""
    from llm import agreement

    print("\n".join(agreement.lines(agreement.agree(arguments.first, arguments.second))))


class _Loaded:
    """A model with its tokenizer and decoding, as the command line asks for them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from llm import checkpoint, packing
        from llm.generate import DecodingConfig

        config = _set_up()
        model = checkpoint.load_model(arguments.model).to(config.device)
        self.model = packing.for_decoding(model, config, rows=1)
        self.tokenizer = checkpoint.load_tokenizer(arguments.model)
        self.decoding = params.parse(
            DecodingConfig,
            {
                "max_new_tokens": arguments.max_new_tokens,
                "temperature": arguments.temperature,
                "top_k": arguments.top_k,
                "top_p": arguments.top_p,
            },
            "command line",
        )
        self.seed: int = arguments.seed

    def answer(self, prompt: str, capped: bool = False) -> str:
        """The continuation; `capped` to what the context leaves, where that is less than was asked for."""
        from llm.generate import generate

        ids, context = self.tokenizer.encode(prompt), self.model.config.context_length
        if capped and len(ids) >= context:
            what = f"{len(ids)} tokens with the prompt's frame leave no room for an answer in a context of {context}"
            raise UserError("instruction", what, "shorten it", USAGE)
        limits = [min(self.decoding.max_new_tokens, context - len(ids))] if capped else None
        new = generate(self.model, [ids], self.decoding, self.tokenizer.eot, [self.seed], limits)
        return self.tokenizer.decode(new[0])


def _set_up() -> RuntimeConfig:
    """What params.yaml says under `runtime`, in effect; fp32 on the CPU in a folder without that file."""
    import torch

    from llm import runtime

    if params.PARAMS.is_file():
        schema = make_dataclass("Settings", [("runtime", runtime.RuntimeConfig)])
        config: RuntimeConfig = params.read(schema).runtime
    else:
        config = runtime.RuntimeConfig("fp32", "cpu", torch.get_num_threads(), keep_pages=False, fused_loss=False)
    runtime.setup(config)
    return config


def _hint(text: str) -> bool:
    """Say on a terminal that standard input is being read; whether it is one."""
    interactive = sys.stdin.isatty()
    if interactive:
        print(text, file=sys.stderr)
    return interactive
