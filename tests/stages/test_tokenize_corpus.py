"""The stage `tokenize@corpus` on folders of every shape, and what it leaves when it refuses one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import tokenize
from llm.common.errors import DATA
from llm.data.corpus import read_shard
from llm.data.tokenizer import Tokenizer
from tests import tiny_tokenizers
from tests.stages.project import Project

TEXT = "the quick brown fox and the lazy dog, again and again "


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project whose corpus is a folder with one file of each kind; nothing has run."""
    made = Project.create(tmp_path / "project")
    made.set(
        tracking={"enabled": False},
        runtime={"kernels": "native"},
        download={"corpus": {"source": "mine"}},
        tokenizer={"vocab_size": 300},
    )
    mine = made.folder / "mine"
    (mine / "sub/deep").mkdir(parents=True)
    (mine / "a.txt").write_bytes(b"first\r\n \r\nsecond " + TEXT.encode() * 20)
    (mine / "sub/b.md").write_text("# Title\n\n" + TEXT)
    (mine / "sub/c.pdf").write_text("not text")
    (mine / "sub/deep/d.jsonl.gz").write_bytes(gzip.compress(b'{"content": "third"}\n{"content": " "}\n'))
    (mine / "sub/e.txt.zst").write_bytes(pa.compress(TEXT.encode(), codec="zstd", asbytes=True))
    pq.write_table(pa.table({"text": [TEXT] * 12}), mine / "sub/f.parquet")
    return made


@pytest.mark.slow
def test_a_folder_of_every_kind_of_file_becomes_shards(project: Project) -> None:
    project.run("stages.download", "corpus")
    project.run("stages.tokenizer")
    said = project.run("stages.tokenize_corpus").stderr
    report = json.loads((project.folder / "reports/tokenize/corpus.json").read_text())
    expected = {"documents": 18, "files": 5, "skipped_files": 1, "blank_records": 1, "guessed_field": "content, text"}
    assert {key: report[key] for key in expected} == expected
    assert report["tokens"] == report["train_tokens"] + 1 + report["val_tokens"]
    for line in ("skipped files of unknown kinds: c.pdf", "a.txt: read CRLF as LF", "f.parquet: read the field 'text'"):
        assert line in said
    ours = Tokenizer.load(project.folder / "data/tokenizer")
    shards = [read_shard(project.folder / f"data/corpus/{split}-00000.bin", 300) for split in ("train", "val")]
    texts = [ours.decode(ids.tolist()) for ids, _ in shards]
    assert texts[0].startswith("first<|endoftext|>second the")
    assert texts[1].endswith(TEXT)
    sizes = [len(text.replace("<|endoftext|>", "").encode()) for text in texts]
    assert [header["text_bytes"] for _, header in shards] == sizes


@pytest.mark.parametrize("name", ["tokenizer_config.json", "tokenizer.model", "vocab.bpe"])
def test_no_tokenizer_is_trained_on_the_files_of_another_one(project: Project, name: str) -> None:
    source = project.folder / "published"
    source.mkdir()
    for other in ("vocab.txt", "README.md", name):
        (source / other).write_text(TEXT * 20)
    project.set(tokenizer={"source": "published"})
    ended = project.run("stages.tokenizer", ok=False)
    assert ended.returncode == DATA
    assert f"published/{name}: this kind of tokenizer is not supported" in ended.stderr
    assert not (project.folder / "data/tokenizer").exists()


def test_bytes_without_a_token_are_counted_where_a_vocabulary_is_taken_over(project: Project) -> None:
    source = tiny_tokenizers.make("smollm2", project.folder / "published")
    ours = Tokenizer.load(source)
    characters = [chr(number) for number in (9, 10, 13, *range(32, 127), *range(128, 0x110000, 64))]
    characters += [chr(number) for number in range(128, 192)]  # all bytes that follow the first one of a character
    lost = set("".join(characters).encode("utf-8", "surrogatepass")) & set(ours._missing)
    assert max(lost) > 128 > min(lost)
    project.set(tokenizer={"source": "published", "vocab_size": ours.vocab_size})
    said = project.run("stages.tokenizer").stderr
    assert said.count(f"{len(lost)} bytes of UTF-8 have no token; characters with them are left out") == 1


@pytest.mark.slow
def test_a_refused_corpus_leaves_the_older_outputs_and_nothing_else(project: Project) -> None:
    project.run("stages.download", "corpus")
    project.run("stages.tokenizer")
    project.run("stages.tokenize_corpus")
    before = project.bytes("data/corpus", "reports")
    (project.folder / "data/raw/corpus/z.txt").write_bytes(b"caf\xe9")
    done = project.run("stages.tokenize_corpus", ok=False)
    assert done.returncode == 3
    assert "error: data/raw/corpus/z.txt:1: byte 0xe9 at offset 3 is not UTF-8 | fix: " in done.stderr
    assert project.bytes("data/corpus", "reports") == before
    assert [path.name for path in (project.folder / ".work/tokenize@corpus").iterdir()] == ["lock"]


@pytest.mark.slow
def test_a_million_spaces_are_tokens_in_every_item(project: Project) -> None:
    long = "x" + " " * 1_000_000 + "a"
    project.set(model={"context_length": 4096})  # room for the instruction
    (project.folder / "mine/a.txt").write_text(f"one\n\n{long}\n\ntwo")
    spam, instructions = (project.folder / "data/sample" / name for name in ("spam.tsv", "instructions.json"))
    spam.write_text("".join(f"{label}\t{text}\n" for label in ("ham", "spam") for text in [long, *["short"] * 9]))
    instructions.write_text(
        json.dumps([{"instruction": text, "input": "", "output": "yes"} for text in [long, *["short"] * 19]])
    )
    for item in ("corpus", "spam", "instructions"):
        project.run("stages.download", item)
    project.run("stages.tokenizer")
    for item in ("corpus", "spam", "instructions"):
        project.run(f"stages.tokenize_{item}")
    read = {item: (project.folder / f"reports/tokenize/{item}.json").read_text() for item in ("spam", "instructions")}
    ours = Tokenizer.load(project.folder / "data/tokenizer")
    assert json.loads(read["spam"])["train_longest_tokens"] == len(ours.encode(long))
    assert json.loads(read["instructions"])["train_longest_tokens"] > len(ours.encode(long))
    assert json.loads((project.folder / "reports/tokenize/corpus.json").read_text())["tokens"] > len(ours.encode(long))


@pytest.mark.slow
def test_the_memory_of_the_stage_does_not_grow_with_the_corpus(project: Project) -> None:
    project.run("stages.download", "corpus")
    project.run("stages.tokenizer")
    peaks = []
    for megabytes in (5, 40):
        tokenize.generate(project.folder / "data/raw/corpus/large.txt", megabytes)
        peaks.append(tokenize.run(project.folder, "stages.tokenize_corpus")["peak_mib"])
    assert peaks[1] < peaks[0] + 30
    assert peaks[1] < 250
