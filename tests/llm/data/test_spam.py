"""Labelled messages: the published numbers of the real file, invalid lines, and splits."""

import zipfile
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.common.errors import DATA, UserError, UserErrors
from llm.data.spam import SpamConfig, balanced_splits, read_messages, read_split, write_split

BOOK = SpamConfig(reading="book", order="shuffled", train_fraction=0.7, validation_fraction=0.1)
IN_FILE_ORDER = SpamConfig(reading="strict", order="file", train_fraction=0.5, validation_fraction=0.25)


@pytest.fixture(scope="module")
def sms(mirror, tmp_path_factory) -> Path:
    """The real SMS Spam Collection."""
    folder = tmp_path_factory.mktemp("sms")
    with zipfile.ZipFile(mirror / "sms+spam+collection.zip") as archive:
        return Path(archive.extract("SMSSpamCollection", folder))


def write(folder: Path, content: bytes | str) -> Path:
    data = content.encode("utf-8") if isinstance(content, str) else content
    (folder / "messages.tsv").write_bytes(data)
    return folder / "messages.tsv"


def refused(do, *arguments) -> str:
    with pytest.raises(UserError) as raised:
        do(*arguments)
    assert raised.value.code == DATA
    return str(raised.value)


def table(labels: str) -> pd.DataFrame:
    """Return one message for each letter (h or s) of `labels`; the text is the row number."""
    names = {"h": "ham", "s": "spam"}
    return pd.DataFrame([(names[letter], str(row)) for row, letter in enumerate(labels)], columns=["Label", "Text"])


# --- the real file ---


@pytest.mark.parametrize(("reading", "ham", "spam"), [("strict", 4827, 747), ("book", 4825, 747)])
def test_the_real_file_has_the_published_counts(reading, ham, spam, sms):
    assert Counter(read_messages(sms, reading)["Label"]) == {"ham": ham, "spam": spam}


def test_strict_reading_keeps_the_lines(sms):
    frame = read_messages(sms, "strict")
    lines = sms.read_text("utf-8").split("\n")[:-1]
    assert ["\t".join(row) for row in frame.itertuples(index=False)] == lines


def test_book_reading_is_the_default_of_pandas(sms):
    expected = pd.read_csv(sms, sep="\t", header=None, names=["Label", "Text"])
    pd.testing.assert_frame_equal(read_messages(sms, "book"), expected, check_dtype=False)


def test_the_split_of_the_book(sms):
    parts = balanced_splits(read_messages(sms, "book"), BOOK, seed=123)
    assert {split: len(part) for split, part in parts.items()} == {"train": 1045, "validation": 149, "test": 300}
    rows = [row for part in parts.values() for row in part.index]
    assert len(set(rows)) == 1494


def test_the_balanced_sample_starts_with_the_rows_in_the_book(sms):
    """The book prints the sample before the shuffle: 747 ham messages, then the spam messages."""
    frame = read_messages(sms, "book")
    drawn = frame[frame["Label"] == "ham"].sample(747, random_state=123)
    assert drawn.index[:5].tolist() == [4307, 4138, 4831, 4461, 5440]
    everything = pd.concat(balanced_splits(frame, BOOK, seed=123).values())
    shuffled = pd.concat([drawn, frame[frame["Label"] == "spam"]]).sample(frac=1, random_state=123)
    assert everything.index.tolist() == shuffled.index.tolist()
    another_seed = pd.concat(balanced_splits(frame, BOOK, seed=124).values())
    assert another_seed.index.tolist() != shuffled.index.tolist()


def test_strict_reading_gives_another_split(sms):
    """This is why `reading: book` exists."""
    strict, book = (balanced_splits(read_messages(sms, reading), BOOK, 123)["test"] for reading in ("strict", "book"))
    assert strict["Text"].tolist() != book["Text"].tolist()


def test_the_longest_training_message_of_the_book_has_120_tokens(sms, mirror):
    import tiktoken
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks
    from tiktoken_ext.openai_public import r50k_pat_str

    ranks = data_gym_to_mergeable_bpe_ranks(str(mirror / "vocab.bpe"), str(mirror / "encoder.json"))
    gpt2 = tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={})
    part = balanced_splits(read_messages(sms, "book"), BOOK, seed=123)["train"]
    assert max(len(gpt2.encode_ordinary(text)) for text in part["Text"]) == 120


# --- reading ---


