"""Files: atomic writes with the same bytes every time, strict reads, hashes, publishing and locks."""

import csv
import errno
import hashlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.common import files, publishing
from llm.common.errors import DATA, RESOURCES, RUNNING, USAGE, UserError

ROOT = Path(__file__).parents[3]


def refused(code: int, do, *arguments) -> str:
    """Return the message of the UserError that `do` raises."""
    with pytest.raises(UserError) as raised:
        do(*arguments)
    assert raised.value.code == code
    return str(raised.value)


# --- writing ---


def test_an_exception_keeps_the_old_file_and_removes_the_temporary_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")

    def fail_half_way():
        with files.atomic_path(path) as temporary:
            temporary.write_bytes(b"half of the n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]


def in_a_folder(folder):
    (folder / "a.txt").mkdir()
    return "Is a directory"


def in_a_file(folder):
    folder.rmdir()
    folder.touch()


def in_a_folder_without_rights(folder):
    folder.chmod(0o555)
    if os.access(folder, os.W_OK):
        pytest.skip("root may write everywhere")
    return "Permission denied"


@pytest.mark.parametrize("spoil", [in_a_folder, in_a_file, in_a_folder_without_rights])
@pytest.mark.parametrize("write", [files.check_writable, lambda path: files.write_text(path, "a")])
def test_what_cannot_be_written_is_named_as_the_user_named_it(spoil, write, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    why = spoil(folder)
    with pytest.raises(OSError, match=why) as raised:
        write(folder / "a.txt")
    assert raised.value.filename == str(folder / "a.txt" if why else folder)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_path_that_becomes_a_folder_is_named_too(tmp_path):
    def write():
        with files.atomic_path(tmp_path / "a"):
            (tmp_path / "a").mkdir()

    with pytest.raises(IsADirectoryError) as raised:
        write()
    assert raised.value.filename == str(tmp_path / "a")


def test_a_check_leaves_nothing(tmp_path):
    files.check_writable(tmp_path / "a")
    assert os.listdir(tmp_path) == []


def test_a_missing_model_is_told_by_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = "models/pretrain: no model here | fix: run `llm repro`, or correct the path"
    assert refused(DATA, files.read_json, "models/pretrain/vocab.json") == said
    Path("models/pretrain").mkdir(parents=True)
    assert refused(DATA, files.read_json, "models/pretrain/vocab.json").startswith(
        "models/pretrain/vocab.json: no such"
    )


def test_the_file_appears_only_at_the_end(tmp_path):
    path = tmp_path / "folder" / "a.txt"
    with files.atomic_path(path) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_mode_of_a_file_follows_the_umask(mask, mode, tmp_path):
    before = os.umask(mask)
    try:
        files.write_text(tmp_path / "a.txt", "text")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == mode


def test_a_full_disk_is_reported_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        message = refused(RESOURCES, files.write_bytes, path, bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert message.startswith(f"{path}: File too large after ")
    assert " bytes free | fix: free some space" in message
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_json_ignores_differences_after_the_sixth_digit(tmp_path):
    for name, third in [("a", 1 / 3), ("b", 1 / 3 + 1e-9)]:
        files.write_json(tmp_path / name, {"loss": third, "n": 7, "text": "é\u2028", "none": None, "pair": (1.0, True)})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_text("utf-8").startswith('{\n  "loss": 0.333333,\n  "n": 7,\n  "text": "é')
    assert (tmp_path / "a").read_bytes().endswith(b"\n}\n")


def test_the_sixth_digit_still_counts(tmp_path):
    files.write_json(tmp_path / "a", 1.23456)
    files.write_json(tmp_path / "b", 1.23457)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


@settings(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda part: st.lists(part, max_size=3)))
def test_json_without_floats_round_trips(value):
    assert json.loads(json.dumps(files.round_floats(value))) == value


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_rounding_is_exact_to_six_digits_and_idempotent(value):
    rounded = files.round_floats(value)
    assert abs(rounded - value) <= 0.5000001e-5 * abs(value) + 5e-324
    assert files.round_floats(rounded) == rounded


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_refused_and_nothing_is_written(value, tmp_path):
    path = tmp_path / "metrics.json"
    message = refused(DATA, files.write_json, path, {"train": {"loss": [0.5, value]}})
    assert message.startswith(f"{path}: train: loss: {value} is not a finite number")
    assert "is not a finite number" in refused(DATA, files.write_csv, tmp_path / "loss.csv", ["x"], [[value]])
    assert os.listdir(tmp_path) == []


def test_csv_has_lf_line_ends_six_digits_and_empty_fields_for_none(tmp_path):
    files.write_csv(tmp_path / "a.csv", ["step", "loss"], [[1, 1 / 3], [2, None], [3, 2.0]])
    assert (tmp_path / "a.csv").read_bytes() == b"step,loss\n1,0.333333\n2,\n3,2.0\n"


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.text(st.characters(codec="utf-8")), st.text(st.sampled_from('a,"\r\n \t\x85\u2028'))), max_size=4
    )
)
def test_csv_round_trips(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    files.write_csv(path, ["one", "two"], rows)
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file, strict=True)) == [["one", "two"], *map(list, rows)]


