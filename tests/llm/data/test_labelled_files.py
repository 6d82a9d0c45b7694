"""Labelled text in the formats that people have: what is guessed, what is declared, and damaged rows."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from llm.common.errors import USAGE, UserError, UserErrors
from llm.common.params import parse
from llm.data.spam import SpamConfig, read_messages
from llm.data.table import read_table
from tests.tiny import MESSAGES

ROWS = [("spam" if n % 3 == 0 else "ham", f'message {n}, it says "win" for £{n}') for n in range(12)]
SWAPPED = [(text, label) for label, text in ROWS]
OBJECTS = [{"label": label, "text": text} for label, text in ROWS]


def table(
    rows: Sequence[Sequence[Any]], *header: str, delimiter: str = ",", quoting: Any = csv.QUOTE_MINIMAL, end: str = "\n"
) -> str:
    """CSV with a header, if one is given."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=end)
    writer.writerows([header, *rows] if header else rows)
    return text.getvalue()


def lines(rows: Sequence[Sequence[Any]]) -> str:
    return "".join("\t".join(row) + "\n" for row in rows)


def json_lines(entries: Sequence[Any], end: str = "\n") -> str:
    return "".join(json.dumps(entry) + end for entry in entries)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def refused(path: Path, config: SpamConfig = MESSAGES) -> list[str]:
    with pytest.raises(UserError) as caught:
        read_messages(path, config)
    problems = caught.value.problems if isinstance(caught.value, UserErrors) else [caught.value]
    return [str(problem).replace(str(path), "FILE") for problem in problems]


SPILLED = {"column 3": 1}
EXTRA = [{"id": n, "meta": {"a": 1}, "label_text": "x", **entry} for n, entry in enumerate(OBJECTS)]
FILES: dict[str, str | bytes] = {
    "a.tsv": lines(ROWS),
    "last.tsv": lines(SWAPPED),
    "head.tsv": "label\tmessage\n" + lines(ROWS),
    "head-last.tsv": "text\tlabel\n" + lines(SWAPPED),
    "id.tsv": "id\tlabel\tmessage\n" + lines([(str(n), *row) for n, row in enumerate(ROWS)]),
    "without-an-ending": lines(ROWS),
    "a.txt": lines(ROWS),
    "crlf.tsv": lines(ROWS).replace("\n", "\r\n"),
    "mac.tsv": lines(ROWS).replace("\n", "\r"),
    "blank-end.tsv": lines(ROWS) + "\n\n",
    "blank-lines.tsv": lines(ROWS[:3]) + "\n  \n" + lines(ROWS[3:]),
    "empty-columns.tsv": "v1\tv2\t\t\n" + lines([(*row, "", "") for row in ROWS]),
    "a.csv": table(ROWS),
    "last.csv": table(SWAPPED),
    "csv.txt": table(ROWS, "label", "text"),
    "tabs.csv": table(ROWS, "label", "text", delimiter="\t"),
    "semicolons.csv": table(ROWS, "label", "text", delimiter=";"),
    "semicolons-only.csv": table(ROWS, delimiter=";"),
    "pipes.csv": table(ROWS, "label", "text", delimiter="|"),
    "crlf.csv": table(ROWS, "label", "text", end="\r\n"),
    "quoted.csv": table(ROWS, "label", "text", quoting=csv.QUOTE_ALL),
    "kaggle.csv": table([(*row, "", "", "") for row in ROWS], "v1", "v2", "", "", ""),
    "empty-rows.csv": table([*ROWS, ("", ""), (" ", "")], "v1", "v2"),
    "index.csv": table([(n, *row) for n, row in enumerate(ROWS)], "", "label", "text"),
    "id-last.csv": table([(n, text, label) for n, (label, text) in enumerate(ROWS)]),
    "unusual-names.csv": table(ROWS, "Ziel", "Inhalt"),
    "spaces.csv": 'label, text\n"spam", "a, b"\n',
    "list.json": json.dumps(OBJECTS),
    "pretty.json": json.dumps(OBJECTS, indent=2),
    "wrapped.json": json.dumps({"data": OBJECTS}),
    "wrapped-deep.json": json.dumps({"version": 1, "info": {"by": "me"}, "rows": OBJECTS}, indent=1),
    "columns.json": json.dumps({"label": [label for label, _ in ROWS], "text": [text for _, text in ROWS]}),
    "pandas.json": pd.DataFrame(OBJECTS).to_json(),
    "pandas-split.json": pd.DataFrame(OBJECTS).to_json(orient="split"),
    "pairs.json": json.dumps(ROWS),
    "lines.json": json_lines(OBJECTS),
    "a.jsonl": json_lines(OBJECTS),
    "a.ndjson": json_lines(OBJECTS, "\r\n\r\n"),
    "jsonl.txt": json_lines(OBJECTS),
    "pairs.jsonl": json_lines(ROWS),
    "extra.jsonl": json_lines(EXTRA),
}
for encoding in ("utf-8-sig", "latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32"):
    FILES[f"{encoding}.tsv"] = lines(ROWS).encode(encoding)
    FILES[f"{encoding}.csv"] = table(ROWS, "v1", "v2").encode(encoding)
