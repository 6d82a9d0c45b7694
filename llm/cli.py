"""The console: change parameters, use the models, judge answers, look at results. `python -m llm --help`."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from llm import files, params, report
from llm.errors import DATA, USAGE, UserError, error_contract, raise_all, show
from llm.progress import Bars
from llm.report import DVC, PROGRAM


class Parser(argparse.ArgumentParser):
    """An argument parser that keeps the error contract."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line in one line."""
        raise UserError("command line", message, f"see `{self.prog} --help`", USAGE)


def main(words: Sequence[str] | None = None) -> None:
    """Run one command; exit codes as in docs/errors.md."""
    with error_contract():
        arguments = parser().parse_args(words)
        arguments.run(arguments)


def parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    top = Parser(prog=PROGRAM, description=__doc__)
    commands = top.add_subparsers(required=True, metavar="command", parser_class=Parser)

    def command(name: str, run: Any, about: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about)
        added.set_defaults(run=run)
        return added

    use = command("use", use_profile, "write a profile, or this machine's fastest settings, into params.yaml")
    use.add_argument("profile", help="a file such as configs/book.yaml, or `auto`")

    command("pin", pin_downloads, "fetch what has no sha256 yet and write its hash into params.yaml")

    generate = command("generate", generate_text, "continue a text")
    generate.add_argument("prompt", nargs="?", help="the text to continue; read from standard input where left out")
    generate.add_argument("--model", default="models/pretrain", help="a model folder (default: %(default)s)")
    _add_decoding(generate, tokens=50)

    classify = command("classify", classify_texts, "say whether messages are spam")
    classify.add_argument("message", nargs="*", help="one message each; lines of standard input where left out")
    classify.add_argument("--model", default="models/spam", help="a classifier folder (default: %(default)s)")

    chat = command("chat", chat_with_model, "give instructions and read the answers, one line each")
    chat.add_argument("--model", default="models/instruct", help="a model folder (default: %(default)s)")
    _add_decoding(chat, tokens=128)

    judge = command("judge", judge_file, "score the answers in a file of the responses form")
    judge.add_argument("file", type=Path, help="a list of {instruction, input, output, model_response}")
    for option in ("backend", "model", "url", "prompt"):
        judge.add_argument(f"--{option}", help=f"instead of judge.{option} in params.yaml")
    judge.add_argument("--out", type=Path, help="write the scores to this JSON file")

    agree = command("agree", compare_judges, "how far two judges agree who scored the same answers")
    for name in ("first", "second"):
        agree.add_argument(name, type=Path, help="a file of verdicts, such as `judge --out` writes")

    ablation = command("ablation", run_ablation, "chapter 6's table of variants: its rows as experiments, its figures")
    what = ablation.add_mutually_exclusive_group(required=True)
    what.add_argument("--queue", nargs="*", type=int, metavar="ROW", help="queue these rows; all that can run here")
    what.add_argument("--table", action="store_true", help="show what the experiments on the last commit gave")

    command("report", show_report, "the results of the last run in a short table")

    verify = command("verify", verify_numbers, "measure the book's printed numbers and compare")
    verify.add_argument("--only", default="*", metavar="PATTERN", help="rows whose id fits, such as 'attention.*'")
    verify.add_argument(
        "--run", nargs="+", default=[], dest="runs", metavar="NAME", help="first make these runs, as chapter5: long"
    )
    verify.add_argument("--write", type=Path, metavar="FILE", help="write the table to this Markdown file as well")

    command("repair", repair_project, "take away what a dvc that was killed left in the way of the next")
    command("fsck", check_outputs, "hash every output again and compare with dvc.lock")

    ui = command("ui", serve_ui, "the MLflow UI, on this machine only")
    ui.add_argument("--port", type=int, default=5000, help="(default: %(default)s)")
    return top


def use_profile(arguments: argparse.Namespace) -> None:
    """Write the values of a profile over params.yaml."""
    from stages.check import AllParams  # the whole schema is put together by the pipeline's first stage

    files.project_root()
    edited = _differs_from_git()
    if arguments.profile == "auto":
        from llm import runtime

        found = runtime.detect()
        current = params.read_all(AllParams)
        attention = current.model.attention
        if current.pretrain.mode == "exact":
            attention = runtime.fastest_attention(found, current.pretrain.context)
        changes = {"runtime": asdict(found), "model": {"attention": attention}}
        params.apply([changes], AllParams, origin="this machine")
        shown = ", ".join(f"{key} {value}" for key, value in asdict(found).items())
        print(f"params.yaml: runtime is now {shown}; model.attention {attention}")
    else:
        params.overlay(Path(arguments.profile), AllParams)
        print(f"params.yaml: {arguments.profile} applied; `dvc repro` runs what depends on it")
    if edited:
        print("params.yaml was not as git has it: profiles add up")
        print(f"to have this one alone: git checkout params.yaml && {PROGRAM} use {arguments.profile}")
    if edited is not None:
        print("`git diff params.yaml` shows all changes")
        print("to go back: git checkout params.yaml, then dvc repro (which finds the earlier results in its cache)")


