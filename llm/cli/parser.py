"""Change parameters, run the pipeline, use the models, judge answers, compare with the book."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import shtab

from llm.cli.compare import compare_states, list_experiments, trace_artifact
from llm.cli.models import JUDGE_OPTIONS, classify_texts, compare_judges, export_model, generate_text, judge_file
from llm.cli.plan import plan_run
from llm.cli.program import program, version
from llm.cli.project import (
    check_outputs,
    pin_downloads,
    record_baseline,
    repair_project,
    run_ablation,
    run_pipeline,
    serve_ui,
    show_report,
    use_profile,
    verify_numbers,
)
from llm.cli.serve import chat_with_model, serve_models
from llm.common.errors import USAGE, UserError, error_contract, nearest
from llm.evaluate.judge_config import JudgeConfig
from llm.plan.gpus import GPUS

# The headings of the help, by the first command below each.
GROUPS = {"generate": "Models", "judge": "Judge", "verify": "Book", "completion": "Shell"}
Command = Callable[[str, Any, str], argparse.ArgumentParser]  # name, function, one line of help
SHELLS = ("bash", "zsh", "tcsh")
PROFILES = shtab.cmd("llm use --list 2> /dev/null") | {"tcsh": "`llm use --list`"}  # tcsh cannot redirect only errors


class Parser(argparse.ArgumentParser):
    """An argument parser that reports errors as docs/errors.md says and suggests the nearest name."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError instead of printing the usage."""
        raise self._refusal(message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown arguments here, where the options of the command are known."""
        known, unknown = super().parse_known_args(args, namespace)
        for word in unknown:
            option = word.partition("=")[0]
            if option.startswith("-"):
                raise self._refusal(f"{option} is not an option", option, self._option_string_actions)
            raise self._refusal(f"{word!r} is one argument too many")
        return known, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        if isinstance(action, argparse._SubParsersAction):
            raise self._refusal(f"{value!r} is not a command", value, action.choices)
        name, choices = action.option_strings[0] if action.option_strings else action.dest, list(action.choices)
        raise self._refusal(f"{name}: {value!r} is not one of {', '.join(choices)}", value, choices)

    def _refusal(self, what: str, word: str = "", known: Iterable[str] = ()) -> UserError:
        return UserError("command line", what, nearest(word, known, f"see `{self.prog} --help`"), USAGE)


class Grouped(argparse.HelpFormatter):
    """Lists the commands under the headings of GROUPS."""

    def _format_action(self, action: argparse.Action) -> str:
        if isinstance(action, argparse._SubParsersAction):
            return "".join(map(self._format_action, action._get_subactions()))
        heading = GROUPS.get(action.dest)
        return (f"\n{heading}:\n" if heading else "") + super()._format_action(action)


def main(words: Sequence[str] | None = None) -> None:
    """Run one command; exit codes as in docs/errors.md."""
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # before torch is imported; stages/__init__.py says why
    with error_contract():
        arguments = parser().parse_args(words)
        arguments.run(arguments)


def parser(name: str | None = None) -> argparse.ArgumentParser:
    """All commands with their options; `name` is the program's, in place of what the user typed."""
    top = Parser(prog=name or program(), description=__doc__, formatter_class=Grouped)
    top.add_argument("--version", action="version", version=version())
    top.set_defaults(run=lambda _: top.print_help())
    commands = top.add_subparsers(title="Pipeline", metavar="command", parser_class=Parser)

    def command(name: str, run: Any, about: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about)
        added.set_defaults(run=run)
        return added

    _add_pipeline(command)
    _add_models(command)
    _add_judge(command)
    _add_book(command)
    completion = command("completion", print_completion, "print a completion script for the program llm")
    completion.add_argument("shell", choices=SHELLS)
    return top


def print_completion(arguments: argparse.Namespace) -> None:
    """Print the completion script of a shell."""
    print(shtab.complete(parser("llm"), arguments.shell))


def _add_pipeline(command: Command) -> None:
    use = command("use", use_profile, "write a profile into params.yaml").add_mutually_exclusive_group(required=True)
    about = "a name such as book or ablation/small, a YAML file, or auto: the fastest settings of this machine"
    _complete(use.add_argument("profile", nargs="?", help=about), PROFILES)
    use.add_argument("--list", action="store_true", help="list all profiles")

    command("pin", pin_downloads, "download unpinned files and record their hashes")

    repro = command("repro", run_pipeline, "run the pipeline and show its results")
    about = (
        "stages to run, including their dependencies (default: chapters 2 to 7); options of `dvc repro` follow after --"
    )
    repro.add_argument("targets", nargs="*", metavar="target", help=about)
    repro.add_argument("-f", "--force", action="store_true", help="run stages even if nothing has changed")

    _add_plan(command("plan", plan_run, "show what a run would do, why and how long"))

    _add_html(command("report", show_report, "show the results of the last run"))

    compare = command("compare", compare_states, "show what differs between two states, with tests")
    about = "a git revision, an experiment, or workspace (default: %(default)s)"
    compare.add_argument("first", nargs="?", default="HEAD", metavar="A", help=about)
    compare.add_argument("second", nargs="?", default="workspace", metavar="B", help=about)
    _add_html(compare)

    experiments = command("experiments", list_experiments, "list the experiments with their headline figures")
    about = "include experiments on earlier commits"
    experiments.add_argument("-A", "--all", action="store_true", help=about)

    trace = command("trace", trace_artifact, "show where a file came from, and how to restore it")
    about = "a path such as models/spam or reports/pretrain/loss.csv, 4 or more digits of an md5, or an MLflow run id"
    _complete(trace.add_argument("what", metavar="WHAT", help=about), shtab.FILE)
    trace.add_argument("-A", "--all", action="store_true", help="show the inputs of the inputs too, up to the sources")

    command("baseline", record_baseline, "commit this machine's figures, to compare changes with them")

    ui = command("ui", serve_ui, "serve the MLflow UI on this machine")
    ui.add_argument("--port", type=int, default=5000, help="(default: %(default)s)")

    command("repair", repair_project, "remove stale locks and temporary files after DVC was killed")
    fsck = command("fsck", check_outputs, "compare the hashes of all outputs with dvc.lock")
    about = "restore damaged outputs from the workspace, the cache or a remote, or by running stages again"
    fsck.add_argument("--repair", action="store_true", help=about)


def _add_plan(plan: argparse.ArgumentParser) -> None:
    about = (
        "stages to plan, including their dependencies (default: chapters 2 to 7, as `llm repro`; dvc.yaml means all)"
    )
    plan.add_argument("targets", nargs="*", metavar="target", help=about)
    plan.add_argument("--brief", action="store_true", help="print one line")
    several = plan.add_argument_group("estimate for several GPUs")

    def option(name: str, about: str, **how: Any) -> None:
        shown = about if how.get("default") is None else f"{about} (default: %(default)s)"
        several.add_argument(name, help=shown, **how)

    about = "GPU counts to compare, such as 1 8 64; estimates a hypothetical model instead of this project's stages"
    option("--ranks", about, type=_count, nargs="+", metavar="N")
    option("--gpu", f"one of {' '.join(GPUS)}", default="h100", metavar="NAME")
    option("--model", "one or more of 124M 355M 774M 1558M 7B (default: all)", nargs="+", metavar="SIZE")
    option("--context", "tokens in a sequence", type=_count, default=1024, metavar="T")
    option("--batch", "sequences in an update", type=_count, default=512, metavar="B")
    option("--tokens", "training tokens, such as 3e9 (default: 20 per parameter)", type=_positive, metavar="N")
    option("--efficiency", "fraction of peak speed", type=_positive, default=0.4, metavar="X")
    option("--network", "GB/s per GPU to other machines", type=_positive, default=50.0, metavar="GB")
    option("--price", "price of one GPU hour", type=_positive, default=2.5, metavar="P")


def _add_models(command: Command) -> None:
    generate = command("generate", generate_text, "continue a text")
    generate.add_argument("prompt", nargs="?", help="the text to continue (default: read it from standard input)")
    _add_model(generate, "models/pretrain")
    _add_decoding(generate, tokens=50)

    chat = command("chat", chat_with_model, "hold a conversation, one message per line")
    _add_model(chat, "models/instruct")
    _add_decoding(chat, tokens=128)
    _add_context(chat)

    serve = command("serve", serve_models, "serve models with OpenAI's API and a page, on this machine")
    about = "folders of language models and classifiers (default: those of instruct, pretrain and spam that exist)"
    _complete(serve.add_argument("model", nargs="*", metavar="FOLDER", help=about), shtab.DIRECTORY)
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; there is no password (default: %(default)s)"
    )
    serve.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    about = "decode at most N requests of a model together (default: %(default)s)"
    serve.add_argument("--rows", type=int, default=32, metavar="N", help=about)
    _add_context(serve)
    about = "at most N requests wait; more are refused with status 429 (default: %(default)s)"
    serve.add_argument("--queue", type=int, default=128, metavar="N", help=about)
    about = "end a request after S seconds (default: %(default)s)"
    serve.add_argument("--seconds", type=float, default=120.0, metavar="S", help=about)

    classify = command("classify", classify_texts, "classify messages with the labels of the model")
    about = "a message (default: read one per line from standard input)"
    classify.add_argument("message", nargs="*", help=about)
    _add_model(classify, "models/spam")

    export = command("export", export_model, "write a model as one file for llama.cpp and Ollama")
    _complete(export.add_argument("folder", type=Path, help="a model folder, such as models/instruct"), shtab.DIRECTORY)
    about = "the GGUF file to write; a Modelfile for Ollama is written next to it"
    _complete(export.add_argument("--gguf", type=Path, required=True, metavar="FILE", help=about), shtab.FILE)
    about = "type of the matrices: 4, 2 or about 1 byte a weight (default: %(default)s)"
    export.add_argument("--type", choices=("f32", "f16", "q8_0"), default="f16", help=about)


