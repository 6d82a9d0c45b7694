"""Agreement of two judges: worked by hand, and errors for files about different answers."""

import json
from pathlib import Path

import pytest

from llm.cli import parser
from llm.common.errors import DATA, UserError
from llm.evaluate.agreement import agree, lines


def write(path: Path, scores, **more) -> Path:
    records = [{"index": i, "status": "scored", "score": s, "reply": "", "flags": []} for i, s in enumerate(scores)]
    path.write_text(json.dumps([record | more for record in records]))
    return path


def test_agreement_by_hand(tmp_path):
    a = write(tmp_path / "a.json", [10, 20, 30, 40, None, 7])
    b = write(tmp_path / "b.json", [10, 30, 20, 90, 50, None])
    found = agree(a, b)
    assert (found.n_first, found.n_second, found.n_common) == (5, 5, 4)
    assert (found.mean_first, found.mean_second) == (25, 37.5)
    assert found.pearson == pytest.approx((15 * 27.5 + 5 * 7.5 - 5 * 17.5 + 15 * 52.5) / (500 * 3875) ** 0.5)
    assert found.spearman == pytest.approx(0.8)
    assert found.kendall == pytest.approx(4 / 6)


def test_verdicts_are_matched_by_index_not_by_position(tmp_path):
    a = write(tmp_path / "a.json", [1, 2, 3])
    b = tmp_path / "b.json"
    b.write_text(json.dumps(json.loads(a.read_text())[::-1]))
    assert agree(a, b).kendall == 1


def test_a_judge_with_constant_scores_has_no_correlation(tmp_path):
    found = agree(write(tmp_path / "a.json", [50, 50, 50]), write(tmp_path / "b.json", [1, 2, 3]))
    assert (found.pearson, found.spearman, found.kendall) == (None, None, None)
    assert "none: one judge's scores are all equal" in lines(found)[-1]


def test_different_answers_are_an_error(tmp_path):
    a, b = (write(tmp_path / name, [1, 2], model_response=name) for name in ("a", "b"))
    with pytest.raises(UserError, match="2 answers differ, the first is 0") as raised:
        agree(a, b)
    assert raised.value.code == DATA
    agree(a, write(tmp_path / "c", [1, 2]))  # without the keys of the answer there is nothing to compare
    agree(a, write(tmp_path / "d", [1, 2], model_response="a"))


def test_no_common_scores_are_an_error(tmp_path):
    with pytest.raises(UserError, match=r"no answer has a score in both files \(1 and 1 scores\)"):
        agree(write(tmp_path / "a", [1, None]), write(tmp_path / "b", [None, 1]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "not a list of verdicts"),
        ("{}", "not a list of verdicts"),
        ("[1]", "verdict 0: has index '' and score ''"),
        ('[{"index": 0}]', "has index 0 and score ''"),
        ('[{"index": 0, "score": 101}]', "score 101"),
        ('[{"index": 0, "score": 8.5}]', "score 8.5"),
        ('[{"index": [], "score": 8}]', "index []"),
        ('[{"index": true, "score": 8}]', "index True"),
        ('[{"index": 0, "score": 8}, {"index": 0, "score": 9}]', "verdict 1: index 0 occurs twice"),
    ],
)
def test_an_invalid_file_of_verdicts_is_an_error(text, said, tmp_path):
    (tmp_path / "wrong.json").write_text(text)
    with pytest.raises(UserError) as raised:
        agree(write(tmp_path / "a.json", [1]), tmp_path / "wrong.json")
    assert said in str(raised.value)


def test_the_command_prints_the_agreement(tmp_path, capsys):
    a, b = write(tmp_path / "a.json", [10, 20, 30, 40]), write(tmp_path / "b.json", [10, 30, 20, 90])
    parser.main(["agree", str(a), str(b)])
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "scored by both   4 (of 4 and 4)"
    assert shown[2] == "mean difference  -12.50"
    assert shown[-2:] == ["Spearman         0.800", "Kendall tau-b    0.667"]
    with pytest.raises(SystemExit) as ended:
        parser.main(["agree", str(a), str(tmp_path / "missing.json")])
    assert ended.value.code == DATA
