"""The console: change parameters, use the models, judge answers, look at results. `python -m llm --help`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from llm.cli.models import chat_with_model, classify_texts, compare_judges, generate_text, judge_file
from llm.cli.project import (
    check_outputs,
    pin_downloads,
    repair_project,
    run_ablation,
    serve_ui,
    show_report,
    use_profile,
    verify_numbers,
)
from llm.cli.report import PROGRAM
from llm.common.errors import USAGE, UserError, error_contract


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
    queued = "queue these rows; without numbers, all that can run here"
    what.add_argument("--queue", nargs="*", type=int, metavar="ROW", help=queued)
    what.add_argument("--table", action="store_true", help="show what the experiments on the last commit gave")

    command("report", show_report, "the results of the last run in a short table")

    verify = command("verify", verify_numbers, "measure the book's printed numbers and compare")
    verify.add_argument("--only", default="*", metavar="PATTERN", help="rows whose id fits, such as 'attention.*'")
    first = "first make these runs, such as chapter5, in .work/verify: minutes to hours each"
    verify.add_argument("--run", nargs="+", default=[], dest="runs", metavar="NAME", help=first)
    verify.add_argument("--write", type=Path, metavar="FILE", help="write the table to this Markdown file as well")

    command("repair", repair_project, "take away what a dvc that was killed left in the way of the next")
    command("fsck", check_outputs, "hash every output again and compare with dvc.lock")

    ui = command("ui", serve_ui, "the MLflow UI, on this machine only")
    ui.add_argument("--port", type=int, default=5000, help="(default: %(default)s)")
    return top


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{value} is not from 0 to {2**32 - 1}")
    return value


def _add_decoding(command: argparse.ArgumentParser, tokens: int) -> None:
    command.add_argument("--max-new-tokens", type=int, default=tokens, help="at most (default: %(default)s)")
    command.add_argument("--temperature", type=float, default=0.0, help="0: always the likeliest token")
    command.add_argument("--top-k", type=int, help="with a temperature: sample from the k likeliest tokens only")
    command.add_argument(
        "--top-p", type=float, help="with a temperature: sample from the likeliest tokens that make up this probability"
    )
    command.add_argument("--seed", type=_seed, default=123, help="of sampling (default: %(default)s)")