FILES["spaces.csv"] = "label, text\n" + "".join(f'{a}, "{b.replace(chr(34), chr(34) * 2)}"\n' for a, b in ROWS)


@pytest.mark.parametrize("name", FILES)
def test_a_common_file_is_read_without_any_declaration(name, tmp_path):
    messages = read_messages(write(tmp_path / name, FILES[name]), MESSAGES)
    assert list(zip(messages.frame["Label"], messages.frame["Text"], strict=True)) == ROWS
    assert messages.labels == ["ham", "spam"]


NAMES = [
    ("label", "text"),
    ("Category", "Message"),
    ("sentiment", "review"),
    ("v1", "v2"),
    ("class", "sms"),
    ("target", "tweet"),
    ("spam", "text"),
    ("is_spam", "email_body"),
    ("Sentiment", "Review Text"),
    ("classLabel", "messageBody"),
]


@pytest.mark.parametrize("names", NAMES, ids=str)
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("form", [lambda rows, names: table(rows, *names), lambda r, n: lines([n, *r])])
def test_usual_column_names_are_a_header_in_any_order(names, order, form, tmp_path):
    path = tmp_path / ("a.csv" if form([("a", "b")], names).count(",") else "a.tsv")
    messages = read_messages(write(path, form([row[::order] for row in ROWS], names[::order])), MESSAGES)
    assert list(zip(messages.frame["Label"], messages.frame["Text"], strict=True)) == ROWS
    read_as = messages.read_as
    assert (read_as["header"], read_as["label_column"], read_as["text_column"]) == (True, *names)


@pytest.mark.parametrize(
    "first", ["spam\tfree text", "ham\tlabel", "spam\ttext me", "ham\tv2", "spam\tmail", "other\tsee you at noon"]
)
def test_a_message_that_sounds_like_a_header_stays(first, tmp_path):
    rows = [tuple(first.split("\t")), *ROWS, ("other", "a b c"), ("other", "mail")]
    assert len(read_messages(write(tmp_path / "a.tsv", lines(rows)), MESSAGES).frame) == len(rows)


@pytest.mark.parametrize(
    ("name", "content", "read_as"),
    [
        ("a", lines(ROWS), {"format": "tsv", "encoding": "utf-8", "header": False, "quotes": False}),
        ("a", lines(ROWS).encode("cp1252"), {"encoding": "cp1252"}),
        ("a.csv", table(ROWS, "a", "b", delimiter=";"), {"format": "csv", "delimiter": ";", "header": True}),
        ("a.jsonl", json_lines(EXTRA), {"other_columns": {"id": 12, "meta": 12, "label_text": 12}}),
        ("a.csv", table([*ROWS, ("", "")]), {"empty_rows": 1, "columns_guessed": True}),
        (
            "a.csv",
            table([(*row, "") for row in ROWS] + [("ham", "b", " c")], "v1", "v2", ""),
            {"other_columns": {"column 3": 1}},
        ),
    ],
)
def test_it_is_said_how_a_file_was_read(name, content, read_as, tmp_path):
    found = read_messages(write(tmp_path / name, content), MESSAGES).read_as
    assert {key: found[key] for key in read_as} == read_as


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_repeated_headers_of_joined_files_are_errors_also_after_byte_order_marks(delimiter, tmp_path):
    one = ("\ufeff" + table(ROWS, "label", "text", delimiter=delimiter, end="\r\n")).encode()
    found = refused(write(tmp_path / ("a.csv" if delimiter == "," else "a.tsv"), one * 4))
    assert [problem.split(": ")[0] for problem in found] == ["FILE:14", "FILE:27", "FILE:40"]
    assert all("repeats the header" in problem for problem in found)


