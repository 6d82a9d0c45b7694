"""params.yaml: types, unknown and missing keys, YAML syntax, and checks between sections."""

import math
import re
import time
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

import pytest
import yaml as pyyaml
from dvc.utils.serialize import parse_yaml as dvc_parse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm.common import params
from llm.common.errors import USAGE, UserError
from llm.common.params import flat, load, parse, read
from stages.schema import AllParams

ROOT = Path(__file__).parents[3]
REAL = (ROOT / "params.yaml").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Part:
    width: int
    rate: float

    def problems(self):
        if self.width > 100:
            yield "width", f"{self.width} is above 100", "lower it"


@dataclass(frozen=True)
class Config:
    part: Part
    name: str
    on: bool
    mode: Literal["fast", "slow"]
    limit: int | None
    sizes: tuple[int, ...]
    items: dict[str, Part]
    extra: float = 0.5


@dataclass(frozen=True)
class Own:
    """The sections of one stage."""

    part: Part


GOOD: dict[str, Any] = {
    "part": {"width": 3, "rate": 0.5},
    "name": "a name",
    "on": True,
    "mode": "fast",
    "limit": None,
    "sizes": [1, 2],
    "items": {"gpt2-124M": {"width": 1, "rate": 1.0}},
}


def refused(do, *arguments, **options) -> list[str]:
    """Return the messages of all problems that `do` raises."""
    with pytest.raises(UserError) as raised:
        do(*arguments, **options)
    assert raised.value.code == USAGE
    return [str(problem) for problem in getattr(raised.value, "problems", [raised.value])]


def write(folder: Path, text: str, name: str = "params.yaml") -> Path:
    (folder / name).write_text(text, "utf-8")
    return folder / name


# --- types ---


def test_valid_values_are_read():
    config = parse(Config, GOOD)
    assert config == Config(Part(3, 0.5), "a name", True, "fast", None, (1, 2), {"gpt2-124M": Part(1, 1.0)}, extra=0.5)


def test_a_section_is_read_alone_and_its_errors_name_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind = get_type_hints(AllParams)["tracking"]
    Path("params.yaml").write_text("tracking:\n  enabled: false\n  required: false\nother: 1\n")
    assert params.read_section(kind, "tracking") == kind(enabled=False, required=False)
    Path("params.yaml").write_text("tracking:\n  enabled: 1\n  required: false\n")
    with pytest.raises(UserError, match=r"^params.yaml: tracking.enabled: 1 is a whole number"):
        params.read_section(kind, "tracking")
    Path("params.yaml").write_text("other: 1\n")
    with pytest.raises(UserError, match=r"^params.yaml: tracking: missing"):
        params.read_section(kind, "tracking")