@pytest.mark.parametrize("reading", ["strict", "book"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("ham\ta\nspam b\n", ":2: 0 tabs instead of one: 'spam b'"),
        ("ham\ta\nspam\tb\tc\n", ":2: 2 tabs instead of one: 'spam\\tb\\tc'"),
        ("ham\ta\n\nspam\tb\n", ":2: 0 tabs instead of one: ''"),
        ("ham\ta\nSPAM\tb\n", ":2: label 'SPAM' is not one of ham, spam"),
        ("\ta\nspam\tb\n", ":1: label '' is not one of ham, spam"),
        ("ham\ta\nspam\t \n", ":2: the message is empty"),
        ("ham\ta\nspam\t\n", ":2: the message is empty"),
        (b"ham\ta\nspam\tb\xff\n", ":2: byte 0xff at offset 12 is not UTF-8"),
        ("ham\ta\nham\tb\n", ": no message is labelled 'spam'"),
        ("spam\ta\n", ": no message is labelled 'ham'"),
        ("", ": the file is empty (0 bytes)"),
        ("<html>\n", ":1: 0 tabs instead of one"),
    ],
)
def test_an_invalid_line_is_reported_with_file_and_line(content, said, reading, tmp_path):
    path = write(tmp_path, content)
    assert refused(read_messages, path, reading).startswith(f"{path}{said}")


@pytest.mark.parametrize("reading", ["strict", "book"])
def test_ten_problems_are_listed_and_the_rest_is_counted(reading, tmp_path):
    few = write(tmp_path, "Ham\ta\nham\tb\nspam\t \n")
    with pytest.raises(UserErrors) as caught:
        read_messages(few, reading)
    assert [problem.where for problem in caught.value.problems] == [f"{few}:1", f"{few}:3"]
    many = write(tmp_path, "Ham\ta\n" * 1012)
    with pytest.raises(UserErrors) as caught:
        read_messages(many, reading)
    *listed, rest = caught.value.problems
    assert [problem.where for problem in listed] == [f"{many}:{line}" for line in range(1, 11)]
    assert (rest.where, rest.what, caught.value.code) == (str(many), "1,002 more problems", DATA)


def test_invalid_rows_of_pandas_are_listed(tmp_path):
    path = write(tmp_path, 'ham\t""\nham\tb\nspam\t""\n')
    with pytest.raises(UserErrors) as caught:
        read_messages(path, "book")
    assert [problem.where.partition(": ")[2] for problem in caught.value.problems] == [
        "row 1 as pandas reads it",
        "row 3 as pandas reads it",
    ]


@pytest.mark.parametrize("reading", ["strict", "book"])
@pytest.mark.parametrize(
    "text", ["NA", "null", "empty", "nan", "None", "12", "1e5", "True", "#N/A", "a\u2028b", "a\x85b"]
)
def test_special_words_and_unicode_line_ends_stay_text(text, reading, tmp_path):
    frame = read_messages(write(tmp_path, f"ham\t{text}\nspam\t{text}\n"), reading)
    assert frame["Text"].tolist() == [text, text]


@pytest.mark.parametrize("text", ["NA", "null", "nan", "None", "12", "1e5", "True", "#N/A", "a\u2028b", "a\x85b"])
def test_default_readers_change_such_a_text(text, tmp_path):
    """The control of the test above: pandas by default, and lines as split by Python."""
    path = write(tmp_path, f"ham\t{text}\nspam\t{text}\n")
    by_pandas = pd.read_csv(path, sep="\t", names=["Label", "Text"])["Text"].tolist()
    by_lines = [line.partition("\t")[2] for line in path.read_text("utf-8").splitlines()]
    assert [text, text] in (by_pandas, by_lines)
    assert by_pandas != by_lines


@pytest.mark.parametrize("reading", ["strict", "book"])
def test_a_byte_order_mark_crlf_and_a_missing_last_line_end_are_normalised(reading, tmp_path):
    frame = read_messages(write(tmp_path, b"\xef\xbb\xbfham\ta\r\nspam\tb"), reading)
    assert frame.values.tolist() == [["ham", "a"], ["spam", "b"]]


def test_quotes_are_text_in_strict_reading_and_join_lines_in_book_reading(tmp_path):
    path = write(tmp_path, 'ham\t"a\nham\tb"\nspam\t"c" d\n')
    assert read_messages(path, "strict")["Text"].tolist() == ['"a', 'b"', '"c" d']
    assert read_messages(path, "book")["Text"].tolist() == ["a\nham\tb", "c d"]