def test_a_large_csv_file_is_held_once(tmp_path):
    path = write(tmp_path / "a.csv", table([(label, text * 20) for label, text in ROWS * 2000], "label", "text"))
    tracemalloc.start()
    try:
        read_table(path, "csv", "strict", None, None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 11 * path.stat().st_size


def test_all_levels_of_an_index_of_parquet_are_columns(tmp_path):
    frame = pd.DataFrame(OBJECTS).assign(id=range(len(OBJECTS)), other="x")
    frame.set_index(["id", "label"]).to_parquet(tmp_path / "a.parquet")
    found = read_messages(tmp_path / "a.parquet", replace(MESSAGES, label_column="label"))
    assert list(found.frame["Label"]) == [label for label, _ in ROWS]


@pytest.mark.parametrize(("labels", "classes"), [([0, 1], ["0", "1"]), ([True, False], ["false", "true"])])
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_labels_may_be_numbers_and_truth_values(labels, classes, form, tmp_path):
    frame = pd.DataFrame({"text": [f"text number {n}" for n in range(6)], "label": labels * 3})
    path = tmp_path / f"a.{form}"
    frame.to_parquet(path) if form == "parquet" else frame.to_json(path, orient="records", lines=True)
    messages = read_messages(path, MESSAGES)
    assert messages.labels == classes
    named = replace(MESSAGES, labels={classes[0]: "b", classes[1]: "a"})
    assert Counter(read_messages(path, named).frame["Label"]) == {"a": 3, "b": 3}


@pytest.mark.parametrize("make", [pd.DataFrame, lambda rows: pd.DataFrame(rows).astype({"label": "category"})])
@pytest.mark.parametrize("name", ["a.parquet", "a"])
def test_parquet_is_read_whatever_its_name(make: Callable[[Any], pd.DataFrame], name, tmp_path):
    make(OBJECTS).to_parquet(tmp_path / name)
    messages = read_messages(tmp_path / name, MESSAGES)
    assert list(zip(messages.frame["Label"], messages.frame["Text"], strict=True)) == ROWS


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_quoted_line_breaks_are_text(name, tmp_path):
    rows = [(label, f'{text}\nsecond line,\tand\n\n"third"') for label, text in ROWS]
    content = table(rows, "label", "text", delimiter="\t" if name == "a.tsv" else ",")
    assert read_messages(write(tmp_path / name, content), MESSAGES).frame["Text"].tolist() == [text for _, text in rows]


def test_what_is_declared_is_not_guessed(tmp_path):
    rows = [(n, label, text, "x" if n % 2 else "y") for n, (label, text) in enumerate(ROWS)]
    path = write(tmp_path / "a.dat", table(rows, "n", "Art", "Inhalt", "label", delimiter=":").encode("utf-16-le"))
    declared = replace(MESSAGES, format="csv", delimiter=":", encoding="utf-16-le")
    guessed = read_messages(path, declared)
    assert guessed.labels == ["x", "y"]  # by the usual name
    for text, label in (("Inhalt", "Art"), ("inhalt", "ART"), ("3", "2")):
        named = read_messages(path, replace(declared, text_column=text, label_column=label, header=True))
        assert list(zip(named.frame["Label"], named.frame["Text"], strict=True)) == ROWS
        assert named.read_as["columns_guessed"] is False


def test_a_declared_header_or_none_is_believed(tmp_path):
    path = write(tmp_path / "a.csv", table(ROWS, "label", "text"))
    assert len(read_messages(path, replace(MESSAGES, header=False)).frame) == len(ROWS) + 1
    bare = write(tmp_path / "b.csv", table(ROWS))
    assert len(read_messages(bare, replace(MESSAGES, header=True)).frame) == len(ROWS) - 1


# --- damaged files ---


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", table(ROWS, "label", "text") + "ham,a,b\nham\n", ["FILE:14: 3 fields instead of 2: 'ham,a,b'"]),
        ("a.csv", table(ROWS, "label", "text") + 'ham\nham,""\n,x\n', [
            "FILE:14: the message is empty", "FILE:15: the message is empty", "FILE:16: the label is empty",
        ]),
        ("a.csv", table([("ham", "a\nb"), ("", "c")] * 2, "label", "text"), [
            "FILE:4: the label is empty", "FILE:7: the label is empty",
        ]),
        ("a.csv", 'label,text\nham,"a', ["FILE: not CSV: line 2: unexpected end of data"]),
        ("a.csv", "ham a\nspam b\n", ["FILE: not CSV: one field a line, no ',' or ';'"]),
        ("a.csv", ",,,\n,,\n", ["FILE: not CSV: one field a line, no ',' or ';'"]),
        ("a.csv", table([("9" * 5000, f"a {n}") for n in range(3)], "label", "text"), ["FILE: all 3 messages are"]),
        ("a.json", json.dumps({"columns": ["label", "text"], "data": [1, 2]}), [
            "FILE: entry 1: the text '1' is int, not a string", "FILE: entry 2: the text '2' is int, not a string",
        ]),
        ("a.json", json.dumps([*OBJECTS, {"label": "ham", "text": "\ud800"}]), [
            "FILE: entry 13: the message contains a lone surrogate",
        ]),
        ("a.json", json.dumps([*OBJECTS, {"label": "h\udfffm", "text": "a"}]), [
            "FILE: entry 13: the label contains a lone surrogate",
        ]),
        ("a.json", json.dumps([{"\ud800": 1, **entry} for entry in OBJECTS]), ["FILE: the key '\\ud800' contains"]),
        ("a.json", json.dumps([*OBJECTS, {"text": "a"}, {"label": "ham"}, {"label": ["x"], "text": "a"}]), [
            "FILE: entry 13: the label is empty",
            "FILE: entry 14: the message is empty",
            "FILE: entry 15: the label \"['x']\" is not one value",
        ]),
        ("a.json", json.dumps([*OBJECTS, {"label": "ham", "text": 5}, 7]), ["FILE: entry 14: '7' is not an object"]),
        ("a.json", json.dumps([*OBJECTS, {"label": "ham", "text": 5}]), ["FILE: entry 13: the text '5' is int, not"]),
        ("a.json", '{"a": {"b": 1}}', ["FILE: holds neither a list of entries nor an object"]),
        ("a.json", "[]", ["FILE: the list of entries is empty"]),
        ("a.json", "[{", ["FILE:1: not JSON"]),
        ("a.jsonl", json_lines(OBJECTS) + "{\n[\n", ["FILE:13: not JSON", "FILE:14: not JSON"]),
        ("a.parquet", b"PAR1" + bytes(40), ["FILE: not readable Parquet"]),
        ("a.tsv", "label\ttext\n", ["FILE: holds a header, but no row below it"]),
        ("a.csv", "label,text\n", ["FILE: holds a header, but no row below it"]),
        ("a.csv", table([("", "a")] * 5, "label", "text"), ["FILE: has 1 columns with content (text)"]),
        ("a.csv", table([("a", "x y", "b"), ("c", "z w", "d")] * 3, "p", "q", "r"), [
            "FILE: the label may be in one of 2 columns: p, r | fix: declare tokenize.spam.label_column",
        ]),
        ("a.tsv", lines(ROWS).encode("utf-8") + b"ham\tcaf\xe9\n", ["FILE:13: byte 0xe9 at offset"]),
        ("a.tsv", lines(ROWS).encode("cp1252") + b"ham\t\x81\n", ["FILE:1: byte 0xa3 at offset"]),
    ],
)  # fmt: skip
def test_every_damaged_row_is_named(name, content, said, tmp_path):
    found = refused(write(tmp_path / name, content))
    assert len(found) == len(said)
    assert all(problem.startswith(start) for problem, start in zip(found, said, strict=True)), found


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(b"a,b\n1,2\n", mtime=0), "is a gzip file, not text | fix: decompress it"),
        (b"PK\x03\x04" + bytes(26) + b"a.csv", "is a zip archive, not text | fix: take the file out of it"),
        (
            b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml",
            "is an Excel workbook, not text | fix: save the sheet as CSV",
        ),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "is a file of Microsoft Office, not text"),
        (b"%PDF-1.7\n%\xe2\xe3", "is a PDF file, not text"),
        (b"SQLite format 3\x00" + bytes(99), "is an SQLite database, not text"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html>", "is an HTML page, not the data | fix: download the file itself"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "is a Git-LFS pointer, not the data"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a"])
