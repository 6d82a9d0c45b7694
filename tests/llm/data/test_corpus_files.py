"""The files of a corpus: folders, patterns, formats, compression, and what is refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.common.errors import DATA, UserError, UserErrors
from llm.data import corpus_files
from llm.data.corpus_files import CorpusFiles, DocumentsConfig
from llm.data.corpus_stream import read_parts

PLAIN = DocumentsConfig(files=None, format=None, text_field=None, encoding="utf-8")


def config(**changes: Any) -> DocumentsConfig:
    return DocumentsConfig(**{**vars(PLAIN), **changes})


def documents(folder: Path, separator: str | None = "\n\n", **changes: Any) -> list[str]:
    """The documents of a folder, whole."""
    found = [""]
    for part in read_parts(CorpusFiles(folder, config(**changes)), separator):
        found[-1] += part.text
        if part.ends:
            found.append("")
    assert found.pop() == ""
    return found


def refused(folder: Path, **changes: Any) -> list[str]:
    """The messages of the problems."""
    with pytest.raises(UserError) as caught:
        documents(folder, **changes)
    assert caught.value.code == DATA
    return [str(problem) for problem in getattr(caught.value, "problems", [caught.value])]


def jsonl(*records: Any) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def parquet(path: Path, **columns: list[Any]) -> None:
    pq.write_table(pa.table(columns), path, row_group_size=2)


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


# Which files


def test_sub_folders_are_read_in_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/b/c.TXT", "a/.hidden.txt", ".git/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert documents(tmp_path) == ["a/b/c.TXT", "a/z.md", "b.txt"]
    assert documents(tmp_path, files="a/**/*.md") == ["a/z.md"]
    assert documents(tmp_path, files="*.txt") == ["b.txt"]


def test_files_of_unknown_kinds_are_skipped_and_named(tmp_path: Path) -> None:
    for name in ("a.txt", "b.pdf", "c.log", "d", "e.parquet.gz"):
        (tmp_path / name).write_text(name)
    said: list[str] = []
    files = CorpusFiles(tmp_path, PLAIN, said.append)
    assert [path.name for path in files.skipped] == ["b.pdf", "c.log", "d", "e.parquet.gz"]
    assert said == ["skipped files of unknown kinds: b.pdf, c.log, d and 1 more"]
    assert documents(tmp_path) == ["a.txt"]
    assert documents(tmp_path, files="[cd]*", format="text") == ["c.log", "d"]


def test_a_folder_without_a_file_to_read_is_refused(tmp_path: Path) -> None:
    assert "contains no text file | fix: correct params.yaml: download.corpus" in refused(tmp_path)[0]
    (tmp_path / "a.pdf").write_text("a")
    assert "contains only files of unknown kinds, such as a.pdf; known: .txt, " in refused(tmp_path)[0]
    assert (
        "no text file that matches '*.txt' | fix: correct params.yaml: tokenize" in refused(tmp_path, files="*.txt")[0]
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [("encoding", "utf-9"), ("encoding", "base64"), ("files", "/etc/*"), ("files", "../*"), ("files", ""),
     ("files", "a**"), ("text_field", "")],
)  # fmt: skip
def test_a_section_that_cannot_work_is_a_problem(key: str, value: str) -> None:
    assert [name for name, *_ in config(**{key: value}).problems()] == [key]


def test_a_section_that_can_work_is_none() -> None:
    assert not list(config(encoding="latin-1", files="**/*.txt", text_field="x").problems())


# Text


@pytest.mark.parametrize(
    "compress", [gzip.compress, zstd, lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:])]
)
def test_compressed_text_is_read(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    suffix = ".zst" if compress is zstd else ".gz"
    (tmp_path / f"a.txt{suffix}").write_bytes(compress("naïve\n\nzwei".encode()))
    (tmp_path / f"b.jsonl{suffix}").write_bytes(compress(jsonl({"text": "drei"})))
    assert documents(tmp_path) == ["naïve", "zwei", "drei"]


@pytest.mark.parametrize(("suffix", "compress"), [("gz", gzip.compress), ("zst", zstd)])
@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: b"plain text", lambda data: data[:20] + b"?" * 20]
)
def test_damaged_compressed_data_is_refused(tmp_path: Path, suffix: str, compress: Any, damage: Any) -> None:
    path = tmp_path / f"a.txt.{suffix}"
    path.write_bytes(damage(compress(bytes(range(32, 127)) * 50)))
    (message,) = refused(tmp_path)
    assert message.startswith(f"{path}: not valid {'gzip' if suffix == 'gz' else 'zstd'}: ")


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.sampled_from(["a", "é", "🙂", "\n", "\r\n", "\r", "\n\n", " ", "\ufeff", "\x85"]), min_size=1),
    st.integers(1, 7),
)
def test_the_size_of_the_chunks_changes_no_text(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], chunk: int
) -> None:
    folder, text = tmp_path_factory.mktemp("text"), "x" + "".join(words)
    (folder / "a.txt").write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(corpus_files, "CHUNK", chunk)
        files = CorpusFiles(folder, PLAIN)
        assert "".join(files.texts(files.paths[0]) or []) == text.replace("\r\n", "\n")


def test_a_mark_and_crlf_are_dropped_and_said_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\r\ntwo\r\n")
    said: list[str] = []
    parts = list(read_parts(CorpusFiles(tmp_path, PLAIN, said.append), "\n\n"))
    assert [part.text for part in parts] == ["one", "two\n"]
    assert said == [f"{tmp_path}/a.txt: ignored a byte-order mark", f"{tmp_path}/a.txt: read CRLF as LF"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "cp1252", "gb18030"])
def test_other_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes("café\n\nzwei".encode(encoding))
    assert documents(tmp_path, encoding=encoding) == ["café", "zwei"]


@pytest.mark.parametrize("chunk", [1, 4, 1 << 20])
def test_bytes_that_are_not_text_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(corpus_files, "CHUNK", chunk)
    (tmp_path / "a.txt").write_bytes("é\r\nb\n".encode() + b"c\xffd")
    (tmp_path / "b.txt").write_bytes(b"fine")
    (tmp_path / "c.txt").write_bytes(b"\x89PNG")
    (tmp_path / "d.txt").write_bytes(b"ELF\0\1")
    messages = refused(tmp_path)
    assert [message.partition(" | ")[0] for message in messages] == [
        f"{tmp_path}/a.txt:3: byte 0xff at offset 7 is not UTF-8",
        f"{tmp_path}/c.txt:1: byte 0x89 at offset 0 is not UTF-8",
        *([f"{tmp_path}/d.txt: is not text: character 3 is NUL"] if chunk > 3 else []),
    ]


def test_a_character_cut_off_at_the_end_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("one é".encode()[:-1])
    assert "a.txt:1: byte 0xc3 at offset 4 is not UTF-8" in refused(tmp_path)[0]
    (tmp_path / "a.txt").write_bytes("a".encode("utf-16-le"))
    assert "a.txt: UTF-16 stream does not start with BOM" in refused(tmp_path, encoding="utf-16")[0]


@pytest.mark.parametrize("content", [b"", b"\n\n \n\n", b"\xef\xbb\xbf"], ids=["no byte", "line ends", "a mark"])
@pytest.mark.parametrize("separator", [None, "\n\n"])
def test_an_empty_text_file_is_refused(tmp_path: Path, content: bytes, separator: str | None) -> None:
    (tmp_path / "a.txt").write_text("one")
    assert documents(tmp_path, separator) == ["one"]
    (tmp_path / "b.txt").write_bytes(content)
    assert f"b.txt: the file is empty ({len(content)} bytes)" in refused(tmp_path)[0]


# Records


def test_the_text_of_jsonl_is_guessed_or_named(tmp_path: Path) -> None:
    records = [{"id": 1, "content": "one\n\nstill one", "title": "t1"}, {"content": "two", "title": "t2"}]
    (tmp_path / "a.jsonl").write_bytes(jsonl(*records) + b"\n")
    said: list[str] = []
    files = CorpusFiles(tmp_path, PLAIN, said.append)
    assert [part.text for part in read_parts(files, "\n\n")] == ["one\n\nstill one", "two"]
    assert (files.guessed, said) == ({"content"}, [f"{tmp_path}/a.jsonl: read the field 'content'"])
    assert documents(tmp_path, text_field="title") == ["t1", "t2"]


def test_every_bad_line_of_jsonl_is_numbered(tmp_path: Path) -> None:
    good = jsonl({"text": "one"})
    bad = b"not json\n[1]\n" + jsonl({"other": "x"}, {"text": None}, {"text": 5}) + b"{}\n" * 20
    bad += b'{"text": "lost", "text": "kept"}\n'
    (tmp_path / "a.jsonl").write_bytes(good + bad + good)
    (tmp_path / "b.jsonl").write_bytes(b"{}\n")
    messages = [message.partition(" | ")[0] for message in refused(tmp_path)]
    assert messages == [
        f"{tmp_path}/a.jsonl:2: lines that are not JSON: 2",
        f"{tmp_path}/a.jsonl:3: lines that are not JSON objects: 3",
        f"{tmp_path}/a.jsonl:4: lines that have no 'text': 4, 5, 7, 8, 9, 10, 11, 12, 13, 14 and 12 more",
        f"{tmp_path}/a.jsonl:6: lines that have a 'text' that is not text: 6",
        f"{tmp_path}/a.jsonl:27: lines that use a key twice: 27",
        f"{tmp_path}/b.jsonl: no field is one of text, content, document, body, article, story; the fields are none",
    ]


def test_empty_records_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl({"text": "one"}, {"text": " \n"}, {"text": ""}))
    files = CorpusFiles(tmp_path, PLAIN)
    assert [part.text for part in read_parts(files, None)] == ["one"]
    assert files.blank == 2


def test_parquet_is_read(tmp_path: Path) -> None:
    texts = ["one", "", "zwei é", "three\n\nthree"]
    parquet(tmp_path / "a.parquet", id=[1, 2, 3, 4], text=texts)
    pq.write_table(pa.table({"text": pa.array(texts).dictionary_encode()}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"body": pa.array(["large"], pa.large_string())}), tmp_path / "c.parquet")
    read = ["one", "zwei é", "three\n\nthree"]
    pq.write_table(pa.table({"text": pa.array(["view"], pa.string_view())}), tmp_path / "d.parquet")
    assert documents(tmp_path) == [*read, *read, "large", "view"]


def test_bad_parquet_is_refused(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", text=["one", None, "two", None])
    parquet(tmp_path / "b.parquet", text=[1, 2], other=["a", "b"])
    (tmp_path / "c.parquet").write_bytes(b"PAR1 not really")
    parquet(tmp_path / "d.parquet", text=["a" * 100] * 9)
    raw = (tmp_path / "d.parquet").read_bytes()
    (tmp_path / "d.parquet").write_bytes(raw[:-30] + raw[-8:])
    messages = [message.partition(" | ")[0] for message in refused(tmp_path)]
    assert messages[0] == f"{tmp_path}/a.parquet: rows that have no 'text': 2, 4"
    assert messages[1].startswith(f"{tmp_path}/b.parquet: has no column 'text' of text; ")
    assert messages[2].startswith(f"{tmp_path}/c.parquet: not valid Parquet: ")
    assert messages[3].startswith(f"{tmp_path}/d.parquet: not valid Parquet: ")
    what = "has no column 'text' of text; its columns are text (int64), other (string) | fix: "
    assert what + "set tokenize.documents.text_field" in refused(tmp_path)[1]
    assert what + "correct tokenize.documents.text_field" in refused(tmp_path, files="b*", text_field="text")[0]


def test_many_bad_files_are_listed_up_to_a_number(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number:02}.txt").write_bytes(b"\xff")
    with pytest.raises(UserErrors) as caught:
        documents(tmp_path)
    assert len(caught.value.problems) == 11
    assert "20 more problems" in str(caught.value.problems[-1])


def test_a_message_names_the_first_files_only(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"{number}.txt").write_bytes(b"a\r\nb")
    said: list[str] = []
    list(read_parts(CorpusFiles(tmp_path, PLAIN, said.append), None))
    assert said == [
        *(f"{tmp_path}/{number}.txt: read CRLF as LF" for number in range(3)),
        "more files: read CRLF as LF",
    ]


def test_progress_ends_at_the_size_of_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_files, "CHUNK", 16)
    (tmp_path / "a.txt").write_text("word " * 20)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(jsonl({"text": "b"})))
    parquet(tmp_path / "c.parquet", text=["c"] * 5)
    seen: list[tuple[int, int]] = []
    list(read_parts(CorpusFiles(tmp_path, PLAIN, progress=lambda done, total: seen.append((done, total))), None))
    total = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == ((16, total), (total, total))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(b"a story", mtime=0), "is a gzip file, not text | fix: decompress it, or remove it"),
        (b"PK\x03\x04" + bytes(40), "is a zip archive, not text"),
        (b"%PDF-1.7 of a story", "is a PDF file, not text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "is a Git-LFS pointer, not the text"),
    ],
)
def test_a_binary_file_that_is_named_as_a_text_is_refused(content, said, tmp_path):
    (tmp_path / "a.txt").write_bytes(content)
    (told,) = refused(tmp_path)
    assert told.startswith(f"{tmp_path}/a.txt: {said}")


def test_a_page_is_read_as_text_and_that_is_said(tmp_path):
    (tmp_path / "a.txt").write_text("<html>a story</html>")
    assert documents(tmp_path) == ["<html>a story</html>"]
    assert _said(tmp_path, "\n\n") == [f"{tmp_path}/a.txt: begins as an HTML page does; its tags are read as text"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("a story")
    assert refused(tmp_path / "a.txt") == [f"{tmp_path}/a.txt: is a file, not a folder of files | fix: name its folder"]


def test_half_of_an_emoji_in_jsonl_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"text": "bad \\ud83d end"}\n{"text": null}\n')
    messages = [message.partition(" | ")[0] for message in refused(tmp_path)]
    assert f"{tmp_path}/a.jsonl:2: lines that have a 'text' with a lone surrogate: 2" in messages
    assert f"{tmp_path}/a.jsonl:3: lines that have no 'text': 3" in messages


def test_a_field_without_text_in_the_first_line_is_named_as_in_others(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"text": "fine"}\n')
    assert refused(tmp_path)[0].startswith(f"{tmp_path}/a.jsonl:1: lines that have no 'text': 1")


def test_marks_of_documents_that_split_nothing_are_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One.\n<|endoftext|>\nTwo.\n<|endoftext|>\n")
    (tmp_path / "b.txt").write_bytes(b"one\r\rtwo")
    for separator, expected in (("\n\n", 2), ("<|endoftext|>", 1)):
        said: list[str] = []
        list(read_parts(CorpusFiles(tmp_path, PLAIN, said.append), separator))
        assert len(said) == expected
        assert said[-1] == f"{tmp_path}/b.txt: has CR for line ends, which separate no documents: save it with LF"
    assert "has <|endoftext|> as ordinary text" in "".join(_said(tmp_path, "\n\n"))


@pytest.mark.parametrize("chunk", [14, 16, 20])
def test_a_mark_across_two_chunks_is_said_too(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_files, "CHUNK", chunk)
    (tmp_path / "a.txt").write_text("One, two.<|endoftext|>")
    assert len(_said(tmp_path, "\n\n")) == 1


def test_a_separator_with_crlf_is_that_with_lf(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\n\r\ntwo\r\n--\r\nthree")
    assert [part.text for part in read_parts(CorpusFiles(tmp_path, PLAIN), "\r\n\r\n")] == ["one", "two\n--\nthree"]
    assert [part.text for part in read_parts(CorpusFiles(tmp_path, PLAIN), "\r\n--\r\n")] == ["one\n\ntwo", "three"]


def _said(folder: Path, separator: str) -> list[str]:
    said: list[str] = []
    list(read_parts(CorpusFiles(folder, PLAIN, said.append), separator))
    return said
