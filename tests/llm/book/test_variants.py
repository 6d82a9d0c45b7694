"""The table of variants: valid settings, queued if possible, compared on the same messages."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from llm.book import variants
from llm.book.variants import Ablation, Outcome, Row
from llm.common import dvc_exp, profiles
from llm.common.errors import UserError
from stages.schema import AllParams

ROOT = Path(__file__).parents[3]
COMMON = ("finetune_spam.position=last", "finetune_spam.padding=longest")


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def dvc(project, monkeypatch) -> list[tuple[str, ...]]:
    """The calls of DVC, which has no experiments."""
    asked: list[tuple[str, ...]] = []

    def answer(*words: str) -> str:
        asked.append(words)
        return '[{"experiments": null}]'

    monkeypatch.setattr(dvc_exp, "run", answer)
    return asked


def row(number: int, *settings: str, needs: str = "nothing", same_as: int | None = None) -> Row:
    return Row(number, f"variant {number}", 90.0, needs, settings, same_as)


def outcome(right: str) -> Outcome:
    """An outcome with one message per letter: + is right, - is wrong."""
    return Outcome("gpt2", {(str(n), "ham"): letter == "+" for n, letter in enumerate(right)})


def queued(asked) -> list[str]:
    return [words[words.index("-n") + 1] for words in asked if "--queue" in words]


# --- the committed table ---


def test_every_row_is_valid_with_all_of_the_books_models(project):
    for profile in ("book", "gpt2-medium", "gpt2-large", "gpt2-xl"):
        profiles.use(Path(f"configs/{profile}.yaml"), AllParams)
    table = variants.read()
    assert [row.number for row in table.rows] == list(range(1, 20))
    seen = set()
    for one in table.rows:
        settings = table.settings(one)
        everything = variants.with_settings(settings, AllParams, f"row {one.number}")
        assert Path(everything.finetune_spam.init_from).name in everything.import_gpt2
        seen.add(everything.finetune_spam)
    assert len(seen) == 18  # row 18 repeats row 1


def test_with_openais_124m_the_rows_of_that_size_are_queued(dvc):
    profiles.use(Path("configs/book.yaml"), AllParams)
    lines = list(variants.queue(variants.read(), [], AllParams))
    assert queued(dvc) == [f"ablation-{n:02d}" for n in (1, 2, 3, 4, 5, 10, 11, 13, 14, 15, 16, 17, 19)]
    assert "row  6, 355M: skipped: params.yaml does not import models/gpt2-355M" in lines
    settings = next(words for words in dvc if "ablation-02" in words)
    assert "finetune_spam.position=first" in settings
    assert "finetune_spam.position=last" not in settings


def test_without_weights_only_the_row_that_needs_none_is_queued_unless_it_is_named(dvc):
    lines = list(variants.queue(variants.read(), [], AllParams))
    assert queued(dvc) == ["ablation-10"]
    assert "row  1, last token, last block: skipped: it needs OpenAI's weights, not models/gpt2-sample" in lines
    list(variants.queue(variants.read(), [1], AllParams))
    assert queued(dvc) == ["ablation-10", "ablation-01"]


@pytest.mark.parametrize(
    ("number", "said"), [(6, "does not import models/gpt2-355M"), (18, "it repeats row 1"), (77, "there is no row 77")]
)
def test_a_named_row_that_cannot_run_stops_all_before_the_first_is_queued(number, said, dvc):
    with pytest.raises(UserError, match=said):
        list(variants.queue(variants.read(), [1, number], AllParams))
    assert queued(dvc) == []


# --- any table ---


def test_what_is_there_is_not_queued_again(project, monkeypatch):
    asked = []
    there = (
        '[{"experiments": [{"name": "ablation-01", "revs": [{"rev": "abc"}], "executor": {"state": "queued"}},'
        ' {"name": "ablation-02", "revs": null, "executor": {"state": "failed"}},'
        ' {"name": "ablation-02", "revs": [{"rev": "def"}], "executor": null}]}, {"experiments": null}]'
    )
    monkeypatch.setattr(dvc_exp, "run", lambda *words: asked.append(words) or there)
    assert variants.experiments() == {"ablation-01": ("abc", "queued"), "ablation-02": ("def", "success")}
    table = Ablation(COMMON, (row(1), row(2), row(3, "finetune_spam.position=first")))
    lines = list(variants.queue(table, [], AllParams))
    assert queued(asked) == ["ablation-03"]
    assert "ablation-01 exists (queued)" in lines[0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("finetune_spam.position=frist", "row 2: finetune_spam.position: 'frist' is not one of"),
        ("finetune_spam.positon=first", "row 2: finetune_spam.positon: unknown key"),
        ("seed.a.b=1", "row 2: seed.a.b: unknown key"),
        ("finetune_spam.lora={rank: 1", "row 2: finetune_spam.lora: '{rank: 1' is not YAML"),
        ("finetune_spam.position", "row 2: 'finetune_spam.position' sets nothing"),
        ("finetune_spam.padding=batch", "row 2: finetune_spam.padding: 'batch' with position 'last'"),
    ],
)
def test_a_row_that_sets_what_cannot_be_is_refused(settings, said, dvc):
    with pytest.raises(UserError) as raised:
        list(variants.queue(Ablation(COMMON, (row(1), row(2, settings))), [], AllParams))
    assert said in str(raised.value)
    assert queued(dvc) == []


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [((row(1), row(2)), 0), ((row(1), row(1)), 1), ((row(2),), 1), ((row(1), row(2, same_as=3)), 1), ((), 1)],
)
def test_rows_have_numbers_of_their_own_and_a_first(rows, wrong):
    assert len(list(Ablation((), rows).problems())) == wrong


def cells(lines) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines][2:]


def test_the_table_by_hand():
    table = Ablation((), (row(1), row(2), row(3), row(4), row(5, same_as=1), row(6)))
    first = outcome("+" * 8 + "-" * 2)
    outcomes = {
        "ablation-01": first,
        "ablation-02": outcome("-" * 8 + "-" * 2),  # 8 lost: p = 2 / 256
        "ablation-03": outcome("-" * 5 + "+" * 5),  # 5 lost, 2 won: p = 2 * 29 / 128
        "ablation-04": first,
    }
    found = cells(variants.markdown(table, outcomes, {"ablation-06": "failed"}))
    assert [one[:4] for one in found] == [
        ["1", "variant 1", "90.00", "80.00"],
        ["2", "variant 2", "90.00", "0.00"],
        ["3", "variant 3", "90.00", "50.00"],
        ["4", "variant 4", "90.00", "80.00"],
        ["5", "variant 5", "90.00", "80.00"],
        ["6", "variant 6", "90.00", "failed"],
    ]
    assert found[2][4] == "23.66 to 76.34"
    assert [one[-1] for one in found] == [
        "",
        "worse (+0 -8, p = 0.0078)",
        "not distinguishable (+2 -5, p = 0.45)",
        "not distinguishable (+0 -0, p = 1)",
        "the same run as row 1",
        "",
    ]


def test_a_better_row_is_called_better():
    table = Ablation((), (row(1), row(2)))
    outcomes = {"ablation-01": outcome("-" * 9), "ablation-02": outcome("+" * 9)}
    assert cells(variants.markdown(table, outcomes, {}))[1][-1] == "better (+9 -0, p = 0.0039)"


def test_rows_tested_on_other_messages_are_not_compared():
    table = Ablation((), (row(1), row(2)))
    other = replace(outcome("++"), right={("0", "spam"): True, ("1", "ham"): True})
    with pytest.raises(UserError, match="row 2 was tested on other messages than row 1"):
        list(variants.markdown(table, {"ablation-01": outcome("++"), "ablation-02": other}, {}))


def test_outside_of_git_dvc_says_so_in_one_line(project):
    (project / ".dvc").mkdir()
    with pytest.raises(UserError, match=r"^dvc exp show: .* fix: `git init`, "):
        variants.experiments()
