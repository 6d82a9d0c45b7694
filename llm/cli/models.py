"""Console commands that use models or their answers: generate, classify, export, judge, agree.

The section `runtime` of params.yaml sets device and precision, as for the stages. Modules that load torch are imported
inside the functions, so that the other commands start quickly.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.common import files, params
from llm.common.errors import DATA, UserError, standard_input
from llm.common.progress import Bars
from llm.runtime import kernels

if TYPE_CHECKING:
    from llm.generate.config import DecodingConfig

MAX_INPUT_CHARS = 1 << 20
JUDGE_OPTIONS = ("backend", "model", "url", "prompt", "reply")  # override params.yaml


def generate_text(arguments: argparse.Namespace) -> None:
    """Print the prompt and its continuation."""
    kernels.pin()
    from llm.generate.session import Session
    from llm.runtime.device import set_up_from_params

    runtime = set_up_from_params()
    session = Session(arguments.model, decoding(arguments), runtime, arguments.seed)
    prompt = arguments.prompt
    if prompt is None:
        _hint("type the text to continue, then press Ctrl-D")
        prompt = typed(sys.stdin.read).removesuffix("\n")
    print(prompt + session.answer(prompt))


def classify_texts(arguments: argparse.Namespace) -> None:
    """Print one line per message: its label, the probability of each label, the message."""
    kernels.pin()
    from llm.data.spam_dataset import pad_right
    from llm.evaluate.accuracy import predict
    from llm.runtime.device import autocast, set_up_from_params
    from llm.serve.models import load_text_classifier

    config = set_up_from_params()
    loaded = load_text_classifier(arguments.model, "classify", config)
    model, tokenizer, limit = loaded.model, loaded.tokenizer, loaded.limit
    names = [" ".join(label.split()) for label in loaded.labels]  # a line holds one message
    if not arguments.message:
        _hint("type one message per line; Ctrl-D ends")
    with autocast(config):  # one block for all messages: it caches the converted weights
        lines = iter(lambda: typed(sys.stdin.readline), "")
        messages = arguments.message or (line.rstrip("\n") for line in lines)
        for number, message in enumerate(messages, start=1):
            ids = tokenizer.encode_prompt(message)
            if len(ids) > limit:
                said = f"note: message {number} has {len(ids):,} tokens; only the first {limit:,} are read"
                print(said, file=sys.stderr, flush=True)
            batch = pad_right([ids[:limit]], tokenizer.eot, model.pad_to, [0])
            probabilities = predict(model, [batch], config).softmax(dim=-1)[0]
            each = [f"{label}={float(p):.4f}" for label, p in zip(names, probabilities, strict=True)]
            print(names[int(probabilities.argmax())], *each, " ".join(message.split()), sep="\t", flush=True)


def export_model(arguments: argparse.Namespace) -> None:
    """Write a model folder as a GGUF file with a Modelfile beside it, and print how to run it."""
    from llm.weights import gguf_export, ollama
    from llm.weights.gguf_tables import ENDS

    path: Path = arguments.gguf
    recipe = ollama.modelfile(arguments.folder, path.name)  # before the large file, because it can be refused
    path.parent.mkdir(parents=True, exist_ok=True)
    left_out = gguf_export.export(arguments.folder, path, arguments.type)
    modelfile = path.with_suffix(".Modelfile")
    files.write_text(modelfile, recipe)
    print(f"{path}: {path.stat().st_size:,} bytes, {arguments.type}")
    if left_out:
        print(f"not in the GGUF file, which has room for {len(ENDS)} end tokens: {' '.join(left_out)}")
    name = re.sub(r"[^\w.-]+", "-", path.stem, flags=re.ASCII).strip("-.") or "model"  # what Ollama accepts
    print(f"to run it: ollama create {name} -f {shlex.quote(str(modelfile))} && ollama run {name}")
    print(f"or: llama-server -m {shlex.quote(str(path))}")


def judge_file(arguments: argparse.Namespace) -> None:
    """Print the mean score and how many answers were scored; with `--against`, how often each file's answer is better.

    The journal in .work keeps the replies of a run that was stopped.
    """
    from llm.data.prompts import format_prompt
    from llm.evaluate import pairwise
    from llm.evaluate.judge import judge, read_responses, require_coverage, summarize
    from llm.evaluate.judge_config import JudgeConfig

    files.project_root()
    section = params.load().get("judge")
    given = {o: getattr(arguments, o) for o in JUDGE_OPTIONS if getattr(arguments, o)}
    config = params.parse(JudgeConfig, {**(section if isinstance(section, dict) else {}), **given}, "judge")
    entries = read_responses(arguments.file)
    if arguments.out:
        files.check_writable(arguments.out)
    read = config.backend if config.backend == "reference" else f"{config.backend}, {config.reply} reading"
    if arguments.against:
        others = pairwise.read_others(arguments.file, entries, arguments.against)
        journal = Path(".work/judge/pairs.jsonl")
        with Bars() as bars:
            pairs = pairwise.compare(entries, others, config, format_prompt, journal, lambda t: bars.each(t, "judge"))
        _write_records(arguments.out, pairs)
        print("\n".join(pairwise.lines(pairs, str(arguments.file), str(arguments.against), read)))
        pairwise.require_coverage(pairs, config)
        return
    journal = Path(".work/judge/journal.jsonl")
    with Bars() as bars:
        verdicts = judge(entries, config, format_prompt, journal, lambda tasks: bars.each(tasks, "judge"))
    _write_records(arguments.out, verdicts)
    summary = summarize(verdicts)
    mean = "none" if summary["score_mean"] is None else f"{summary['score_mean']:.2f}"
    print(f"mean score {mean} ({read}), {summary['n_scored']} of {summary['n_items']} answers scored", end="")
    print("".join(f", {summary[f'n_{status}']} {status}" for status in ("unparsed", "refused", "failed")))
    require_coverage(verdicts, config)


def _write_records(path: Path | None, records: Sequence[Any]) -> None:
    if path:
        files.write_json(path, [asdict(record) for record in records])


def compare_judges(arguments: argparse.Namespace) -> None:
    """Print the agreement between two files of scores."""
    from llm.evaluate import agreement

    print("\n".join(agreement.lines(agreement.agree(arguments.first, arguments.second))))


def decoding(arguments: argparse.Namespace) -> DecodingConfig:
    """The decoding options of a command. Raises UserError for values out of range."""
    from llm.generate.config import DecodingConfig

    options = ("max_new_tokens", "temperature", "top_k", "top_p")
    return params.parse(DecodingConfig, {name: getattr(arguments, name) for name in options}, "command line")


def typed(read: Callable[[int], str]) -> str:
    """Text from standard input. Raises UserError if it is too long, as from a device without an end, or not UTF-8."""
    with standard_input():
        text = read(MAX_INPUT_CHARS + 1)
    if len(text) > MAX_INPUT_CHARS:
        what = f"more than {MAX_INPUT_CHARS:,} characters, of a text or of one line"
        raise UserError("standard input", what, "send a shorter text", DATA)
    return text


def _hint(text: str) -> None:
    """Print the hint if standard input is a terminal."""
    if sys.stdin.isatty():
        print(text, file=sys.stderr)
