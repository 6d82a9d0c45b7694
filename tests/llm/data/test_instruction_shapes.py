"""Instructions as they are published: formats, shapes, keys, and everything that is counted."""

import json
from pathlib import Path

import pytest

from llm.common.errors import DATA, UserError, UserErrors
from llm.common.files import write_json
from llm.data.instruction_shapes import Keys, Published, read_published, summary
from llm.data.instructions import read_entries
from tests.mutations import answers

ENTRY = {"instruction": "Say 1.", "input": "loud", "output": "One."}
OTHER = ENTRY | {"input": ""}
TURNS = [("human", "Hi."), ("gpt", "Hello."), ("human", "Bye."), ("gpt", "Ciao.")]
SHAREGPT = {"conversations": [{"from": role, "value": text} for role, text in TURNS]}
MESSAGES = {
    "messages": [{"role": {"human": "user", "gpt": "assistant"}[role], "content": text} for role, text in TURNS]
}


def write(folder: Path, value, name: str = "data.json") -> Path:
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
    return path


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(path, form="guess", shape="guess", as_text=()) -> Published:
    return read_published(path, form, shape, as_text)


def entries(found: Published) -> list:
    return [entry for _, entry in found.entries]


def refused(*arguments, **settings) -> list[str]:
    with pytest.raises(UserError) as raised:
        read(*arguments, **settings)
    assert raised.value.code == DATA
    return [str(problem) for problem in getattr(raised.value, "problems", [raised.value])]


# --- formats ---


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (json.dumps([ENTRY, OTHER]), "json"),
        (json.dumps([ENTRY, OTHER], indent=2), "json"),
        (json.dumps({"data": [ENTRY, OTHER]}), "json"),
        (json.dumps({"version": "1", "tags": ["a"], "examples": [ENTRY, OTHER]}, indent=1), "json"),
        (lines([ENTRY, OTHER]), "jsonl"),
        ("\n" + lines([ENTRY]) + "\n  \n" + lines([OTHER]).rstrip(), "jsonl"),
        ("\ufeff" + lines([ENTRY, OTHER]).replace("\n", "\r\n"), "jsonl"),
    ],
)
def test_a_format_is_guessed_from_the_text(text, form, tmp_path):
    found = read(write(tmp_path, text))
    assert entries(found) == [ENTRY, OTHER]
    assert (found.form, found.shape, found.rows) == (form, "alpaca", 2)
    assert [number for number, _ in found.entries] == [1, 2]


@pytest.mark.parametrize("name", ["one.jsonl", "ONE.JSONL"])
def test_one_line_in_a_jsonl_file_is_one_entry(name, tmp_path):
    assert entries(read(write(tmp_path, MESSAGES, name))) == [MESSAGES]


@pytest.mark.parametrize("name", ["chats.jsonl", "chats.json", "chats"])
def test_a_chat_may_be_the_bare_list_of_its_turns(name, tmp_path):
    bare = [MESSAGES["messages"], MESSAGES["messages"][:2]]
    expected = [MESSAGES, {"instruction": "Hi.", "input": "", "output": "Hello."}]
    spoken = [[{"who": turn["role"], "text": turn["content"]} for turn in chat] for chat in bare]
    own = Keys(messages="dialog", role="who", content="text")
    for text, form in ((lines(bare), "jsonl"), (json.dumps(bare), "json"), (json.dumps(bare, indent=1), "json")):
        found = read(path := write(tmp_path, text, name))
        assert entries(found) == entries(read(path, shape="messages")) == expected
        assert (found.form, found.shape, found.rows, found.extra_keys) == (form, "messages", 2, {})
    assert entries(read(write(tmp_path, lines(spoken), name), shape=own)) == expected
    assert entries(read(write(tmp_path, lines([SHAREGPT["conversations"]] * 2), name))) == [MESSAGES, MESSAGES]
    (problem,) = refused(write(tmp_path, lines([bare[0], [*bare[1], {"role": "user"}]]), name))
    assert "entry 2, turn 3: missing 'content'" in problem


def test_lines_with_lists_of_other_things_are_no_chats(tmp_path):
    for rows in ([[ENTRY, OTHER], [OTHER]], [["Hi.", "Hello."], ["Bye.", "Ciao."]], [[], [1]]):
        assert "no entry has the keys of a known shape" in refused(write(tmp_path, lines(rows), "data.jsonl"))[0]
    first, _ = refused(write(tmp_path, lines([[ENTRY], [OTHER]]), "data.jsonl"), shape="alpaca")
    assert "entry 1: is [{'instruction': 'Say 1.'" in first


def test_line_separators_of_unicode_do_not_end_a_line(tmp_path):
    entry = ENTRY | {"output": "a\u2028b\x85c"}
    path = write(tmp_path, json.dumps(entry, ensure_ascii=False) + "\n" + json.dumps(OTHER))
    assert entries(read(path)) == [entry, OTHER]