def _add_judge(command: Command) -> None:
    judge = command("judge", judge_file, "score a responses.json file, or compare two")
    about = "a list of {instruction, input, output, model_response}"
    _complete(judge.add_argument("file", type=Path, help=about), shtab.FILE)
    about = "compare with the answers in OTHER instead: which one is better, asked in both orders"
    _complete(judge.add_argument("--against", type=Path, metavar="OTHER", help=about), shtab.FILE)
    for option in JUDGE_OPTIONS:
        values = get_args(get_type_hints(JudgeConfig)[option]) or None
        judge.add_argument(f"--{option}", choices=values, help=f"overrides judge.{option} in params.yaml")
    _complete(judge.add_argument("--out", type=Path, metavar="FILE", help="write the scores as JSON"), shtab.FILE)

    agree = command("agree", compare_judges, "measure the agreement between two judges")
    for which in ("first", "second"):
        about = f"scores of the {which} judge, as `judge --out` writes them"
        _complete(agree.add_argument(which, type=Path, help=about), shtab.FILE)


def _add_book(command: Command) -> None:
    verify = command("verify", verify_numbers, "compare our numbers with those printed in the book")
    verify.add_argument("--only", default="*", metavar="PATTERN", help="only ids that match, such as 'attention.*'")
    about = "first run these, such as chapter5, in .work/verify (minutes to hours each)"
    verify.add_argument("--run", nargs="+", default=[], dest="runs", metavar="NAME", help=about)
    about = "also write the table as Markdown"
    _complete(verify.add_argument("--write", type=Path, metavar="FILE", help=about), shtab.FILE)

    ablation = command("ablation", run_ablation, "run and show the table of variants of chapter 6")
    what = ablation.add_mutually_exclusive_group(required=True)
    about = "queue these rows as experiments (default: all that can run here)"
    what.add_argument("--queue", nargs="*", type=int, metavar="ROW", help=about)
    what.add_argument("--table", action="store_true", help="show the results of the experiments on the last commit")


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{value} is not from 0 to {2**32 - 1}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not above 0")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{value} is not above 0")
    return value