def test_what_is_no_text_is_named(name, content, said, tmp_path):
    (told,) = refused(write(tmp_path / name, content))
    assert told.startswith(f"FILE: {said}")


def test_a_label_of_parquet_is_one_value(tmp_path):
    pd.DataFrame({"text": ["a b c", "d e f"], "label": [["ham"], ["spam"]]}).to_parquet(tmp_path / "a.parquet")
    first, _ = refused(tmp_path / "a.parquet", replace(MESSAGES, label_column="label"))
    assert first.startswith("FILE: row 1: the label \"['ham']\" is not one value")


def test_a_byte_that_is_not_in_the_declared_encoding_is_named(tmp_path):
    path = write(tmp_path / "a.tsv", lines(ROWS).encode("cp1252"))
    (told,) = refused(path, replace(MESSAGES, encoding="utf-8"))
    assert "byte 0xa3 at offset" in told
    assert told.endswith("fix: save the file as UTF-8, or declare tokenize.spam.encoding")
    assert len(read_messages(path, replace(MESSAGES, encoding="latin-1")).frame) == len(ROWS)


@pytest.mark.parametrize("changes", [{"text_column": "body"}, {"label_column": "9"}], ids=str)
def test_a_declared_column_that_is_not_there_is_named_with_those_that_are(changes, tmp_path):
    (told,) = refused(write(tmp_path / "a.csv", table(ROWS, "label", "text")), replace(MESSAGES, **changes))
    (key, value), *_ = changes.items()
    assert told == f"params.yaml: tokenize.spam.{key}: {value!r} is not a column of FILE | fix: name one of label, text"


