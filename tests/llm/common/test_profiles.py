"""A profile changes its values, keeps every comment, and writes nothing if the result is invalid."""

import re
from pathlib import Path

import pytest

from llm.common import profiles
from llm.common.errors import USAGE, UserError
from llm.common.params import flat, load, parse, read
from stages.schema import AllParams

ROOT = Path(__file__).parents[3]
REAL = (ROOT / "params.yaml").read_text(encoding="utf-8")


def refused(*arguments) -> list[str]:
    """Return the messages of all problems that `profiles.use` raises."""
    with pytest.raises(UserError) as raised:
        profiles.use(*arguments)
    assert raised.value.code == USAGE
    return [str(problem) for problem in getattr(raised.value, "problems", [raised.value])]


def write(folder: Path, text: str, name: str = "params.yaml") -> Path:
    (folder / name).write_text(text, "utf-8")
    return folder / name


def test_a_profile_changes_values_and_keeps_every_comment(tmp_path):
    path = write(tmp_path, REAL)
    profiles.use(
        write(tmp_path, "pretrain: {lr: 5e-03, short_windows: null}\nseed: 7\n", "changes.yaml"), AllParams, path
    )
    text = path.read_text("utf-8")
    before, after = parse(AllParams, load(ROOT / "params.yaml")), parse(AllParams, load(path))
    changed = {key for key, value in flat(before).items() if flat(after).get(key) != value}
    assert changed == {
        "seed",
        "pretrain.lr",
        *(f"pretrain.short_windows.{k}" for k in ("steps", "context", "batch_size")),
    }
    assert (after.seed, after.pretrain.lr, after.pretrain.short_windows) == (7, 5e-3, None)
    assert re.findall("#.*", text) == re.findall("#.*", REAL)


def test_a_profile_that_changes_nothing_leaves_the_same_bytes(tmp_path):
    path = write(tmp_path, REAL)
    profiles.use(write(tmp_path, "seed: 123\n", "changes.yaml"), AllParams, path)
    assert path.read_text("utf-8") == REAL


def test_null_removes_an_item_whose_key_the_user_chose(tmp_path):
    item = "{source: models/pretrain, tokenizer: data/tokenizer, untie_head: true}"
    path = write(tmp_path, REAL)
    profiles.use(write(tmp_path, f"import_gpt2: {{mine: {item}, gpt2-sample: null}}", "changes.yaml"), AllParams, path)
    assert list(parse(AllParams, load(path)).import_gpt2) == ["mine"]
    assert set(re.findall("# .*", REAL)) - set(re.findall("# .*", path.read_text("utf-8"))) == {
        line for line in re.findall("# .*", REAL) if line in re.search("gpt2-sample:.*?\n\n", REAL, re.S)[0]
    }


def test_null_does_not_remove_a_section(tmp_path):
    path = write(tmp_path, REAL)
    messages = refused(write(tmp_path, "judge: null\n", "changes.yaml"), AllParams, path)
    assert messages == [f"{tmp_path / 'changes.yaml'}: judge: None is not a section | fix: write its keys"]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ("pretrian: {lr: 1}", "pretrian"),
        ("pretrain: {lrr: 1}", "pretrain.lrr"),
        ("pretrain: {short_windows: {stride: 1}}", "pretrain.short_windows.stride"),
        ("pretrain: {clip_norm: 0}", "pretrain.clip_norm"),
        ("pretrain: 1", "pretrain"),
        ("pretrain: {context: 257}", "pretrain.context"),
    ],
)
def test_a_profile_with_an_invalid_result_writes_nothing(changes, key, tmp_path):
    path = write(tmp_path, REAL)
    (message,) = refused(write(tmp_path, changes, "changes.yaml"), AllParams, path)
    assert message.startswith(f"{tmp_path / 'changes.yaml'}: {key}: ")
    assert path.read_text("utf-8") == REAL


def test_a_problem_that_params_had_before_is_told_as_its_own(tmp_path):
    path = write(tmp_path, REAL.replace("\nseed: 123", "\nseed: x").replace("clip_norm: 1.0", "clip_norm: 0", 1))
    messages = refused(write(tmp_path, "pretrain: {beta2: y}\n", "changes.yaml"), AllParams, path)
    assert [message.partition(" |")[0].rpartition("/")[2] for message in messages] == [
        "params.yaml: seed: 'x' is a string, not a whole number",
        "changes.yaml: pretrain.beta2: 'y' is a string, not a number",
    ]
    (message,) = refused(write(tmp_path, "seed: 1\n", "changes.yaml"), AllParams, path)
    assert message.startswith(f"{path}: pretrain.clip_norm: ")


def test_a_params_file_with_a_tag_is_refused(tmp_path):
    text = REAL.replace("\nseed: 123", "\nseed: !!python/object/apply:os.getpid []")
    path = write(tmp_path, text)
    (message,) = refused(write(tmp_path, "seed: 1\n", "changes.yaml"), AllParams, path)
    assert "could not determine a constructor for the tag" in message
    assert path.read_text("utf-8") == text


def test_a_profile_can_have_a_base(tmp_path):
    path = write(tmp_path, REAL)
    write(tmp_path, "seed: 1\njudge: {seed: 5}\n", "base.yaml")
    profiles.use(write(tmp_path, "base: base.yaml\nseed: 2\n", "changes.yaml"), AllParams, path)
    after = read(AllParams, path)
    assert (after.seed, after.judge.seed) == (2, 5)


@pytest.mark.parametrize("base", ["changes.yaml", "other.yaml", "1", "[a]"])
def test_a_wrong_base_is_refused(base, tmp_path):
    write(tmp_path, "base: changes.yaml\n", "other.yaml")
    (message,) = refused(write(tmp_path, f"base: {base}\n", "changes.yaml"), AllParams, write(tmp_path, REAL))
    assert "is not the name of another profile" in message


@pytest.mark.parametrize("profile", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_profile_in_configs_applied_twice_gives_the_same_bytes(profile, tmp_path):
    path = write(tmp_path, REAL)
    profiles.use(profile, AllParams, path)
    once = path.read_text("utf-8")
    profiles.use(profile, AllParams, path)
    assert path.read_text("utf-8") == once
    assert re.findall("^# .*", once, re.M) == re.findall("^# .*", REAL, re.M)


@pytest.mark.parametrize(("first", "second"), [("lora", "smollm2"), ("gpu", "book-digits")])
def test_a_profile_replaces_what_another_one_had_set(first, second, tmp_path):
    path = write(tmp_path, REAL)
    for name in (first, second):
        profiles.use(ROOT / f"configs/{name}.yaml", AllParams, path)
