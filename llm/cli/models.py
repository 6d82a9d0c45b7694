"""Console commands that use models or their answers: generate, chat, classify, judge, agree.

The section `runtime` of params.yaml sets device and precision, as for the stages. Modules that load torch are imported
inside the functions, so that the other commands start quickly.
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
    """Print the prompt and its continuation."""
    session = _session(arguments)
    prompt = arguments.prompt
    if prompt is None:
        _hint("type the text to continue, then press Ctrl-D")
        prompt = sys.stdin.read().removesuffix("\n")
    print(prompt + session.answer(prompt))


def chat_with_model(arguments: argparse.Namespace) -> None:
    """Answer one instruction per line until the input ends; print an error and go on if one cannot be answered."""
    from llm.data.prompts import HEADERS, extract_answer, format_prompt, prompt_form

    session = _session(arguments)
    form = prompt_form(arguments.model)
    interactive = _hint("type one instruction per line; Ctrl-D ends")
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
    """Print one line per message: its label, the probability of spam, the message."""
    kernels.pin()
    from llm.data.spam_dataset import pad_right
    from llm.evaluate.accuracy import predict
    from llm.runtime.device import autocast, set_up_from_params
    from llm.weights import model_folder

    config = set_up_from_params()
    model, labels = model_folder.load_classifier(arguments.model)
    if "spam" not in labels:
        what = f"spam is not among its classes: {', '.join(labels)}"
        raise UserError(arguments.model, what, "name a folder that finetune_spam wrote", DATA)
    tokenizer = model_folder.load_tokenizer(arguments.model)
    limit = model.pad_to or model.gpt_config.context_length
    model.to(config.device)
    if not arguments.message:
        _hint("type one message per line; Ctrl-D ends")
    with autocast(config):  # one block for all messages: it caches the converted weights
        for message in arguments.message or (line.rstrip("\n") for line in sys.stdin):
            batch = pad_right([tokenizer.encode(message)[:limit] or [tokenizer.eot]], tokenizer.eot, model.pad_to, [0])
            probabilities = predict(model, [batch], config).softmax(dim=-1)[0]
            spam = float(probabilities[labels.index("spam")])
            print(f"{labels[int(probabilities.argmax())]}\t{spam:.4f}\t{' '.join(message.split())}", flush=True)


def judge_file(arguments: argparse.Namespace) -> None:
    """Print the mean score and how many answers were scored, unparsed, refused or failed."""
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
    """Print the agreement between two files of scores."""
    from llm.evaluate import agreement

    print("\n".join(agreement.lines(agreement.agree(arguments.first, arguments.second))))


def _session(arguments: argparse.Namespace) -> Session:
    """Load the model of `--model` with the decoding options."""
    kernels.pin()
    from llm.generate.decoding import DecodingConfig
    from llm.generate.session import Session
    from llm.runtime.device import set_up_from_params

    options = ("max_new_tokens", "temperature", "top_k", "top_p")
    runtime = set_up_from_params()
    decoding = params.parse(DecodingConfig, {name: getattr(arguments, name) for name in options}, "command line")
    return Session(arguments.model, decoding, runtime, arguments.seed)


def _hint(text: str) -> bool:
    """Print the hint if standard input is a terminal; returns whether it is."""
    interactive = sys.stdin.isatty()
    if interactive:
        print(text, file=sys.stderr)
    return interactive