def test_labels_in_params_are_text_in_quotes():
    section = {name: getattr(MESSAGES, name) for name in MESSAGES.__dataclass_fields__}
    assert parse(SpamConfig, section | {"labels": {"1": "spam", "not spam": "ham"}}).labels == {
        "1": "spam",
        "not spam": "ham",
    }
    with pytest.raises(UserError) as caught:
        parse(SpamConfig, section | {"labels": {1: "spam", "0": "ham"}})
    assert caught.value.code == USAGE
    assert str(caught.value).endswith('the name 1 is not a string | fix: write it in quotes: "1"')


# Guesses that would be wrong without a word


def chosen(path: Path, header: str, row: Callable[[int], str]) -> tuple[str, str]:
    read_as = read_messages(write(path, "\n".join([header, *map(row, range(20))])), MESSAGES).read_as
    return read_as["text_column"], read_as["label_column"]


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("review_id,review_comment,label", "review_comment"),
        ("message_id,msg,label", "msg"),
        ("document_id,utterances,label", "utterances"),
        ("text_length,inhalt,label", "inhalt"),
        ("review_title,review_text,label", "review_text"),
    ],
)
def test_a_column_about_the_text_is_not_the_text(tmp_path: Path, header: str, text: str) -> None:
    row = "R{n:04},what a fine day number {n},{label}".format
    found = chosen(tmp_path / "a.csv", header, lambda n: row(n=n, label="good" if n % 2 else "bad"))
    assert found == (text, "label")


def test_a_label_whose_name_says_little_must_be_declared(tmp_path: Path) -> None:
    def row(n: int) -> str:
        return f"what a fine day number {n},{n % 5},{n % 2}"

    with pytest.raises(UserError, match="the label may be in one of 2 columns: user_rating, is_toxic"):
        chosen(tmp_path / "a.csv", "text,user_rating,is_toxic", row)
    assert chosen(tmp_path / "b.csv", "text,user_id,is_toxic", lambda n: f"day number {n},{n},{n % 2}")[1] == "is_toxic"
    assert chosen(tmp_path / "c.csv", "text,topic_id,stance", lambda n: f"day number {n},{n},{n % 2}")[1] == "stance"


def test_the_only_column_named_as_a_label_may_have_many_values(tmp_path: Path) -> None:
    rows = "a fine day,n1,good\nno day,n2,bad\nsome day,n3,mixed\n"
    found = read_messages(write(tmp_path / "a.csv", "text,number,my_label\n" + rows), MESSAGES)
    assert (found.read_as["label_column"], len(found.frame)) == ("my_label", 3)


def test_a_header_next_to_a_label_of_its_name(tmp_path: Path) -> None:
    rows = [f"hello there friend number {n},{'spam' if n % 3 else 'ham'}" for n in range(20)]
    found = read_messages(write(tmp_path / "a.csv", "\n".join(["email_text,spam", *rows])), MESSAGES)
    assert (found.read_as["header"], len(found.frame)) == (True, 20)