# --- reading ---


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        (b"\xef\xbb\xbfone\n", ["ignored a byte-order mark"]),
        (b"one\r\n", ["read CRLF as LF"]),
        (b"\xef\xbb\xbfone\r\n", ["ignored a byte-order mark, read CRLF as LF"]),
        (b"one\n", []),
        (b"one\rtwo", []),
    ],
)
def test_normalisation_is_reported_once(content, messages, tmp_path, capsys):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    texts = {files.read_text(path) for _ in range(2)}
    assert capsys.readouterr().err.splitlines() == [f"{path}: {message}" for message in messages]
    assert texts == {content.decode("utf-8-sig").replace("\r\n", "\n")}


def test_a_byte_order_mark_and_crlf_are_normalised(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n\xef\xbb\xbf")
    assert files.read_text(tmp_path / "a.txt") == "one\ntwo\n\ufeff"


def test_unicode_line_ends_are_kept(tmp_path):
    (tmp_path / "a.txt").write_text("a\u2028b\x85c\rd\n", "utf-8", newline="")
    assert files.read_text(tmp_path / "a.txt") == "a\u2028b\x85c\rd\n"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "with a byte-order mark"])
def test_a_byte_that_is_not_utf8_is_reported_with_line_and_offset(mark, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(mark + b"one\nt\xe9o\n")
    message = refused(DATA, files.read_text, path)
    assert message.startswith(f"{path}:2: byte 0xe9 at offset {len(mark) + 5} is not UTF-8")


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b" \r\n\n"])
def test_an_empty_file_is_refused(content, tmp_path):
    (tmp_path / "a.txt").write_bytes(content)
    assert f"the file is empty ({len(content)} bytes)" in refused(DATA, files.read_text, tmp_path / "a.txt")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "no such file" in refused(DATA, files.read_text, tmp_path / "a.txt")
    assert "no such file" in refused(DATA, files.read_text, "")
    assert "is a folder" in refused(DATA, files.read_text, tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 2}', "key 'a' is used twice"),
        ('[{"b": {"a": 1, "a": 1}}]', "key 'a' is used twice"),
        ("[NaN]", "NaN is not a finite number"),
        ("[-Infinity]", "-Infinity is not a finite number"),
        ("[1e999]", "1e999 is not a finite number"),
        ("[" + "9" * 5000 + "]", "not readable JSON: Exceeds the limit"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": 1,}', "not JSON: "),
        ("<html>", "not JSON: "),
    ],
    ids=lambda text: text[:16],
)
def test_json_that_is_not_strict_is_refused(text, said, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(text, "utf-8")
    message = refused(DATA, files.read_json, path)
    assert message.startswith(str(path))
    assert said in message


def test_a_syntax_error_is_reported_with_its_line(tmp_path):
    (tmp_path / "a.json").write_text('{\n  "a": 1\n  "b": 2\n}', "utf-8")
    assert refused(DATA, files.read_json, tmp_path / "a.json").startswith(f"{tmp_path / 'a.json'}:3: not JSON: ")


def test_strict_json_is_read(tmp_path):
    value = {"a": [1, -2.5, 1e300, None, True, "NaN"], "b": {"a": {}}}
    (tmp_path / "a.json").write_text(json.dumps(value), "utf-8")
    assert files.read_json(tmp_path / "a.json") == value


# --- hashes ---


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_md5_equals_what_dvc_records(tmp_path, monkeypatch):
    """With names that sort differently as strings and as paths, nested folders, non-ASCII names, an empty file."""
    for name in ["x/a.b", "x/a/b", "x/a-b", "x/ä ö/東", "x/a/c/d", "one"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name, "utf-8")
    (tmp_path / "x" / "empty").touch()
    (tmp_path / ".dvcignore").write_bytes(Path(".dvcignore").read_bytes())
    for name in ["x/.DS_Store", "x/a/.DS_Store", "x/b.pyc", "x/__pycache__/c"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("ignored by DVC", "utf-8")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    analytics = false\n    no_scm = true\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    with Repo(str(tmp_path)) as repo:
        recorded = {stage.outs[0].def_path: stage.outs[0].hash_info.value for stage in repo.add(["x", "one"])}
    assert recorded == {"x": files.dvc_md5(tmp_path / "x"), "one": files.dvc_md5(tmp_path / "one")}
    assert recorded["x"].endswith(".dir")


def test_the_md5_of_a_missing_path_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.dvc_md5(tmp_path / "missing")


# --- publishing ---


def make(path: Path, content: str | None) -> Path:
    """Make a folder with one file named `content`, or a file if `content` is None."""
    if content is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a file", "utf-8")
    else:
        path.mkdir(parents=True)
        (path / content).touch()
    return path


@pytest.mark.parametrize("old", ["old", None, "absent"])
@pytest.mark.parametrize("new", ["new", None])
def test_publishing_replaces_the_old_file_or_folder(old, new, tmp_path):
    final, built = tmp_path / "models" / "gpt", make(tmp_path / "work" / "gpt", new)
    if old != "absent":
        make(final, old)
    publishing.publish(built, final)
    assert (os.listdir(final) if final.is_dir() else None) == (None if new is None else ["new"])
    assert os.listdir(tmp_path / "work") == []


def test_a_move_that_fails_puts_the_old_folder_back(tmp_path, monkeypatch):
    final, built, replace = make(tmp_path / "gpt", "old"), make(tmp_path / "work" / "gpt", "new"), Path.replace

    def fail(path, target):
        if path == built:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fail)
    refused(DATA, publishing.publish, built, final)
    assert os.listdir(final) == ["old"]
    assert os.listdir(tmp_path / "work") == ["gpt"]


def test_what_a_kill_has_moved_away_is_removed_by_the_next_run(tmp_path):
    final, built = make(tmp_path / "gpt", "old"), make(tmp_path / "work" / "gpt", "new")
    make(tmp_path / "work" / "gpt.replaced", "older")
    publishing.publish(built, final)
    assert os.listdir(final) == ["new"]
    assert os.listdir(tmp_path / "work") == []


def test_publishing_over_a_link_keeps_its_target(tmp_path):
    elsewhere, built = make(tmp_path / "elsewhere", "precious"), make(tmp_path / "work" / "gpt", "new")
    (tmp_path / "gpt").symlink_to(elsewhere)
    publishing.publish(built, tmp_path / "gpt")
    assert os.listdir(tmp_path / "gpt") == ["new"]
    assert os.listdir(elsewhere) == ["precious"]


# --- lock and root ---

HOLD = """
import sys
from llm.common import files
with files.lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_refused_with_the_pid_of_its_holder_until_that_ends(tmp_path):
    path = tmp_path / "work" / "lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        message = refused(RUNNING, files.lock(path).__enter__)
        assert message.startswith(f"{path}: held by pid {holder.pid}, started 2")
        holder.kill()  # the kernel releases the lock
    with files.lock(path):
        assert path.read_text("utf-8").startswith(f"pid {os.getpid()}, started ")


def test_a_lock_can_be_taken_again(tmp_path):
    for _ in range(2):
        with files.lock(tmp_path / "lock"):
            pass
    assert len((tmp_path / "lock").read_text("utf-8").splitlines()) == 1


def test_the_project_root_has_a_params_yaml(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no params.yaml here" in refused(USAGE, files.project_root)
    (tmp_path / "params.yaml").touch()
    assert files.project_root() == tmp_path


# --- pipes and devices ---


def test_a_device_without_an_end_is_read_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(files, "MAX_PIPE_BYTES", 1000)
    with pytest.raises(UserError, match=r"/dev/zero: is a pipe or a device, and gave more than 1,000 bytes") as caught:
        files.read_json("/dev/zero")
    assert caught.value.code == DATA
    assert 0 < files.MAX_PIPE_BYTES <= 1 << 30


def test_a_named_pipe_without_a_writer_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(UserError, match="the file is empty"):
        files.read_json(tmp_path / "config.json")
    with pytest.raises(UserError, match="is not a regular file"):
        files.sha256(tmp_path / "config.json")


def test_a_pipe_that_ends_is_read(tmp_path):
    reader, writer = os.pipe()
    os.write(writer, b'{"a": 1}')
    os.close(writer)
    assert files.read_json(f"/dev/fd/{reader}") == {"a": 1}
    os.close(reader)
