"""Labelled messages: the published numbers of the real file, invalid lines, and splits."""

import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.book.measures.sources import SPAM as BOOK
from llm.common.errors import DATA, UserError, UserErrors
from llm.data.spam import Messages, balanced_splits, contradictions, read_messages
from tests.tiny import MESSAGES

LINES = replace(BOOK, reading="strict")
SHUFFLED = replace(MESSAGES, order="shuffled", train_fraction=0.7, validation_fraction=0.1)


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


def table(labels: str) -> Messages:
    """Return one message for each letter (h, s or p) of `labels`; the text is the row number."""
    names = {"h": "ham", "s": "spam", "p": "phish"}
    rows = [(names[letter], str(row)) for row, letter in enumerate(labels)]
    frame = pd.DataFrame(rows, columns=["Label", "Text"])
    return Messages(frame, sorted(set(frame["Label"])), {})


def counts(parts: dict[str, pd.DataFrame]) -> dict[str, dict[str, int]]:
    return {split: dict(Counter(part["Label"])) for split, part in parts.items()}


def config(reading: str) -> object:
    return replace(BOOK, reading=reading)


# --- the real file ---


@pytest.mark.parametrize(("reading", "ham", "spam"), [("strict", 4827, 747), ("book", 4825, 747)])
def test_the_real_file_has_the_published_counts(reading, ham, spam, sms):
    assert Counter(read_messages(sms, config(reading)).frame["Label"]) == {"ham": ham, "spam": spam}


def test_strict_reading_keeps_the_lines(sms):
    frame = read_messages(sms, LINES).frame
    lines = sms.read_text("utf-8").split("\n")[:-1]
    assert ["\t".join(row) for row in frame.itertuples(index=False)] == lines


def test_book_reading_is_the_default_of_pandas(sms):
    expected = pd.read_csv(sms, sep="\t", header=None, names=["Label", "Text"])
    pd.testing.assert_frame_equal(read_messages(sms, BOOK).frame, expected, check_dtype=False)


def test_the_split_of_the_book(sms):
    parts = balanced_splits(read_messages(sms, BOOK), BOOK, seed=123)
    assert {split: len(part) for split, part in parts.items()} == {"train": 1045, "validation": 149, "test": 300}
    rows = [row for part in parts.values() for row in part.index]
    assert len(set(rows)) == 1494


def test_the_balanced_sample_starts_with_the_rows_in_the_book(sms):
    """The book prints the sample before the shuffle: 747 ham messages, then the spam messages."""
    messages = read_messages(sms, BOOK)
    frame = messages.frame
    drawn = frame[frame["Label"] == "ham"].sample(747, random_state=123)
    assert drawn.index[:5].tolist() == [4307, 4138, 4831, 4461, 5440]
    everything = pd.concat(balanced_splits(messages, BOOK, seed=123).values())
    shuffled = pd.concat([drawn, frame[frame["Label"] == "spam"]]).sample(frac=1, random_state=123)
    assert everything.index.tolist() == shuffled.index.tolist()
    another_seed = pd.concat(balanced_splits(messages, BOOK, seed=124).values())
    assert another_seed.index.tolist() != shuffled.index.tolist()


def test_strict_reading_gives_another_split(sms):
    """This is why `reading: book` exists."""
    strict, book = (balanced_splits(read_messages(sms, config(one)), BOOK, 123)["test"] for one in ("strict", "book"))
    assert strict["Text"].tolist() != book["Text"].tolist()


def test_the_longest_training_message_of_the_book_has_120_tokens(sms, mirror):
    import tiktoken
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks
    from tiktoken_ext.openai_public import r50k_pat_str

    ranks = data_gym_to_mergeable_bpe_ranks(str(mirror / "vocab.bpe"), str(mirror / "encoder.json"))
    gpt2 = tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={})
    part = balanced_splits(read_messages(sms, BOOK), BOOK, seed=123)["train"]
    assert max(len(gpt2.encode_ordinary(text)) for text in part["Text"]) == 120


# --- reading ---