def test_a_first_row_with_fewer_fields_than_the_others_is_refused(tmp_path: Path) -> None:
    rows = [f"ham,hello there friend, and more {n}" for n in range(15)] + [f"spam,win {n}" for n in range(5)]
    (line,) = refused(write(tmp_path / "a.csv", "\n".join(["label,text", *rows])))
    assert "FILE:1: 2 fields, but 15 of 21 rows have more: 'label,text' | fix: quote the texts that have ','" in line


def test_two_delimiters_that_fit_are_refused(tmp_path: Path) -> None:
    text = "\n".join(f"{'Hello' if n % 2 else 'Dear all'}, this is text {n};{'abcde'[n % 5]}" for n in range(40))
    assert "the delimiter may be ',' or ';'" in refused(write(tmp_path / "a.csv", text))[0]
    found = read_messages(tmp_path / "a.csv", replace(MESSAGES, delimiter=";"))
    assert found.labels == list("abcde")


def test_json_by_column_is_joined_by_its_keys(tmp_path: Path) -> None:
    labels = {str(n): "spam" if n % 3 else "ham" for n in range(9)}
    texts = {key: f"text {key} {label}" for key, label in labels.items()}
    expected = sorted((label, texts[key]) for key, label in labels.items())
    turned = dict(reversed(labels.items()))
    rows = {key: {"text": texts[key], "label": label} for key, label in labels.items()}
    ids = {f"id{key}": row for key, row in rows.items()}
    for value in ({"text": texts, "label": turned}, rows, ids):
        found = read_messages(write(tmp_path / "a.json", json.dumps(value)), MESSAGES).frame
        assert sorted(found.itertuples(index=False, name=None)) == expected
    shifted = {"text": texts, "label": {str(int(key) + 1): label for key, label in labels.items()}}
    assert (
        "the columns 'text', 'label' do not have the same keys"
        in refused(write(tmp_path / "a.json", json.dumps(shifted)))[0]
    )
    split = {"columns": ["text", "label"], "data": [["a b", "ham"], ["a", "spam", "extra"]]}
    assert "FILE: row 2 of data: 3 cells instead of 2" in refused(write(tmp_path / "a.json", json.dumps(split)))[0]


def test_a_line_of_tabs_is_an_empty_row(tmp_path: Path) -> None:
    found = read_messages(write(tmp_path / "a.tsv", lines(ROWS) + "\t\t\n"), MESSAGES)
    assert (len(found.frame), found.read_as["empty_rows"]) == (12, 1)


# Joined files, and Excel's first line


@pytest.mark.parametrize("header", [None, True])
@pytest.mark.parametrize("delimiter", [",", "\t"])
@pytest.mark.parametrize("copies", [2, 4])
def test_a_header_that_is_repeated_is_named(header: bool | None, delimiter: str, copies: int, tmp_path: Path) -> None:
    one = table(ROWS, "label", "text", delimiter=delimiter)
    path = write(tmp_path / ("all.csv" if delimiter == "," else "all.tsv"), one * copies)
    repeated = [f"FILE:{1 + n * (len(ROWS) + 1)}: repeats the header, the first row" for n in range(1, copies)]
    assert [told.partition(" | ")[0] for told in refused(path, replace(MESSAGES, header=header))] == repeated


def test_a_first_row_that_is_repeated_is_no_header_by_that(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", table([("ham", "see you"), *ROWS, ("ham", "see you")]))
    assert len(read_messages(path, MESSAGES).frame) == len(ROWS) + 2


@pytest.mark.parametrize("delimiter", [";", "|"])
def test_the_line_about_the_delimiter_is_taken(delimiter: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", f"sep={delimiter}\n" + table(ROWS, "label", "text", delimiter=delimiter))
    found = read_messages(path, MESSAGES)
    assert found.frame.to_numpy().tolist() == [list(row) for row in ROWS]
    assert found.read_as["delimiter"] == delimiter
    path = write(tmp_path / "b.csv", f"sep={delimiter}\n" + table([*ROWS, ("", "no label")], delimiter=delimiter))
    assert refused(path)[0].startswith(f"FILE:{len(ROWS) + 2}: the label is empty")
