"""A comparison names what changed, fits a terminal, and is a page without a script or an outside resource."""

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from llm.common import files
from llm.compare import comparison, pages, terminal
from llm.compare.experiments import experiments
from llm.compare.snapshot import resolve
from tests.llm.compare.conftest import MESSAGES, N, experiment, git, write_run

GUARDED = {"seed": 1, "judge": {"prompt": "guarded"}}
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)> [red]a[/red] \x1b[31m"


def compared(first="HEAD", second="workspace") -> comparison.Comparison:
    return comparison.compare(resolve(first), resolve(second))


def printed(found: comparison.Comparison, width: int = terminal.WIDTH) -> str:
    file = io.StringIO()
    terminal.show(found, Console(file=file, width=width))
    return file.getvalue()


def test_nothing_differs(project):
    assert "Nothing differs" in printed(compared())
    assert "Nothing differs" in pages.comparison(compared())


@pytest.mark.parametrize("path", ["respond/responses.json", "evaluate_with_judge/scores.json"])
def test_a_report_that_was_cut_by_hand_differs(project, path):
    files.write_json(f"reports/{path}", files.read_json(f"reports/{path}")[: N // 2])
    assert "Nothing differs" not in printed(compared())


def test_one_parameter_of_the_judge(project):
    write_run(wrong=(0, 1, 2), params=GUARDED, scores=[50] * N)
    found = compared()
    assert [(one.where, one.first, one.second) for one in found.parameters] == [("judge.prompt", "book", "guarded")]
    assert [(one.name, one.reasons) for one in found.stages] == [("evaluate_with_judge", ("judge.prompt",))]
    moved = {one.where for one in found.figures}
    assert moved == {"evaluate_with_judge: score_mean", "evaluate_with_judge: prompt"}
    assert any("two different judges" in note for note in found.notes)
    assert not found.source_files
    assert len(found.answers) == N
    said = printed(found)
    assert re.search(r"judge: mean score .* -50\.0 +other judge\n", said)


@pytest.mark.parametrize(
    ("before", "after", "other"),
    [
        ({"backend": "ollama", "model": "a"}, {"backend": "ollama", "model": "b"}, True),
        ({"backend": "reference"}, {"backend": "ollama"}, True),
        ({"backend": "reference", "model": "a"}, {"backend": "reference", "model": "b"}, False),
        ({"backend": "ollama", "url": "a", "retries": 1}, {"backend": "ollama", "url": "b", "retries": 2}, False),
    ],
)
def test_there_is_no_verdict_on_the_scores_of_two_judges(project, before, after, other):
    write_run(params={"seed": 1, "judge": {"prompt": "book", **before}})
    git("commit", "-qam", "two")
    write_run(params={"seed": 1, "judge": {"prompt": "book", **after}}, scores=[50] * N)
    found = compared()
    verdict = found.headlines[-1].verdict
    assert (verdict.text, verdict.tone) == (("other judge", "neutral") if other else ("worse, p < 0.001", "worse"))
    assert "permutation test on the same 20 answers" in verdict.how
    assert any("two different judges" in note for note in found.notes) == other


def test_code_and_data_that_changed(project):
    Path("llm/model.py").write_text("two\n")
    write_run(wrong=(0, 1, 2), code="2", spam="bb")
    found = compared()
    assert found.source_files == [("llm/model.py", "+1 -1")]
    assert [(one.name, one.reasons) for one in found.stages] == [("finetune_spam", ("code", "data/spam"))]
    assert [(one.where, one.first, one.second) for one in found.data] == [("data/spam", "aa", "bb")]
    assert any("other test messages" in note for note in found.notes)


def test_a_parameter_that_has_not_been_run_is_told(project):
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("book", "guarded"))
    found = compared()
    assert found.notes == ["workspace: evaluate_with_judge has not run with these values yet: judge.prompt"]
    assert not found.stages


def test_stages_that_no_figure_needs_are_in_one_note(project):
    lock = files.read_json("dvc.lock")
    for name in ("reason_sft", "reason_rl"):
        lock["stages"][name] = {"cmd": "r", "params": {"params.yaml": {"judge.prompt": "another"}}}
    files.write_json("dvc.lock", lock)
    assert compared().notes == ["workspace: not run with the values in params.yaml yet: reason_sft, reason_rl"]


def test_nested_figures_are_compared_one_by_one(project):
    write_run(wrong=(0, 1, 2))
    path = Path("reports/finetune_spam/metrics.json")
    metrics = files.read_json(path)
    files.write_json(path, metrics | {"test_classes": {"ham": {"f1": 0.5}, "spam": {"f1": None}}})
    found = {one.where: one.second for one in compared().figures}
    assert found == {"finetune_spam: test_classes.ham.f1": 0.5, "finetune_spam: test_classes.spam.f1": None}
    assert "test_classes.ham.f1" in printed(compared())


def test_a_new_parameter_has_not_been_run_either(project):
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("prompt: book", "prompt: book\n  new: 1"))
    assert compared().notes == ["workspace: evaluate_with_judge has not run with these values yet: judge.new"]


def test_flips_show_the_message(project):
    write_run(wrong=(0, 1, 9))
    found = compared()
    assert [(pair.first.row, pair.first.text) for pair in found.flips] == [(9, MESSAGES[9]), (2, MESSAGES[2])]
    assert "1 became right, 1 became wrong" in printed(found)


@pytest.mark.parametrize("width", [100, 80, 60])
def test_a_line_is_never_wider_than_the_terminal(project, width):
    write_run(range(12), list(range(N)), 1.0, {"seed": 2, "judge": {"prompt": "x" * 300}}, answer="é🙂東 {}".format)
    said = printed(compared(), width)
    assert max(Console(width=500).measure(line).maximum for line in said.splitlines() if line) <= width


class Tags(HTMLParser):
    """All tags of a page, and what would be loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loads: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            if name.startswith("on") or (name in ("src", "href", "srcset", "action", "data") and tag != "use"):
                self.loads.append(f"{tag} {name}={value}")


def test_a_page_loads_nothing_and_texts_never_become_markup(project):
    write_run((5, 6), list(range(N)), answer=lambda _: EVIL, labels=("<b>ham</b>", "spam$x$"), val_loss=1.0)
    experiment("evil&<script>")
    page = pages.comparison(compared("HEAD", "evil&<script>"))
    found = Tags()
    found.feed(page)
    assert found.loads == []
    assert not found.tags & {"script", "img", "link", "iframe", "b", "red", "object"}
    assert "&lt;script&gt;alert(1)" in page
    assert "url(http" not in page
    assert page == pages.comparison(compared("HEAD", "evil&<script>"))  # no date, no random name


def test_texts_are_no_markup_in_the_terminal_either(project):
    write_run(scores=list(range(N)), answer=lambda _: EVIL)
    said = printed(compared())
    assert "\x1b" not in said
    assert "[red]a" in said


def test_ten_experiments_fit_a_terminal(project):
    git("config", "core.excludesFile", "")
    from dvc.repo import Repo

    Repo.init(".").close()
    git("add", "-A")
    git("commit", "-q", "-m", "dvc")
    for number in range(10):
        params = {"seed": number, "judge": {"prompt": "guarded", "a_long_name_of_a_parameter": number}}
        write_run(range(number), val_loss=number / 10, params=params)
        experiment(f"an-experiment-with-a-long-name-{number}")
    found = experiments()
    assert [one.is_baseline for one in found] == [True, *[False] * 10]
    by_name = {one.name: one for one in found}
    third = by_name["an-experiment-with-a-long-name-3"]
    assert {change.where for change in third.changed} == {"seed", "judge.prompt", "judge.a_long_name_of_a_parameter"}
    assert [value.value for value in third.values] == [0.3, 17 / 20, 1.0, 1.0, 100.0]
    file = io.StringIO()
    terminal.show_experiments(found, Console(file=file, width=100))
    said = file.getvalue()
    assert max(map(len, said.splitlines())) <= 100
    assert "85.0 %" in said