def _complete(argument: argparse.Action, by: Any) -> None:
    """Have shtab complete the argument by FILE, DIRECTORY or a command."""
    argument.complete = by  # type: ignore[attr-defined]


def _add_html(command: argparse.ArgumentParser) -> None:
    about = "also write a page that works offline"
    _complete(command.add_argument("--html", type=Path, metavar="FILE", help=about), shtab.FILE)


def _add_model(command: argparse.ArgumentParser, default: str) -> None:
    about = "a model folder (default: %(default)s)"
    _complete(command.add_argument("--model", default=default, metavar="FOLDER", help=about), shtab.DIRECTORY)


def _add_context(command: argparse.ArgumentParser) -> None:
    about = "at most N tokens in a prompt with its answer; fewer need less memory (default: as many as the model reads)"
    command.add_argument("--context", type=int, metavar="N", help=about)


def _add_decoding(command: argparse.ArgumentParser, tokens: int) -> None:
    about = "write at most N tokens (default: %(default)s)"
    command.add_argument("--max-new-tokens", type=int, default=tokens, metavar="N", help=about)
    about = "0 always takes the most likely token (default: %(default)s)"
    command.add_argument("--temperature", type=float, default=0.0, metavar="T", help=about)
    about = "sample from the K most likely tokens (with a temperature)"
    command.add_argument("--top-k", type=int, metavar="K", help=about)
    about = "sample from the most likely tokens with this total probability (with a temperature)"
    command.add_argument("--top-p", type=float, metavar="P", help=about)
    command.add_argument("--seed", type=_seed, default=123, help="random seed for sampling (default: %(default)s)")