def test_a_quote_that_is_never_closed_is_a_data_error(tmp_path):
    path = write(tmp_path, 'ham\ta\nspam\t"b\n')
    assert "pandas cannot read it with quoting" in refused(read_messages, path, "book")
    assert len(read_messages(path, "strict")) == 2


def test_a_message_of_two_quotes_is_empty_in_book_reading(tmp_path):
    path = write(tmp_path, 'ham\ta\nspam\t""\n')
    assert "row 2 as pandas reads it: the message is empty" in refused(read_messages, path, "book")


# --- splits ---


def test_in_file_order_the_last_messages_of_each_class_are_held_out():
    parts = balanced_splits(table("hs" * 8), IN_FILE_ORDER, seed=1)
    assert {split: sorted(part.index) for split, part in parts.items()} == {
        "train": list(range(8)),
        "validation": list(range(8, 12)),
        "test": list(range(12, 16)),
    }


@pytest.mark.parametrize("order", ["file", "shuffled"])
@settings(deadline=None)
@given(
    labels=st.lists(st.sampled_from("hs"), min_size=40, max_size=80).map("".join),
    seed=st.integers(0, 2**32 - 1),
)
def test_splits_are_balanced_and_disjoint_and_contain_all_spam_messages(order, labels, seed):
    config = SpamConfig(reading="strict", order=order, train_fraction=0.5, validation_fraction=0.25)
    try:
        parts = balanced_splits(table(labels), config, seed)
    except UserError:  # too few of a class
        return
    rows = [row for part in parts.values() for row in part.index]
    assert len(set(rows)) == len(rows)
    assert Counter(labels[row] for row in rows) == {"h": labels.count("s"), "s": labels.count("s")}
    if order == "file":
        assert all(Counter(part["Label"])["ham"] == len(part) / 2 for part in parts.values())
        for label in "hs":
            cuts = [[row for row in part.index if labels[row] == label] for part in parts.values()]
            assert max(cuts[0]) < min(cuts[1]) < max(cuts[1]) + 1 < min(cuts[2]) + 1


def test_the_same_seed_gives_the_same_rows_in_the_same_order():
    first, again = (balanced_splits(table("hhs" * 60), BOOK, seed=5) for _ in range(2))
    assert all(first[split].index.tolist() == again[split].index.tolist() for split in first)


def test_too_few_ham_messages_are_refused():
    assert "3 ham messages are fewer than 4 spam messages" in refused(balanced_splits, table("hhhssss"), BOOK, 1)
    assert "2 ham messages are fewer than 3 spam messages" in refused(
        balanced_splits, table("h" * 8 + "s" * 9), IN_FILE_ORDER, 1
    )


def test_a_split_without_one_of_the_classes_is_refused():
    assert "the train split: 2 messages, but not both" in refused(balanced_splits, table("hs" * 2), BOOK, 1)
    assert "the validation split: 0 messages" in refused(balanced_splits, table("hs" * 3), IN_FILE_ORDER, 1)


@pytest.mark.parametrize(("train", "validation", "wrong"), [(0.7, 0.3, 1), (0.0, 0.1, 1), (0.7, 1.0, 2), (0.7, 0.2, 0)])
def test_fractions_must_leave_messages_for_each_split(train, validation, wrong):
    assert len(list(SpamConfig("strict", "file", train, validation).problems())) == wrong


# --- split files ---

TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from('",\r\n\t\x85\u2028'), min_size=1)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["ham", "spam"]), TEXTS), min_size=1, max_size=5))
def test_a_split_file_round_trips(tmp_path_factory, messages):
    path = tmp_path_factory.mktemp("split") / "train.csv"
    write_split(pd.DataFrame(messages, columns=["Label", "Text"]), path)
    labels, texts = read_split(path)
    assert [(["ham", "spam"][label], text) for label, text in zip(labels, texts, strict=True)] == messages


def test_a_very_long_message_round_trips(tmp_path):
    write_split(pd.DataFrame([("ham", "x" * 200_000)], columns=["Label", "Text"]), tmp_path / "a.csv")
    assert read_split(tmp_path / "a.csv") == ([0], ["x" * 200_000])


def test_a_split_file_is_the_csv_of_the_book(tmp_path):
    write_split(table("hs"), tmp_path / "a.csv")
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
    message = refused(read_split, tmp_path / "train.csv")
    assert message.startswith(str(tmp_path / "train.csv"))
    assert message.endswith("run `dvc repro tokenize@spam`")