def pin_downloads(_arguments: argparse.Namespace) -> None:
    """Fetch unpinned files and write hash and size into params.yaml."""
    from llm.download import pin
    from stages.check import AllParams

    files.project_root()
    everything = params.read_all(AllParams)
    changes = {}
    for item, source in everything.download.items():
        with Bars() as bars:
            pinned = pin(item, source, Path(".work/blobs"), os.environ.get("LLM_MIRROR"), bars.received)
        if pinned:
            changes[item] = pinned
            for file in pinned["files"]:
                print(f"{item}: {file['name']}: {file['size']:,} bytes, sha256 {file['sha256']}")
    if changes:
        params.apply([{"download": changes}], AllParams, origin="pin")
        print("params.yaml: written; look at `git diff params.yaml` and commit it")
    else:
        print("every download is pinned")


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

    form = prompt_form(arguments.model)
    loaded = _Loaded(arguments)
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
    import torch

    from llm import checkpoint
    from llm.spam import pad_right

    model, labels = checkpoint.load_classifier(arguments.model)
    if "spam" not in labels:
        what = f"its classes are {', '.join(labels)}, not spam"
        raise UserError(arguments.model, what, "take a folder of finetune_spam", DATA)
    tokenizer = checkpoint.load_tokenizer(arguments.model)
    limit = model.pad_to or model.gpt_config.context_length
    model.eval()
    if not arguments.message:
        _hint("one message a line; Ctrl-D ends")
    for message in arguments.message or (line.rstrip("\n") for line in sys.stdin):
        batch = pad_right([tokenizer.encode(message)[:limit] or [tokenizer.eot]], tokenizer.eot, model.pad_to, [0])
        with torch.no_grad():
            probabilities = model(batch.inputs, batch.lengths).softmax(dim=-1)[0]
        spam = float(probabilities[labels.index("spam")])
        print(f"{labels[int(probabilities.argmax())]}\t{spam:.4f}\t{message}", flush=True)


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


def run_ablation(arguments: argparse.Namespace) -> None:
    """Queue rows of configs/ablation/chapter6.yaml as experiments, or print the table of those that have run."""
    from llm import ablation
    from stages.check import AllParams

    files.project_root()
    table = ablation.read()
    if arguments.table:
        print("\n".join(ablation.render(table)))
        return
    for line in ablation.queue(table, arguments.queue, AllParams):
        print(line, flush=True)
    print(f"`{DVC} exp run --run-all` runs what is queued; then: {PROGRAM} ablation --table")


def verify_numbers(arguments: argparse.Namespace) -> None:
    """Print every number of the book's ledger beside ours; raises UserError where one is outside."""
    from llm.book import ledger, runs

    root, book = files.project_root(), ledger.read()
    for name, run in [(name, runs.known(name, book.runs)) for name in arguments.runs]:
        runs.make(name, run, root)
    results = list(ledger.verify(book, root, arguments.only))
    if not results:
        raise UserError("--only", f"{arguments.only!r} fits no row", "see the ids in llm/book/golden.yaml", USAGE)
    for line in ledger.table(results):
        print(line)
    if arguments.write:
        files.write_text(arguments.write, ledger.markdown(results))
    fix = "digits need x86 Linux and fp32; else compare torch's version with constraints.txt"
    problems = [
        UserError(result.row.id, f"is {ledger.shorten(result.ours)}, the book prints {result.row.published}", fix, DATA)
        for result in results
        if result.verdict == "outside"
    ]
    raise_all(problems)


def repair_project(_arguments: argparse.Namespace) -> None:
    """Say what had to be repaired; nothing where nothing had."""
    from llm.repair import repair

    for line in repair(files.project_root()):
        print(line)


def check_outputs(_arguments: argparse.Namespace) -> None:
    """Compare every output on disk with the md5 in dvc.lock: DVC itself trusts a file that looks untouched."""
    files.project_root()
    locked = [
        (str(out["path"]), str(out["md5"]))
        for stage in params.load("dvc.lock")["stages"].values()
        for out in stage.get("outs", [])
    ]
    problems = []
    for path, md5 in locked:
        if not Path(path).exists():
            problems.append(UserError(path, f"is not there, dvc.lock has {md5}", f"run `{DVC} checkout`", DATA))
        elif (found := files.dvc_md5(path)) != md5:
            fix = f"move .dvc/cache away, remove {path} and run `{DVC} repro`"
            problems.append(UserError(path, f"has md5 {found}, dvc.lock {md5}", fix, DATA))
    raise_all(problems)
    print(f"{len(locked)} outputs are as dvc.lock says")


def serve_ui(arguments: argparse.Namespace) -> None:
    """Run the MLflow UI until it is ended."""
    from llm import ui

    ui.serve(files.project_root(), arguments.port)


def show_report(_arguments: argparse.Namespace) -> None:
    """Print the results that stand in reports/, a sample text, and what to try next."""
    files.project_root()
    for line in report.lines():
        print(line)


class _Loaded:
    """A model with its tokenizer and decoding, as the command line asks for them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from llm import checkpoint
        from llm.generate import DecodingConfig

        self.model = checkpoint.load_model(arguments.model)
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


def _hint(text: str) -> bool:
    """Say on a terminal that standard input is being read; whether it is one."""
    interactive = sys.stdin.isatty()
    if interactive:
        print(text, file=sys.stderr)
    return interactive


def _differs_from_git() -> bool | None:
    """Whether params.yaml is not as git has it; None where there is no git to ask."""
    if not Path(".git").exists() or shutil.which("git") is None:
        return None
    asked = ["git", "--no-optional-locks", "diff", "--quiet", "--", "params.yaml"]
    code = subprocess.run(asked, capture_output=True, check=False).returncode
    return bool(code) if code in (0, 1) else None


def _add_decoding(command: argparse.ArgumentParser, tokens: int) -> None:
    command.add_argument("--max-new-tokens", type=int, default=tokens, help="at most (default: %(default)s)")
    command.add_argument("--temperature", type=float, default=0.0, help="0: always the likeliest token")
    command.add_argument("--top-k", type=int, help="sample from the k likeliest tokens only")
    command.add_argument("--top-p", type=float, help="sample from the likeliest tokens that make up this probability")
    command.add_argument("--seed", type=int, default=123, help="of sampling (default: %(default)s)")
