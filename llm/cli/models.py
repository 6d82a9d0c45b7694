"""Console commands that use models or their answers: generate, chat, classify, judge, agree.

Models compute as `runtime` in params.yaml has it, like the stages. What loads torch is imported inside the functions:
`--help` and the commands without a model start quickly.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from llm.common import files, params
from llm.common.errors import DATA, UserError, show
from llm.common.progress import Bars
from llm.runtime import kernels

if TYPE_CHECKING:
    from llm.generate.session import Session


def generate_text(arguments: argparse.Namespace) -> None:
    """Print the prompt with its continuation."""
    session = _session(arguments)
    prompt = arguments.prompt
    if prompt is None:
        _hint("type the text to continue; Ctrl-D ends it")
        prompt = sys.stdin.read().removesuffix("\n")
    print(prompt + session.answer(prompt))


def chat_with_model(arguments: argparse.Namespace) -> None:
    """Answer one instruction a line until the input ends; one that cannot be answered does not end it."""
    from llm.data.prompts import HEADERS, extract_answer, format_prompt, prompt_form

    session = _session(arguments)
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
                print(extract_answer(session.answer(prompt, capped=True), form), flush=True)
            except UserError as error:
                show(error)


def classify_texts(arguments: argparse.Namespace) -> None:
    """Print label, probability of spam and message, one line each."""
    kernels.pin()
    from llm.data.spam_dataset import pad_right
    from llm.evaluate.accuracy import predict
    from llm.runtime.device import autocast, set_up_from_params
    from llm.weights import model_folder

    config = set_up_from_params()
    model, labels = model_folder.load_classifier(arguments.model)
    if "spam" not in labels:
        what = f"its classes are {', '.join(labels)}, not spam"
        raise UserError(arguments.model, what, "take a folder of finetune_spam", DATA)
    tokenizer = model_folder.load_tokenizer(arguments.model)
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
    from llm.data.prompts import format_prompt
    from llm.evaluate.judge import JudgeConfig, judge, read_responses, require_coverage, summarize

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
    from llm.evaluate import agreement

    print("\n".join(agreement.lines(agreement.agree(arguments.first, arguments.second))))


def _session(arguments: argparse.Namespace) -> Session:
    """The model that the command line names, with its decoding options."""
    kernels.pin()
    from llm.generate.decoding import DecodingConfig
    from llm.generate.session import Session
    from llm.runtime.device import set_up_from_params

    options = ("max_new_tokens", "temperature", "top_k", "top_p")
    runtime = set_up_from_params()
    decoding = params.parse(DecodingConfig, {name: getattr(arguments, name) for name in options}, "command line")
    return Session(arguments.model, decoding, runtime, arguments.seed)


def _hint(text: str) -> bool:
    """Say on a terminal that standard input is being read; whether it is one."""
    interactive = sys.stdin.isatty()
    if interactive:
        print(text, file=sys.stderr)
    return interactive