def test_parquet_is_read(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist([ENTRY, OTHER | {"input": None}]), tmp_path / "data.parquet")
    found = read(tmp_path / "data.parquet")
    assert (found.form, entries(found)) == ("parquet", [ENTRY, OTHER])
    parquet.write_table(pyarrow.Table.from_pylist([MESSAGES]), tmp_path / "chats.parquet")
    assert entries(read(tmp_path / "chats.parquet")) == [MESSAGES]
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    assert "not readable Parquet" in refused(tmp_path / "broken.parquet")[0]


def test_parquet_with_wrong_bytes_or_dates_is_refused(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    wrong = pyarrow.Array.from_buffers(pyarrow.utf8(), 1, pyarrow.array([b"\xff"]).buffers())
    late = pyarrow.array([2**30], pyarrow.int32()).cast(pyarrow.date32())
    for column in (wrong, late):
        columns = {"instruction": ["a"], "output": ["b"], "other": column}
        parquet.write_table(pyarrow.table(columns), tmp_path / "wrong.parquet")
        assert "not readable Parquet" in refused(tmp_path / "wrong.parquet")[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "data.json: has no entries"),
        ("5", "contains int, not a list of entries"),
        ('{"a": 1}', "is one object with 0 lists of entries (a)"),
        (json.dumps({"train": [ENTRY], "test": [ENTRY]}), "with 2 lists of entries (train, test) | fix: keep one"),
        ('[{"instruction": "a", "output": "b", "output": "c"}]', "key 'output' is used twice"),
        ('[{"instruction": "a", "output": NaN}]', "NaN is not a finite number"),
        ('[{"question": "a", "reply": "b"}]', "but: question, reply | fix: name yours"),
        ("[1, 2]", "but: none"),
        (json.dumps({str(n): ENTRY for n in range(50)}), "0 lists of entries (0, 1, 2, 3, 4, 5, 6, 7 and 42 more)"),
        ("<!DOCTYPE html>", "is an HTML page, not the data"),
        ("%PDF-1.4", "is a PDF file, not text"),
        (json.dumps([{"messages": json.dumps(MESSAGES["messages"])}]), "a string, not a list of turns | fix: parse it"),
    ],
)
def test_other_files_are_refused(text, said, tmp_path):
    assert said in refused(write(tmp_path, text))[0]


def test_a_table_is_refused_with_the_formats_that_are_read(tmp_path):
    (told,) = refused(write(tmp_path, "instruction,output\na,b\n", "data.csv"))
    assert "is a table by the end of its name, .csv; instructions are JSON, JSON Lines or Parquet | fix: write" in told


def test_all_broken_lines_are_reported_with_their_numbers(tmp_path):
    text = lines([ENTRY]) + "\n{broken\n" + lines([ENTRY]) + '{"a": 1, "a": 2}\n'
    first, second = refused(path := write(tmp_path, text, "data.jsonl"))
    assert first.startswith(f"{path}:3: not JSON")
    assert second.startswith(f"{path}:5: key 'a' is used twice")


# --- shapes ---


@pytest.mark.parametrize(
    ("row", "shape", "entry"),
    [
        ({"instruction": "a", "output": "b"}, "alpaca", {"instruction": "a", "input": "", "output": "b"}),
        (
            {"instruction": "a", "input": None, "output": "b"},
            "alpaca",
            {"instruction": "a", "input": "", "output": "b"},
        ),
        (
            {"instruction": "a", "context": "c", "response": "b"},
            "dolly",
            {"instruction": "a", "input": "c", "output": "b"},
        ),
        ({"instruction": "a", "response": "b"}, "dolly", None),
        (
            {"instruction": "a", "input": "c", "response": "b"},
            "instruction, input, output: response",
            {"instruction": "a", "input": "c", "output": "b"},
        ),
        (SHAREGPT, "sharegpt", MESSAGES),
        (MESSAGES, "messages", MESSAGES),
        ({"conversations": MESSAGES["messages"]}, "messages: conversations, role, content", MESSAGES),
        (
            {"messages": MESSAGES["messages"][:2]},
            "messages",
            {"instruction": "Hi.", "input": "", "output": "Hello."},
        ),
    ],
)
def test_a_shape_is_guessed_and_brought_into_normal_form(row, shape, entry, tmp_path):
    found = read(write(tmp_path, [row]))
    assert found.shape == shape
    assert entries(found) == [entry or {"instruction": "a", "input": "", "output": "b"}]
    assert not found.extra_keys
    path = write(tmp_path, entries(found), "normal.json")
    assert read_entries(path) == entries(found)  # what the next stages read
    assert entries(read(path)) == entries(found)


