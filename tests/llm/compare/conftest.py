"""A project with reports in a git repository, without models."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dvc  # noqa: F401 (its log keeps the streams of the first import, and those of capsys would be closed)
import pytest
import yaml

from llm.common import files

N = 20  # test messages, and answers
MESSAGES = [f"message {number}" for number in range(N)]


def git(*words: str, given: str | None = None) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, check=True, input=given).stdout.strip()


def new_repository(patch: pytest.MonkeyPatch) -> None:
    """A repository in the current folder, in which `git` may commit."""
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        patch.setenv(f"{name}_NAME", "a")
        patch.setenv(f"{name}_EMAIL", "a@example.org")
    git("init", "-q", "-b", "main")


def write_run(
    wrong: Sequence[int] = (),
    scores: Sequence[float | None] = (100,) * N,
    val_loss: float = 2.0,
    params: dict[str, Any] | None = None,
    code: str = "1",
    spam: str = "aa",
    labels: Sequence[str] = ("ham", "spam"),
    answer: Callable[[int], str] = "answer {}".format,
) -> None:
    """Write params.yaml, dvc.lock and the reports of a run."""
    params = params or {"seed": 1, "judge": {"prompt": "book"}}
    files.write_text("params.yaml", yaml.safe_dump(params))
    right = N - len(wrong)
    files.write_json("reports/pretrain/metrics.json", {"val_loss": val_loss})
    files.write_csv("reports/pretrain/loss.csv", ["step", "val_loss", "lr"], [[0, 5.0, 0.1], [10, val_loss, 0.1]])
    files.write_csv("reports/pretrain/samples.csv", ["step", "text"], [[0, "a"], [10, "<b>sample</b>"]])
    accuracy = {"test_accuracy": right / N, "test_accuracy_ci95_low": 0.4, "test_accuracy_ci95_high": 0.95}
    files.write_json("reports/finetune_spam/metrics.json", accuracy)
    rows = []
    for row in range(N):
        actual = row % len(labels)
        said = (actual + 1) % len(labels) if row in wrong else actual
        sure = [0.75 if label == said else 0.25 / (len(labels) - 1) for label in range(len(labels))]
        rows.append(["test", row, labels[actual], labels[said], *sure])
    header = ["split", "row", "actual", "predicted", *(f"p_{label}" for label in labels)]
    files.write_csv("reports/finetune_spam/predictions.csv", header, rows)
    files.write_csv(
        "data/spam/test.csv", ["Label", "Text"], [[r % len(labels), text] for r, text in enumerate(MESSAGES)]
    )
    files.write_json("reports/finetune_instruct/metrics.json", {"val_loss": 1.0})
    entries = [{"instruction": f"question {n}", "input": "", "output": f"answer {n}"} for n in range(N)]
    responses = [entry | {"model_response": answer(n)} for n, entry in enumerate(entries)]
    files.write_json("reports/respond/responses.json", responses)
    exact = sum(one["model_response"] == one["output"] for one in responses)
    files.write_json("reports/respond/metrics.json", {"n_items": N, "n_exact": exact})
    judged = [
        {"index": n, "status": "refused" if score is None else "scored", "score": score}
        for n, score in enumerate(scores)
    ]
    files.write_json("reports/evaluate_with_judge/scores.json", judged)
    known = [score for score in scores if score is not None]
    mean = sum(known) / len(known) if known else None
    files.write_json(
        "reports/evaluate_with_judge/metrics.json",
        {"score_mean": mean, "score_ci95_low": 60.0, "score_ci95_high": 99.0, "prompt": params["judge"]["prompt"]},
    )
    _write_lock(params, code, spam)


def _write_lock(params: dict[str, Any], code: str, spam: str) -> None:
    def outs(*paths: str) -> list[dict[str, str]]:
        return [{"path": path, "md5": files.dvc_md5(path)} for path in paths]

    reports = "reports/evaluate_with_judge"
    stages = {
        "check": {"cmd": "c", "params": {"params.yaml": params}, "outs": [{"path": ".check", "md5": code}]},
        "finetune_spam": {
            "cmd": "a",
            "deps": [{"path": ".check/finetune_spam", "md5": code}, {"path": "data/spam", "md5": spam}],
            "params": {"params.yaml": {"seed": params["seed"]}},
            "outs": outs("reports/finetune_spam/metrics.json", "reports/finetune_spam/predictions.csv"),
        },
        "evaluate_with_judge": {
            "cmd": "b",
            "deps": outs("reports/respond/responses.json"),
            "params": {"params.yaml": {"judge": params["judge"]}},
            "outs": outs(f"{reports}/metrics.json", f"{reports}/scores.json"),
        },
    }
    files.write_json("dvc.lock", {"schema": "2.0", "stages": stages})  # JSON is YAML


def experiment(name: str) -> str:
    """Record the workspace as a DVC experiment on HEAD, as `dvc exp run` does, and go back to HEAD."""
    git("add", "-A")
    head = git("rev-parse", "HEAD")
    commit = git("commit-tree", git("write-tree"), "-p", head, "-m", f"dvc: commit experiment {name}")
    git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{name}", commit)
    git("reset", "-q", "--hard")
    return commit


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A committed run, with three of the test messages wrong."""
    monkeypatch.chdir(tmp_path)
    new_repository(monkeypatch)
    files.write_text(".gitignore", "/data/spam\n")
    files.write_text("llm/model.py", "one\n")
    write_run(wrong=(0, 1, 2))
    git("add", "-A")
    git("commit", "-q", "-m", "one")
    return tmp_path