@pytest.mark.parametrize("reading", ["strict", "book"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("ham\ta\nspam b\n", ":2: 0 tabs instead of one: 'spam b'"),
        ("ham\ta\nspam\tb\tc\n", ":2: 2 tabs instead of one: 'spam\\tb\\tc'"),
        ("ham\ta\n\n  \nspam b\n", ":4: 0 tabs instead of one: 'spam b'"),
        ("ham\ta\nSPAM\tb\n", ":2: label 'SPAM' is not in tokenize.spam.labels"),
        ("\ta\nspam\tb\n", ":1: the label is empty"),
        ("ham\ta\nspam\t \n", ":2: the message is empty"),
        ("ham\ta\nspam\t\n", ":2: the message is empty"),
        (b"ham\ta\nspam\tb\xff\n", ":2: byte 0xff at offset 12 is not UTF-8"),
        ("ham\ta\nham\tb\n", ": no message is labelled 'spam'"),
        ("spam\ta\n", ": no message is labelled 'ham'"),
        ("", ": the file is empty (0 bytes)"),
        ("<HTML>\n", ": is an HTML page, not the data"),
    ],
)
def test_an_invalid_line_is_reported_with_file_and_line(content, said, reading, tmp_path):
    path = write(tmp_path, content)
    assert refused(read_messages, path, config(reading)).startswith(f"{path}{said}")


@pytest.mark.parametrize("reading", ["strict", "book"])
def test_ten_problems_are_listed_and_the_rest_is_counted(reading, tmp_path):
    few = write(tmp_path, "Ham\ta\nham\tb\nspam\t \n")
    with pytest.raises(UserErrors) as caught:
        read_messages(few, config(reading))
    assert [problem.where for problem in caught.value.problems] == [f"{few}:1", f"{few}:3"]
    many = write(tmp_path, "Ham\ta\n" * 1012)
    with pytest.raises(UserErrors) as caught:
        read_messages(many, config(reading))
    *listed, rest = caught.value.problems
    assert [problem.where for problem in listed] == [f"{many}:{line}" for line in range(1, 11)]
    assert (rest.where, rest.what, caught.value.code) == (str(many), "1,002 more problems", DATA)


def test_invalid_rows_of_pandas_are_listed(tmp_path):
    path = write(tmp_path, 'ham\t""\nham\t"b\nham\tc"\nspam\t""\n')
    with pytest.raises(UserErrors) as caught:
        read_messages(path, BOOK)
    assert [problem.where.partition(": ")[2] for problem in caught.value.problems] == [
        "row 1 as pandas reads it",
        "row 3 as pandas reads it",
    ]


@pytest.mark.parametrize("reading", ["strict", "book"])
@pytest.mark.parametrize(
    "text", ["NA", "null", "empty", "nan", "None", "12", "1e5", "True", "#N/A", "a\u2028b", "a\x85b"]
)
def test_special_words_and_unicode_line_ends_stay_text(text, reading, tmp_path):
    frame = read_messages(write(tmp_path, f"ham\t{text}\nspam\t{text}\n"), config(reading)).frame
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
    frame = read_messages(write(tmp_path, b"\xef\xbb\xbfham\ta\r\nspam\tb"), config(reading)).frame
    assert frame.values.tolist() == [["ham", "a"], ["spam", "b"]]


def test_quotes_are_text_in_strict_reading_and_join_lines_in_book_reading(tmp_path):
    path = write(tmp_path, 'ham\t"a\nham\tb"\nspam\t"c" d\n')
    assert read_messages(path, LINES).frame["Text"].tolist() == ['"a', 'b"', '"c" d']
    assert read_messages(path, BOOK).frame["Text"].tolist() == ["a\nham\tb", "c d"]


def test_a_quote_that_is_never_closed_is_a_data_error(tmp_path):
    path = write(tmp_path, 'ham\ta\nspam\t"b\n')
    assert "pandas cannot read it with quoting" in refused(read_messages, path, BOOK)
    assert len(read_messages(path, LINES).frame) == 2


def test_a_message_of_two_quotes_is_empty_in_book_reading(tmp_path):
    path = write(tmp_path, 'ham\ta\nspam\t""\n')
    assert ":2: the message is empty" in refused(read_messages, path, BOOK)


# --- classes ---