def test_a_whole_number_is_read_as_a_float():
    rate = parse(Part, {"width": 1, "rate": 2}).rate
    assert (rate, type(rate)) == (2.0, float)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("limit", True, "True is true or false, not a whole number"),
        ("limit", 1.0, "1.0 is a number, not a whole number"),
        ("limit", "1", "'1' is a string, not a whole number"),
        ("name", 1, "1 is a whole number, not a string"),
        ("name", None, "None is empty, not a string"),
        ("on", 1, "1 is a whole number, not true or false"),
        ("on", "yes", "'yes' is a string, not true or false"),
        ("mode", "fats", "'fats' is not one of fast, slow | fix: did you mean fast?"),
        ("mode", "flow", "'flow' is not one of fast, slow | fix: did you mean slow?"),
        ("mode", "quick", "'quick' is not one of fast, slow | fix: write fast or slow"),
        ("mode", True, "True is not one of fast, slow"),
        ("mode", ["fast"], "['fast'] is not one of fast, slow"),
        ("sizes", 1, "1 is not a list"),
        ("items", [], "[] is not a mapping"),
        ("part", 1, "1 is not a section"),
        ("part", None, "None is not a section"),
        ("extra", True, "True is true or false, not a number"),
        ("extra", math.nan, "nan is not a finite number"),
        ("extra", math.inf, "inf is not a finite number"),
        ("extra", 10**400, "not a number"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(key, value, said):
    (message,) = refused(parse, Config, GOOD | {key: value})
    assert message.startswith(f"params.yaml: {key}: ")
    assert said in message


def test_true_does_not_match_the_choice_1():
    @dataclass(frozen=True)
    class Choice:
        level: Literal[1, 2]

    assert parse(Choice, {"level": 1}) == Choice(1)
    assert "True is not one of 1, 2" in refused(parse, Choice, {"level": True})[0]


def test_a_wrong_value_in_a_list_or_mapping_is_reported_with_its_path():
    (message,) = refused(parse, Config, GOOD | {"sizes": [1, "x"]})
    assert message.startswith("params.yaml: sizes[1]: 'x' is a string")
    (message,) = refused(parse, Config, GOOD | {"items": {"a": {"width": 1, "rate": "x"}}})
    assert message.startswith("params.yaml: items.a.rate: 'x' is a string")


@pytest.mark.parametrize("name", ["a b", "a;reboot", "$(x)", "../x", "-x", "", "é", 1, None, True])
def test_a_name_that_is_unsafe_in_a_shell_or_path_is_refused(name):
    (message,) = refused(parse, Config, GOOD | {"items": {name: GOOD["part"]}})
    assert message.startswith(f"params.yaml: items: the name {name!r} has characters other than letters")


def test_a_long_value_is_shortened_in_the_message():
    (message,) = refused(parse, Config, GOOD | {"limit": "x" * 10_000})
    assert len(message) < 200


# --- keys ---


def test_an_unknown_key_gets_the_most_similar_one_as_fix():
    (message,) = refused(parse, Config, GOOD | {"limits": 3})
    assert message == "params.yaml: limits: unknown key | fix: did you mean limit?"


def test_an_unknown_key_without_a_similar_one_gets_the_list():
    (message,) = refused(parse, Config, GOOD | {"part": GOOD["part"] | {"zzz": 3}})
    assert message == "params.yaml: part.zzz: unknown key | fix: known keys: width, rate"


def test_a_missing_key_is_an_error_unless_it_has_a_default():
    (message,) = refused(parse, Config, {key: value for key, value in GOOD.items() if key != "name"})
    assert message == "params.yaml: name: missing | fix: add `name:` with a value"


def test_all_problems_are_reported_at_once():
    broken = GOOD | {"part": {"widht": 1, "rate": "fast"}, "on": 1, "items": {"a": {"width": 101, "rate": 1}}}
    wrong = [message.split(": ")[1] for message in refused(parse, Config, broken)]
    assert wrong == ["part.widht", "part.width", "part.rate", "on", "items.a.width"]


def test_a_stage_reads_only_its_own_sections(tmp_path):
    path = write(tmp_path, "part: {width: 1, rate: 1}\nof_another_stage: {x: 1}\n")
    assert read(Own, path) == Own(Part(1, 1.0))
    assert refused(parse, Own, load(path)) == ["params.yaml: of_another_stage: unknown key | fix: known keys: part"]


# --- YAML ---

SCALARS = {
    "5e-4": 5e-4,
    "5e-05": 5e-5,
    "1e3": 1e3,
    ".5": 0.5,
    "yes": "yes",
    "no": "no",
    "on": "on",
    "010": 10,
    "0o10": 8,
    "0x1F": 31,
    "12:30:00": "12:30:00",
    "~": None,
    "null": None,
    "NULL": None,
    "None": "None",
    "true": True,
    '"1"': "1",
}


@pytest.mark.parametrize("text", SCALARS)
def test_a_scalar_means_the_same_as_in_dvc(text, tmp_path):
    value = load(write(tmp_path, f"a: {text}\n"))["a"]
    assert (value, type(value)) == (SCALARS[text], type(SCALARS[text]))
    assert dvc_parse(f"a: {text}\n", "params.yaml")["a"] == value


def test_pyyaml_reads_a_number_written_by_dvc_as_a_string(tmp_path):
    """`dvc exp run -S pretrain.lr=5e-5` writes `5e-05`, so params.yaml must not be read with PyYAML."""
    assert pyyaml.safe_load("lr: 5e-05") == {"lr": "5e-05"}
    assert load(write(tmp_path, "lr: 5e-05\n")) == {"lr": 5e-5}


@pytest.mark.parametrize("text", [".nan", ".inf", "-.Inf", "1e400"])
def test_infinity_and_nan_of_yaml_are_refused(text, tmp_path):
    path = write(tmp_path, f"part: {{width: 1, rate: {text}}}\n")
    (message,) = refused(read, Own, path)
    assert message.startswith(f"{path}: part.rate: ")
    assert "is not a finite number" in message


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: 1\nb: 2\na: 1\n", 3, 'found duplicate key "a"'),
        ('a: 1\n"a": 2\n', 2, 'found duplicate key "a"'),
        ("a:\n  b: 1\n  b: 2\n", 3, 'found duplicate key "b"'),
        ("a: !!python/object/apply:os.system [exit]\n", 1, "could not determine a constructor for the tag"),
        ("a: !include x.yaml\n", 1, "could not determine a constructor for the tag"),
        ("a: &x 1\nb: *x\n", 2, "the alias *x"),
        ("a: &x [*x]\n", 1, "the alias *x"),
        ("a: [1\nb: 2\n", 1, "not plain YAML"),
        ("a: {b: 1\nc: 2\n", 1, "not plain YAML"),
        ("a:\n  b: 1\n  c:2\n  d: 3\n", 3, "could not find expected ':'"),
        ("a: 1\nb: 'x\nc: 2\n", 2, "not plain YAML"),
        ("a: 1\n\tb: 2\n", 2, "not plain YAML"),
        ("a: 1\n---\nb: 2\n", 2, "not plain YAML"),
    ],
)
def test_yaml_that_is_not_plain_is_refused_with_its_line(text, line, said, tmp_path):
    path = write(tmp_path, text)
    (message,) = refused(load, path)
    assert message.startswith(f"{path}:{line}: ")
    assert said in message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"- 1\n",
        b"text\n",
        b"a: \x00\n",
        b"a: \xff\n",
        b"a: 2024-13-45\n",
        b"a: " + b"9" * 5000,
        b"a: " + b"[" * 450,
        b"? {}\n: 1\n",
        b"a: !!int x\n",
        b"a: !!float x\n",
        b"a: !!bool x\n",
        b"a: !!binary x\n",
        b"a: !!timestamp x\n",
    ],
    ids=lambda content: repr(content[:20]),
)
def test_a_file_that_is_not_a_mapping_of_plain_values_is_a_user_error(content, tmp_path):
    (tmp_path / "params.yaml").write_bytes(content)
    (message,) = refused(load, tmp_path / "params.yaml")
    assert message.startswith(str(tmp_path / "params.yaml"))


