"""The files of labelled splits: round trips, the book's CSV, and damaged files."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.common.errors import DATA, UserError
from llm.data.class_splits import read_labels, read_split, write_labels, write_split

LABELS = ["ham", "spam"]
TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from('",\r\n\t\x85\u2028'), min_size=1)


def frame(*rows: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["Label", "Text"])


def refused(do, *arguments) -> str:
    with pytest.raises(UserError) as raised:
        do(*arguments)
    assert raised.value.code == DATA
    return str(raised.value)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["ham", "spam", "a, b"]), TEXTS), min_size=1, max_size=5))
def test_a_split_file_round_trips(tmp_path_factory, messages):
    path, labels = tmp_path_factory.mktemp("split") / "train.csv", ["a, b", "spam", "ham"]
    write_split(frame(*messages), labels, path)
    classes, texts = read_split(path, 3)
    assert [(labels[one], text) for one, text in zip(classes, texts, strict=True)] == messages


def test_a_very_long_message_round_trips(tmp_path):
    write_split(frame(("ham", "x" * 200_000)), LABELS, tmp_path / "a.csv")
    assert read_split(tmp_path / "a.csv", 2) == ([0], ["x" * 200_000])


def test_a_split_file_is_the_csv_of_the_book(tmp_path):
    write_split(frame(("ham", "0"), ("spam", "1")), LABELS, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes() == b"Label,Text\n0,0\n1,1\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"Label,Text\n",
        b"a,b\n0,x\n",
        b"Label,Text\n2,x\n",
        b"Label,Text\n0\n",
        b'Label,Text\n0,"x',
        b"Label,Text\n0,\xff\n",
    ],
)
def test_a_damaged_split_is_a_data_error(content, tmp_path):
    (tmp_path / "train.csv").write_bytes(content)
    message = refused(read_split, tmp_path / "train.csv", 2)
    assert message.startswith(str(tmp_path / "train.csv"))
    assert message.endswith("run `dvc repro tokenize@spam`")


def test_labels_round_trip(tmp_path):
    write_labels(["b", "a: \u00e9", "1"], tmp_path)
    assert read_labels(tmp_path) == ["b", "a: \u00e9", "1"]


@pytest.mark.parametrize("content", [None, "[]", '["a"]', '["a", "a"]', '["a", 1]', '{"a": "b"}', "3"])
def test_missing_or_damaged_labels_are_a_data_error(content, tmp_path):
    if content is not None:
        (tmp_path / "labels.json").write_text(content)
    assert refused(read_labels, tmp_path).endswith("run `dvc repro tokenize@spam`")
