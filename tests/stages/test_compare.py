"""A real experiment: one parameter of the judge changes, and `llm compare` says what that did."""

import json
import subprocess

import pytest

from tests.fake_judge import FakeJudge, answer
from tests.stages.project import ROOT, Project

pytestmark = pytest.mark.slow


def git(project: Project, *words: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "core.autocrlf=false"]
    done = subprocess.run(["git", *identity, *words], cwd=project.folder, check=True, capture_output=True, text=True)
    return done.stdout


def judged(handler) -> None:
    """Half of the score if the prompt is the guarded one."""
    guarded = "stands between the two lines" in handler.fake.asked[-1].prompt
    answer("40" if guarded else "80")(handler)


def test_one_parameter_one_stage_and_the_figures_that_moved(tmp_path):
    with FakeJudge("ollama", [judged]) as fake:
        made = Project.small(tmp_path / "project", judge={"backend": "ollama", "url": fake.url})
        (made.folder / ".dvc/config.local").unlink()
        (made.folder / ".gitignore").write_bytes((ROOT / ".gitignore").read_bytes())
        git(made, "init", "-q")
        made.repro()
        git(made, "add", "-A")
        git(made, "commit", "-qm", "built")
        assert "Nothing differs" in made.run("llm", "compare").stdout
        made.run("dvc", "exp", "run", "-S", "judge.prompt=guarded", "-n", "guarded", "evaluate_with_judge")
        said = made.run("llm", "compare", "HEAD", "guarded", "--html", "page.html").stdout
    assert max(map(len, said.splitlines())) <= 100
    sections = dict(part.split("\n", 1) for part in said.split("\n\n"))
    assert [line.split() for line in sections["Parameters"].splitlines()[1:]] == [["judge.prompt", "book", "guarded"]]
    assert [line.split() for line in sections["Stages that ran"].splitlines()[1:]] == [
        ["evaluate_with_judge", "judge.prompt", "changed"]
    ]
    figures = sections["Headline figures, 95 % intervals"]
    assert figures.count("the same") == 4
    (judge,) = [line for line in figures.splitlines() if line.startswith("judge: mean score")]
    experiment = git(made, "for-each-ref", "--format=%(objectname)", "refs/exps/*/*/guarded").strip()
    report = "reports/evaluate_with_judge/metrics.json"
    before, after = (json.loads(git(made, "show", f"{rev}:{report}"))["score_mean"] for rev in ("HEAD", experiment))
    assert before > 0  # a model that learned for seconds answers some questions with nothing, which scores 0
    assert judge.split()[3:6] == [f"{before:.1f}", f"{before / 2:.1f}", f"{after - before:+.1f}"]
    assert judge.endswith("other judge")
    assert "evaluate_with_judge: prompt" in sections["Other figures that moved"]
    assert "Messages that flipped" not in said
    assert "<svg" not in (made.folder / "page.html").read_text()  # no curve differs
    listed = made.run("llm", "experiments").stdout
    assert "judge.prompt=guarded" in listed
    assert f"{after:.1f}" in listed