def test_an_alias_bomb_is_refused_at_once(tmp_path):
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    merges = ["m0: &m0 {x: 1}"] + [f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 10)}]}}" for i in range(1, 12)]
    started = time.process_time()  # of this process, so that other processes do not matter
    for bomb in (lines, merges):
        (message,) = refused(load, write(tmp_path, "\n".join(bomb)))
        assert "the alias *" in message
    assert time.process_time() - started < 2


# --- the real file ---

SHORT = "".join(
    re.sub(r"\s+#.*", "", line) + "\n" for line in REAL.splitlines() if line.strip() and not line.startswith("#")
)
LINES = SHORT.splitlines()


def test_the_real_file_is_valid():
    assert parse(AllParams, load(ROOT / "params.yaml")).seed == 123
    assert pyyaml.safe_load(SHORT) == load(ROOT / "params.yaml")  # the mutations below start from SHORT


# Values with the same meaning in YAML 1.1 and 1.2, so that PyYAML can be the reference.
VALUES = ["1", "0", "-1", "0.5", "1.0", "1e+400", "true", "null", "text", "'1'", "''", ".nan"]
VALUES += ["[]", "{}", "[1, a]", "{a: 1}"]


@st.composite
def mutations(draw) -> str:
    """Draw the real file with one or two lines deleted, doubled, moved, renamed, indented or given another value."""
    lines = list(LINES)
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(lines) - 1))
        key, _, value = lines[at].partition(":")
        kind = draw(st.sampled_from(["delete", "double", "rename", "retype", "indent", "move", "borrow"]))
        if kind == "delete":
            del lines[at]
        elif kind == "double":
            lines.insert(draw(st.integers(at, min(len(lines), at + 3))), lines[at])
        elif kind == "rename":
            lines[at] = f"{key}{draw(st.sampled_from(['s', '_', '2']))}:{value}"
        elif kind == "retype":
            lines[at] = f"{key}: {draw(st.sampled_from(VALUES))}"
        elif kind == "indent":
            lines[at] = draw(st.sampled_from(["", "  ", "    "])) + lines[at].strip()
        elif kind == "move":
            lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(at))
        else:
            other = draw(st.sampled_from(LINES)).partition(":")
            lines[at] = key + ":" + other[2]
    return "\n".join(lines) + "\n"


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of plain data by dotted key. A list counts as one value."""
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for key, item in value.items():
            found |= leaves(item, f"{prefix}.{key}" if prefix else str(key))
        return found
    return {prefix: value}


class UniqueKeys(pyyaml.SafeLoader):
    """PyYAML that refuses duplicate keys."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key) for key, _ in node.value]
        if len(set(keys)) < len(keys):
            raise pyyaml.YAMLError("twice")
        return super().construct_mapping(node, deep)


