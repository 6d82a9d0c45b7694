"""The two readers of plain YAML: the one in C must never be seen but by its speed."""

import random
from pathlib import Path

import pytest

from llm.common import yaml_file
from llm.common.errors import UserError

ROOT = Path(__file__).parents[3]
PIECES = [
    *"\n:-#'\"{}[]&*!|>%@`~,.?=<019eExo_+an \t\\",
    "\u00e9",
    "\u2028",
    "\x85",
    "\0",
    "\ufeff",
    "\n---\n",
    "\n...\n",
]
UNLIKE = [  # PyYAML's scanner, or YAML 1.1, takes these in another way
    "%YAML 1.1\n---\na: yes\n",
    "a:\t1\n",
    "a: !\n",
    "a: >#\n\n x\n",
    "a: 1\u2028b: 2\n",
    "a: 1\x85b: 2\n",
    "a: 1\n...\n...\n",
    "a: &x 1\nb: *x\n",
    "a: !!int x\n",
]
PLAIN = [
    "a: 010\nb: 0o17\nc: 1_000\nd: yes\ne: on\nf: ~\ng: Null\nh: .inf\ni: 1e5\nj: 5e-05\nk: 1:30\n",
    "l: 0x1F\nm: +1\nn: -.5\n",
    "a: 2001-01-01\nb: =\nc: TRUE\nd: 12e03\ne: '1'\nf: 99999999999999999999\ng: 1.2.3\nh: b#c #d\ni: [1, {b: 2},]\n",
    "1: a\nnull: b\n'c': d\n",
    "a: 1\na: 2\n",
    "a: '\n",
    "- a\n",
    "",
]


def outcome(read, text: str) -> str:
    try:
        return repr(read(text))
    except UserError as error:
        return str(error)


def same(text: str) -> bool:
    """Whether both readers give the same values, or the same error."""
    fast = outcome(lambda text: yaml_file.parse_plain(text, "a.yaml"), text)
    return fast == outcome(lambda text: dict(yaml_file.parse(text, "a.yaml", yaml_file.plain())), text)


@pytest.mark.parametrize("text", UNLIKE + PLAIN)
def test_values_and_errors_are_those_of_the_reader_in_python(text):
    assert same(text)


@pytest.mark.parametrize("name", ["params.yaml", "dvc.yaml", "dvc.lock", "configs/book.yaml", "configs/smoke.yaml"])
def test_so_are_those_of_our_files(name):
    assert same((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.filterwarnings("ignore::ruamel.yaml.error.ReusedAnchorWarning")
def test_so_are_those_of_damaged_files():
    whole = (ROOT / "dvc.lock").read_text(encoding="utf-8")
    for seed in range(1000):
        chance = random.Random(seed)
        start = whole.find("\n", chance.randrange(len(whole) - 1000)) + 1
        text = list(chance.choice([whole[start : start + 500], *PLAIN]))
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(len(text) + 1)
            text[place : place + chance.choice([0, 0, 1, 3])] = chance.choice([[], [chance.choice(PIECES)]])
        assert same("".join(text)), "".join(text)


@pytest.mark.parametrize("depth", [900, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("text", ["a: {0}1{1}\n", "a: {0}\n", "{2}1\n", "a:\n {2}1\n"])
def test_a_deeply_nested_file_is_one_error(text, depth):
    """The reader in C would overflow its stack, which no handler survives."""
    with pytest.raises(UserError, match="not plain YAML"):
        yaml_file.parse_plain(text.format("[" * depth, "]" * depth, "- " * depth), "a.yaml")


def test_deep_blocks_are_one_error():
    nested = "".join(f"{' ' * level}a:\n" for level in range(2000))
    with pytest.raises(UserError, match="not plain YAML"):
        yaml_file.parse_plain(nested, "a.yaml")


def test_every_call_gives_a_copy():
    first = yaml_file.parse_plain("a: {b: [1]}\n", "a.yaml")
    first["a"]["b"].append(2)
    assert yaml_file.parse_plain("a: {b: [1]}\n", "a.yaml") == {"a": {"b": [1]}}