def file_of(folder: Path, *labels: str) -> Path:
    """Write three messages with each label."""
    return write(folder, "".join(f"{label}\tmessage {n} of {label}\n" for n in range(3) for label in labels))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["spam", "ham"], ["ham", "spam"]),
        (["1", "0"], ["0", "1"]),
        (["10", "9", "-1"], ["-1", "9", "10"]),
        (["sport", "3", "a b", "Ärzte"], ["3", "a b", "sport", "Ärzte"]),
    ],
)
def test_classes_are_sorted_numbers_first_by_value(labels, classes, tmp_path):
    assert read_messages(file_of(tmp_path, *labels), MESSAGES).labels == classes


def test_declared_labels_set_names_and_order(tmp_path):
    path = file_of(tmp_path, "HAM", "ham", "1")
    messages = read_messages(path, replace(MESSAGES, labels={"1": "spam", "HAM": "ham"}))
    assert messages.labels == ["spam", "ham"]
    assert Counter(messages.frame["Label"]) == {"ham": 6, "spam": 3}


def test_a_declared_name_may_also_be_a_label_of_the_file(tmp_path):
    path = file_of(tmp_path, "0", "1", "2")
    swapped = read_messages(path, replace(MESSAGES, labels={"0": "1", "1": "0", "2": "1"}))
    assert Counter(swapped.frame["Label"]) == {"1": 6, "0": 3}
    shifted = read_messages(path, replace(MESSAGES, labels={"0": "1", "1": "2", "2": "3"}))
    assert shifted.labels == ["1", "2", "3"]


def test_declared_labels_refuse_the_others_and_miss_the_absent(tmp_path):
    path = file_of(tmp_path, "ham", "spma")
    declared = replace(MESSAGES, labels={"ham": "ham", "spam": "spam"})
    with pytest.raises(UserErrors) as caught:
        read_messages(path, declared)
    assert [problem.where for problem in caught.value.problems] == [f"{path}:{line}" for line in (2, 4, 6)]
    assert "'spma' is not in tokenize.spam.labels" in str(caught.value)
    path = file_of(tmp_path, "ham")
    assert "no message is labelled 'spam'" in refused(read_messages, path, declared)


def test_one_class_is_refused(tmp_path):
    assert "all 3 messages are labelled 'ham'" in refused(read_messages, file_of(tmp_path, "ham"), MESSAGES)


def test_labels_that_differ_in_case_only_are_named(tmp_path):
    told = refused(read_messages, file_of(tmp_path, "HAM", "ham", "spam"), MESSAGES)
    assert "the labels 'HAM' and 'ham' differ in case only" in told
    assert "{HAM: ham, ...}" in told


def test_a_letter_in_two_spellings_is_named(tmp_path):
    told = refused(read_messages, file_of(tmp_path, "caf\u00e9", "cafe\u0301", "other"), MESSAGES)
    assert r"the labels 'cafe\u0301' and 'caf\xe9' differ in case, spaces or invisible characters only" in told


@pytest.mark.parametrize("twin", ["not\u00a0sure", "not  sure", "not sure\u200b", "not\ufeff sure", "Not\u3000Sure"])
def test_labels_that_look_alike_are_named(twin, tmp_path):
    told = refused(read_messages, file_of(tmp_path, "ham", "not sure", twin), MESSAGES)
    assert ascii(twin) in told
    assert "differ in case, spaces or invisible characters only | fix: write them in the same way" in told


def test_a_text_with_two_labels_is_found(tmp_path):
    messages = read_messages(write(tmp_path, "ham\ta b\n" * 2 + "spam\ta b\nspam\tc d\n"), MESSAGES)
    assert contradictions(messages.frame) == [{"text": "a b", "labels": {"ham": 2, "spam": 1}}]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"encoding": "utf-9"}, "encoding"),
        ({"encoding": "base64"}, "encoding"),
        ({"delimiter": ""}, "delimiter"),
        ({"delimiter": "::"}, "delimiter"),
        ({"delimiter": "\n"}, "delimiter"),
        ({"text_column": "a", "label_column": "a"}, "label_column"),
        ({"labels": {}}, "labels"),
        ({"labels": {"a": "x", "b": "x"}}, "labels"),
        ({"encoding": "latin-1", "delimiter": ";", "labels": {"a": "x", "b": "y"}, "text_column": "t"}, None),
    ],
)
def test_contradictions_in_the_section_are_found(changes, key):
    assert [name for name, _, _ in replace(MESSAGES, **changes).problems()] == ([key] if key else [])