def with_default(schema, prefix=""):
    """The dotted keys of fields that may be left out."""
    types = get_type_hints(schema)
    for field in fields(schema):
        if is_dataclass(types[field.name]):
            yield from with_default(types[field.name], f"{prefix}{field.name}.")
        elif field.default is not MISSING:
            yield f"{prefix}{field.name}"


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=mutations())
def test_a_mutated_file_is_refused_or_read_as_by_pyyaml(text, tmp_path):
    path = write(tmp_path, text)
    try:
        config = parse(AllParams, load(path))
    except UserError:
        return
    expected = leaves(pyyaml.load(text, UniqueKeys))
    read = {key: list(value) if isinstance(value, tuple) else value for key, value in flat(config).items()}
    optional = set(with_default(AllParams)) | {key for key in read if key.endswith(".files")}
    assert expected == {key: value for key, value in read.items() if key in expected or key not in optional}
    assert all(isinstance(read[key], bool) == isinstance(value, bool) for key, value in expected.items())


# --- between sections ---

LIMITS = {
    "seed": ("\nseed: 123", "\nseed: -1", "\nseed: 0"),
    "pretrain.context": ("  context: 96", "  context: 257", "  context: 256"),
    "pretrain.short_windows.context": ("    context: 48", "    context: 257", "    context: 256"),
    "respond.decoding.top_k": ("token\n    top_k: null", "token\n    top_k: 2049", "token\n    top_k: 2048"),
    "download.spam": ("  spam:\n    source: data/sample/spam.tsv", "  other:\n    source: data/sample/spam.tsv", None),
}


@pytest.mark.parametrize("key", LIMITS)
def test_a_contradiction_between_sections_is_refused_and_the_limit_is_not(key, tmp_path):
    old, bad, good = LIMITS[key]
    assert REAL.count(old) == 1
    path = write(tmp_path, REAL.replace(old, bad))
    messages = refused(parse, AllParams, load(path), str(path))
    assert [message.split(": ")[1] for message in messages] == [key]
    if good is not None:
        parse(AllParams, load(write(tmp_path, REAL.replace(old, good))))


