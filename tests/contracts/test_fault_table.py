"""docs/faults.md says what tests/faults/*.yaml say, and every test that they name exists."""

from pathlib import Path

import pytest

from llm.errors import UserError
from tests import fault_table
from tests.fault_table import Row, absent, doubled, read, render

ROOT = Path(__file__).parents[2]
# Rows never go unseen: fewer than these is an error. A section without a file yet is left out.
LEAST = {
    "contract": 27,
    "download": 46,
    "data": 37,
    "parameters": 33,
    "pipeline": 13,
    "tokens": 52,
    "training": 36,
    "judge": 57,
    "tracking": 18,
}
GOOD = "tests/contracts/test_fault_table.py::test_the_page_is_what_would_be_rendered"
ENTRY = "- {{fault: a, expect: b, tests: [{}], control: null}}\n"


@pytest.fixture(scope="module")
def table() -> dict[str, list[Row]]:
    return read()


def stale(page: str, table: dict[str, list[Row]]) -> bool:
    return page != render(table)


def too_few(table: dict[str, list[Row]]) -> list[str]:
    return [section for section, rows in table.items() if len(rows) < LEAST.get(section, 1)]


def test_every_named_test_exists(table):
    assert absent([name for rows in table.values() for row in rows for name in row.named]) == []


@pytest.mark.parametrize(
    "name",
    [
        "tests/llm/test_absent.py::test_a",
        "tests/contracts/test_fault_table.py::test_of_no_such_name",
        "tests/contracts/test_fault_table.py",
        "tests/contracts/test_fault_table.py::stale",
        f"{GOOD}[case of no such id]",
    ],
)
def test_a_name_of_no_test_is_found(name, tmp_path):
    (tmp_path / "data.yaml").write_text(ENTRY.format(GOOD) + ENTRY.format(f'"{name}"'))
    rows = read(tmp_path)["data"]
    assert absent([name for row in rows for name in row.named]) == [name]


def test_the_page_is_what_would_be_rendered(table):
    page = (ROOT / fault_table.PAGE).read_text(encoding="utf-8")
    assert not stale(page, table), "run `python -m tests.fault_table --write`"
    assert stale(page, {**table, "contract": table["contract"][1:]})  # a row gone
    assert stale(page.replace("a", "b", 1), table)


def test_every_section_has_its_rows(table):
    assert set(table) >= set(LEAST)
    assert too_few(table) == []
    assert too_few({**table, "contract": table["contract"][: LEAST["contract"] - 1]}) == ["contract"]


def without_control(table: dict[str, list[Row]]) -> list[str]:
    return [row.fault for rows in table.values() for row in rows if row.control is None]


def test_every_row_has_a_control(table):
    assert without_control(table) == []
    assert without_control({"data": [Row("a", "b", (GOOD,), None)]}) == ["a"]


def test_no_fault_stands_twice(table):
    assert doubled(table) == []
    row = table["contract"][0]
    assert doubled({"contract": [row], "data": [Row(row.fault.upper(), "b", (GOOD,), None)]}) == [row.fault.casefold()]


@pytest.mark.parametrize(
    "entry",
    [
        "- {fault: a, expect: b, tests: [c]}",
        "- {fault: a, expect: b, tests: [], control: null}",
        "- {fault: a, expect: b, tests: c, control: null}",
        "- {fault: a, expect: '', tests: [c], control: null}",
        "- {fault: 1, expect: b, tests: [c], control: null}",
        "- {fault: a, expect: b, tests: [c], control: null, more: d}",
        "- text",
    ],
)
def test_an_entry_of_another_form_is_refused(entry, tmp_path):
    (tmp_path / "data.yaml").write_text(ENTRY.format(GOOD) + entry + "\n")
    with pytest.raises(UserError, match="entry 1"):
        read(tmp_path)


def test_a_file_of_no_section_is_refused(tmp_path):
    (tmp_path / "date.yaml").write_text(ENTRY.format(GOOD))
    with pytest.raises(UserError, match="no such section"):
        read(tmp_path)


def test_a_cell_cannot_break_its_row():
    page = render({"data": [Row("a | b <i>", "c", (GOOD,), GOOD)]})
    (line,) = [line for line in page.splitlines() if line.startswith("| a")]
    assert line.startswith("| a \\| b &lt;i> | c | [the page is what would be rendered](../tests/contracts/")