# --- splits ---


def test_in_file_order_the_last_messages_of_each_class_are_held_out():
    parts = balanced_splits(table("hs" * 8), MESSAGES, seed=1)
    assert {split: sorted(part.index) for split, part in parts.items()} == {
        "train": list(range(8)),
        "validation": list(range(8, 12)),
        "test": list(range(12, 16)),
    }


@pytest.mark.parametrize("order", ["file", "shuffled", "stratified"])
@settings(deadline=None)
@given(
    labels=st.lists(st.sampled_from("hsp"), min_size=40, max_size=80).map("".join),
    balance=st.sampled_from(["none", "undersample"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_splits_are_disjoint_and_balanced_as_asked(order, labels, balance, seed):
    asked = replace(MESSAGES, order=order, balance=balance)
    try:
        parts = balanced_splits(table(labels), asked, seed)
    except UserError:  # too few of a class
        return
    rows = [row for part in parts.values() for row in part.index]
    assert len(set(rows)) == len(rows)
    found = Counter(labels[row] for row in rows)
    if balance == "none":
        assert found == Counter(labels)
    elif order == "shuffled":
        assert found == dict.fromkeys(set(labels), min(Counter(labels).values()))
    else:
        assert all(len(set(count.values())) == 1 for count in counts(parts).values())
    if order == "file":
        for letter in set(labels):
            cuts = [[row for row in part.index if labels[row] == letter] for part in parts.values()]
            assert max(cuts[0]) < min(cuts[1])
            assert max(cuts[1]) < min(cuts[2])


def test_the_stratified_order_holds_out_other_rows_than_the_last(tmp_path):
    parts = balanced_splits(table("hs" * 20), replace(MESSAGES, order="stratified"), seed=1)
    assert counts(parts) == {
        "train": {"ham": 10, "spam": 10},
        "validation": {"ham": 5, "spam": 5},
        "test": {"ham": 5, "spam": 5},
    }
    assert set(parts["test"].index) != set(range(30, 40))


def test_the_same_seed_gives_the_same_rows_in_the_same_order():
    first, again = (balanced_splits(table("hhs" * 60), SHUFFLED, seed=5) for _ in range(2))
    assert all(first[split].index.tolist() == again[split].index.tolist() for split in first)


def test_whichever_class_is_smaller_keeps_all_its_messages():
    for labels in ("hss" * 40, "hhs" * 40):
        parts = balanced_splits(table(labels), SHUFFLED, 1)
        assert Counter(label for part in parts.values() for label in part["Label"]) == {"ham": 40, "spam": 40}


def test_a_small_class_is_in_every_split_if_classes_are_cut_one_by_one():
    parts = balanced_splits(table("h" * 40 + "s" * 3), replace(SHUFFLED, order="file", balance="none"), 1)
    assert [count["spam"] for count in counts(parts).values()] == [1, 1, 1]


def test_a_class_with_fewer_messages_than_splits_is_refused():
    with pytest.raises(UserErrors) as caught:
        balanced_splits(table("h" * 8 + "ssp"), MESSAGES, 1)
    assert [problem.what for problem in caught.value.problems] == [
        "label 'phish' has 1 messages, not one for each split; the first is '10'",
        "label 'spam' has 2 messages, not one for each split; the first is '8'",
    ]


def test_a_split_without_one_of_the_classes_is_refused():
    assert "the validation split: 0 messages, but none labelled 'ham' or 'spam'" in refused(
        balanced_splits, table("hs" * 3), SHUFFLED, 1
    )


@pytest.mark.parametrize(("train", "validation", "wrong"), [(0.7, 0.3, 1), (0.0, 0.1, 1), (0.7, 1.0, 2), (0.7, 0.2, 0)])
def test_fractions_must_leave_messages_for_each_split(train, validation, wrong):
    asked = replace(MESSAGES, train_fraction=train, validation_fraction=validation)
    assert len(list(asked.problems())) == wrong