BAD = {
    "pretrain": [("lr", value) for value in ("0", "-0.001", ".nan", ".inf")]
    + [("stride", "0"), ("stride", "-1"), ("context", "0"), ("epochs", "0"), ("batch_size", "0"), ("lr", "fast")],
    "finetune_instruct": [("bucket_batches", value) for value in ("0", "-1", "2.5", "true")],
    "reason_student": [("n_embd", "50"), ("n_embd", "-44"), ("n_layer", "0"), ("n_head", "0")],
    "reason_rl": [("clip", value) for value in ("[0.2]", "[0.2,0.2,0.2]", "[]", "[0,0.2]")]
    + [("micro_batch_size", "48"), ("save_every", "-1"), ("eval_every", "0"), ("lr", "0")],
    "model": [("dropout", "1.5"), ("dropout", "-0.1"), ("n_head", "5"), ("n_layer", "true"), ("n_layer", "0")],
}


@pytest.mark.parametrize(
    ("section", "key", "value"), [(section, key, value) for section, bad in BAD.items() for key, value in bad]
)
def test_an_invalid_value_in_the_real_file_is_reported_with_its_key(section, key, value, tmp_path):
    start = REAL.index(f"\n{section}:")
    changed = REAL[:start] + re.sub(rf"\n  {key}: (?:\[[^]]*\]|[^ \n]+)", f"\n  {key}: {value}", REAL[start:], count=1)
    assert changed != REAL
    reported = "n_embd" if (key, value) == ("n_head", "5") else key  # n_head must divide n_embd
    messages = refused(params.read_all, AllParams, write(tmp_path, changed))
    assert [message.split(": ")[1] for message in messages] == [f"{section}.{reported}"]


def test_a_student_must_fit_to_the_model_that_it_is_like(tmp_path):
    changes = {"family": "llama", "n_kv_head": 2, "qkv_bias": False}
    values = load(write(tmp_path, REAL))
    values["reason_model"] |= changes
    values["reason_student"] |= {"n_head": 3, "n_embd": 48}
    (message,) = refused(parse, AllParams, values, "params.yaml")
    said = "params.yaml: reason_student.n_head: reason_model.n_kv_head: 2 does not divide n_head (3)"
    assert message.startswith(said)


def test_several_contradictions_are_reported_at_once(tmp_path):
    text = REAL.replace("\nseed: 123", "\nseed: -1").replace("  context: 96", "  context: 257")
    keys = [message.split(": ")[1] for message in refused(read, AllParams, write(tmp_path, text))]
    assert keys == ["seed", "pretrain.context"]


# --- checks of numbers ---


@dataclass
class Numbers:
    x: float | None


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (params.positive, [1, 0.1, None], [0, -1, math.nan]),
        (params.at_least_zero, [0, 1, None], [-1, -0.1]),
        (params.fraction, [0, 0.5], [1, 1.5, -0.1, math.nan]),
        (lambda config, name: params.fraction(config, name, zero=False), [0.5], [0, 1]),
    ],
    ids=["positive", "at_least_zero", "fraction", "fraction above zero"],
)
def test_the_checks_of_numbers(check, good, bad):
    assert [list(check(Numbers(value), "x")) for value in good] == [[]] * len(good)
    assert [[problem[0] for problem in check(Numbers(value), "x")] for value in bad] == [["x"]] * len(bad)


def test_flat_gives_each_value_by_its_path():
    assert flat(parse(Config, GOOD)) == {
        "part.width": 3,
        "part.rate": 0.5,
        "name": "a name",
        "on": True,
        "mode": "fast",
        "limit": None,
        "sizes": (1, 2),
        "items.gpt2-124M.width": 1,
        "items.gpt2-124M.rate": 1.0,
        "extra": 0.5,
    }