@pytest.mark.parametrize(
    ("shape", "row", "entry"),
    [
        (Keys("q", None, "a"), {"q": "1", "a": "2"}, {"instruction": "1", "input": "", "output": "2"}),
        (Keys("q", "c", "a"), {"q": "1", "a": "2", "c": "3"}, {"instruction": "1", "input": "3", "output": "2"}),
        (Keys("q", "c", "a"), {"q": "1", "a": "2"}, {"instruction": "1", "input": "", "output": "2"}),
        (
            Keys(messages="dialog", role="who", content="says"),
            {"dialog": [{"who": "USER" if role == "human" else "Bot", "says": text} for role, text in TURNS]},
            MESSAGES,
        ),
    ],
)
def test_own_key_names(shape, row, entry, tmp_path):
    assert list(shape.problems()) == []
    assert entries(read(write(tmp_path, [row]), shape=shape)) == [entry]


def test_a_named_shape_is_not_guessed(tmp_path):
    row = ENTRY | {"context": "c", "response": "r"}
    for shape, output in (("alpaca", "One."), ("dolly", "r"), ("guess", "One.")):
        assert entries(read(write(tmp_path, [row]), shape=shape))[0]["output"] == output
    assert "missing 'messages'" in refused(write(tmp_path, [row]), shape="messages")[0]


def test_the_shape_of_most_entries_is_taken_and_the_others_are_reported(tmp_path):
    (message,) = refused(path := write(tmp_path, [MESSAGES, ENTRY, ENTRY]))
    assert message.startswith(f"{path}: entry 1: missing 'instruction'")


def test_extra_keys_are_counted(tmp_path):
    turn = SHAREGPT["conversations"][0] | {"weight": 0}
    rows = [SHAREGPT | {"id": 5}, {"conversations": [turn, *SHAREGPT["conversations"][1:]], "id": None, "lang": "en"}]
    found = read(write(tmp_path, rows))
    assert entries(found) == [MESSAGES, MESSAGES]
    assert found.extra_keys == {"id": 2, "lang": 1, "conversations.weight": 1}
    found = read(write(tmp_path, {"version": 2, "data": rows}))
    assert found.extra_keys == {"id": 2, "lang": 1, "conversations.weight": 1, "(file).version": 1}


def test_a_summary_of_keys_is_short_and_can_be_written(tmp_path):
    rows = [ENTRY | {f"k{n}": 1, "id": n, "\ud800": 0} for n in range(100)]
    short = summary(read(write(tmp_path, rows)).extra_keys)
    assert len(short) == 31
    assert (short["id"], short["?"], short["k0"], short["(other keys)"]) == (100, 100, 1, 72)
    write_json(tmp_path / "report.json", short)


# --- texts ---


def test_numbers_and_lists_are_made_text_only_where_declared(tmp_path):
    values = [7, -0.5, True, ["a", "b"], ["x", 3], "s"]
    path = write(tmp_path, [ENTRY | {"output": value} for value in values])
    found = read(path, as_text=["output"])
    assert [entry["output"] for entry in entries(found)] == ["7", "-0.5", "true", "a\nb", "x\n3", "s"]
    assert found.made_text == {"output": 5}
    messages = refused(path)
    assert len(messages) == 5
    assert "entry 1: output is 7, not a string" in messages[0]
    assert "name output in tokenize.instructions.as_text" in messages[0]


@pytest.mark.parametrize("value", [{"a": 1}, [["a"]], [None], [{"text": "a"}]])
def test_other_values_are_never_made_text(value, tmp_path):
    assert "not a string" in refused(write(tmp_path, [ENTRY | {"output": value}]), as_text=["output"])[0]


def test_numbers_in_turns_are_made_text_where_declared(tmp_path):
    chat = {"messages": [MESSAGES["messages"][0], {"role": "assistant", "content": 5}]}
    found = read(write(tmp_path, [chat]), as_text=["content"])
    assert entries(found) == [{"instruction": "Hi.", "input": "", "output": "5"}]


def test_invalid_entries_are_reported_together(tmp_path):
    rows = [ENTRY, 5, {"instruction": "a"}, ENTRY | {"output": "\ud800"}, ENTRY]
    messages = refused(path := write(tmp_path, rows))
    assert [message.split(" | ")[0] for message in messages] == [
        f"{path}: entry 2: is 5, not an object",
        f"{path}: entry 3: missing 'output'",
        f"{path}: entry 4: output contains a lone surrogate",
    ]
    with pytest.raises(UserErrors) as raised:
        read(write(tmp_path, [ENTRY] + [{"instruction": 1, "output": "a"}] * 30))
    assert "20 more problems" in str(raised.value)


def test_entries_without_a_question_or_an_answer_are_numbered(tmp_path):
    rows = [ENTRY, ENTRY | {"output": " "}, ENTRY | {"instruction": None}, ENTRY | {"input": ""}]
    found = read(write(tmp_path, rows))
    assert (found.empty, found.rows, [number for number, _ in found.entries]) == ([2, 3], 4, [1, 4])


# --- chats ---


@pytest.mark.parametrize(
    ("roles", "kept", "unanswered"),
    [
        ("suaua", "suaua", 0),
        ("sua", "sua", 0),
        ("uauau", "uaua", 1),
        ("auasuu", "aua", 3),
        ("uuaa", "uuaa", 0),
        ("uasu", "ua", 2),
    ],
)
def test_turns_after_the_last_answer_are_left_out_and_counted(roles, kept, unanswered, tmp_path):
    names = {"s": "system", "u": "user", "a": "assistant"}
    chat = [{"role": names[role], "content": f"{n}"} for n, role in enumerate(roles)]
    found = read(write(tmp_path, [{"messages": chat}]))
    (entry,) = entries(found)
    assert found.unanswered == unanswered
    if kept == "ua":
        assert entry == {"instruction": "0", "input": "", "output": "1"}
    else:
        assert entry == {"messages": chat[: len(kept)]}


@pytest.mark.parametrize(
    "turns",
    [
        [],
        [("user", "a")],
        [("assistant", "a"), ("user", "b")],
        [("system", "a"), ("assistant", "b")],
        [("user", ""), ("assistant", "b")],
        [("user", "a"), ("assistant", None)],
    ],
)
def test_a_chat_without_an_answer_or_with_an_empty_turn_is_empty(turns, tmp_path):
    chat = {"messages": [{"role": role, "content": text} for role, text in turns]}
    assert read(write(tmp_path, [MESSAGES, chat])).empty == [2]


def test_an_empty_system_message_is_none(tmp_path):
    chat = {"messages": [{"role": "system", "content": ""}, *MESSAGES["messages"]]}
    assert entries(read(write(tmp_path, [chat]))) == [MESSAGES]


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        ({"role": "tool", "content": "x"}, "role is 'tool', not one of system"),
        ({"role": "user"}, "missing 'content'"),
        ({"role": 1, "content": "x"}, "role is 1, not a string"),
        ("x", "is 'x', not an object"),
    ],
)
def test_an_invalid_turn_is_reported_with_its_number(turn, said, tmp_path):
    path = write(tmp_path, [MESSAGES, {"messages": [MESSAGES["messages"][0], turn, MESSAGES["messages"][1]]}])
    (message,) = refused(path)
    assert message.startswith(f"{path}: entry 2, turn 2: ")
    assert said in message


def test_turns_that_are_no_list_are_refused(tmp_path):
    (message,) = refused(write(tmp_path, [MESSAGES, {"messages": "x"}]))
    assert "entry 2: messages is 'x', not a list of turns" in message


# --- settings, and broken copies ---


@pytest.mark.parametrize(
    "keys", [Keys(), Keys("q"), Keys("q", "c"), Keys(messages="m"), Keys("q", None, "a", "m"), Keys("q", "c", "a", "m")]
)
def test_keys_name_a_pair_or_a_chat(keys):
    assert len(list(keys.problems())) == 1


def test_no_mutation_of_a_chat_is_misread(tmp_path):
    def meaning(raw: bytes) -> list:
        pairs = json.loads(raw, object_pairs_hook=list)
        for entry in pairs:
            for turn in dict(entry)["messages"]:
                if len(dict(turn)) != len(turn):
                    raise ValueError("duplicate key")
            if len(dict(entry)) != len(entry):
                raise ValueError("duplicate key")
        (messages,) = ([dict(turn) for turn in dict(entry)["messages"]] for entry in pairs)
        return [(turn["role"], turn["content"]) for turn in messages]

    def turns(path: Path) -> list:
        found = read_published(path, "json", "messages", ())
        (entry,) = entries(found)
        if found.unanswered or "messages" not in entry:
            raise UserError(str(path), "has other turns than the file", "none")
        return [(turn["role"], turn["content"]) for turn in entry["messages"]]

    given = answers(turns, tmp_path / "chats.json", json.dumps([MESSAGES], indent=1).encode(), meaning)
    assert set(given) == {"accepted", "refused"}
    assert 50 < given.count("accepted") < 900


def test_parts_of_a_message_are_made_text(tmp_path):
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    chat = [{"role": "user", "content": parts}, {"role": "assistant", "content": "three"}]
    path = write(tmp_path, [{"messages": chat}])
    assert entries(read(path, as_text=["content"])) == [{"instruction": "one\ntwo", "input": "", "output": "three"}]
    with pytest.raises(UserError, match=r"tokenize\.instructions\.as_text: 'contents' is not a key of a text"):
        read(path, as_text=["contents"])


def test_an_array_is_read_whatever_the_name_ends_with(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps([ENTRY], indent=1))
    assert entries(read(path)) == [ENTRY]
