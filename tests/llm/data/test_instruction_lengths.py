"""The policy for entries that are too long, and the tokens of a frame."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.common.errors import DATA, UserError
from llm.data.batches import IGNORED
from llm.data.instruction_dataset import InstructionDataset
from llm.data.instruction_lengths import answer_tokens, encode_entry, fit, frame_cost
from llm.data.instructions import read_entries
from llm.data.prompts import ALPACA, Template, TemplateFrame
from llm.data.tokenizer import Tokenizer

NONE = TemplateFrame(Template("{instruction}\n{input}", "\n"))


@pytest.fixture(scope="module")
def tokenizer(vocabulary) -> Tokenizer:
    return Tokenizer.load(vocabulary)


def entry(instruction: str = "q", given: str = "", output: str = "a") -> dict:
    return {"instruction": instruction, "input": given, "output": output}


def chat(*texts: str) -> dict:
    roles = ("user", "assistant") * len(texts)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]}


def length(one: dict, tokenizer, frame=NONE) -> int:
    return encode_entry(one, frame, tokenizer).length


def test_an_entry_of_the_limit_fits_and_one_token_more_does_not(tokenizer):
    one = entry(output="a b c d e f")
    limit = length(one, tokenizer)
    assert fit([(1, one)], NONE, tokenizer, limit, "refuse", "file").entries == [one]
    with pytest.raises(UserError):
        fit([(1, one)], NONE, tokenizer, limit - 1, "refuse", "file")


def test_all_that_are_too_long_are_refused_together_with_numbers_and_lengths(tokenizer):
    numbered = [(n, entry(output="z z z z z " * (n in (3, 7)))) for n in range(1, 10) if n != 2]
    with pytest.raises(UserError) as caught:
        fit(numbered, NONE, tokenizer, 9, "refuse", "file")
    size = length(numbered[1][1], tokenizer)
    assert caught.value.code == DATA
    assert caught.value.what == (
        f"2 of 8 entries have more than 9 tokens in their prompt frame: entry 3 ({size}), entry 7 ({size})"
    )
    many = [(n, entry(output="z z z z z z")) for n in range(1, 31)]
    with pytest.raises(UserError, match=r"30 of 30 entries .* entry 20 \(\d+\) and 10 more \| fix"):
        fit(many, NONE, tokenizer, 9, "refuse", "file")


def test_they_are_skipped_on_request(tokenizer):
    numbered = [(1, entry()), (2, entry(output="z z z z z z z")), (4, entry("z z z z z z z")), (5, entry())]
    fitted = fit(numbered, NONE, tokenizer, 9, "skip", "file")
    assert fitted.entries == [entry(), entry()]
    assert (fitted.too_long, fitted.truncated) == ([2, 4], [])


def test_the_row_of_a_long_answer_ends_at_the_limit(tokenizer):
    """The entry stays as it is: cut in the text, the answer would be taught to end there."""
    one = entry(output="a b c d e f g h i j")
    fitted = fit([(3, one)], NONE, tokenizer, 9, "truncate", "file")
    assert (fitted.entries, fitted.too_long, fitted.truncated) == ([one], [3], [3])
    data = InstructionDataset(fitted.entries, tokenizer, 9, mask_prompt=True, frame=NONE)
    targets = data.batch([0]).targets[0]
    assert tokenizer.eot not in targets
    assert tokenizer.decode(targets[targets != IGNORED].tolist()) == one["output"][: len("a b c d e f g h")][:8]
    assert data.n_cut == 1


def test_a_long_input_is_cut_at_its_end(tokenizer):
    one = entry("q", "one two three four five six seven eight nine ten eleven", "a b c d e f g h i j k l m n o p")
    (cut,) = fit([(1, one)], NONE, tokenizer, 16, "truncate", "file").entries
    assert (cut["instruction"], cut["output"]) == (one["instruction"], one["output"])
    assert cut["input"]
    assert one["input"].startswith(cut["input"])
    encoded = encode_entry(cut, NONE, tokenizer)
    assert 8 <= answer_tokens(encoded, 16) <= 10  # half of the limit, and what was cut with a token


def test_without_an_input_the_instruction_is_cut(tokenizer):
    one = entry("one two three four five six seven eight nine ten eleven twelve", "", "a")
    (cut,) = fit([(1, one)], NONE, tokenizer, 16, "truncate", "file").entries
    assert one["instruction"].startswith(cut["instruction"])
    assert 0 < len(cut["instruction"]) < len(one["instruction"])
    assert cut["output"] == "a"


def test_a_chat_loses_its_last_turns(tokenizer):
    one = chat("a", "b", "c", "d", "e", "f f f f f f f f")
    assert fit([(1, one)], NONE, tokenizer, 20, "truncate", "f").entries == [chat("a", "b", "c", "d")]
    (only,) = fit([(1, one)], NONE, tokenizer, 6, "truncate", "f").entries
    assert only == entry("a", "", "b")


def test_the_longest_text_of_a_chat_is_cut_if_one_answer_is_left(tokenizer):
    system = [{"role": "system", "content": "one two three four five six seven eight nine ten eleven"}]
    one = {"messages": system + chat("q", "a", "r", "b")["messages"]}
    (cut,) = fit([(1, one)], NONE, tokenizer, 16, "truncate", "f").entries
    assert [message["content"] for message in cut["messages"][1:]] == ["q", "a"]
    assert system[0]["content"].startswith(cut["messages"][0]["content"])
    assert system[0]["content"] != cut["messages"][0]["content"]
    assert length(cut, tokenizer) <= 16


def test_a_chat_that_the_assistant_begins_keeps_tokens_of_its_last_answer(tokenizer):
    turns = [
        ("assistant", "Hi!"),
        ("user", "one two three four five six seven eight nine ten"),
        ("assistant", "b b b b"),
    ]
    one = {"messages": [{"role": role, "content": text} for role, text in turns]}
    (cut,) = fit([(1, one)], NONE, tokenizer, 16, "truncate", "f").entries
    question = cut["messages"][1]["content"]
    assert [message["content"] for message in cut["messages"]] == ["Hi!", question, "b b b b"]
    assert question
    assert turns[1][1].startswith(question)
    encoded = encode_entry(cut, NONE, tokenizer)
    assert "b" in tokenizer.decode(encoded.ids[encoded.last_start : 16 + 1])


def test_a_frame_that_leaves_no_room_is_an_error(tokenizer):
    with pytest.raises(UserError) as caught:
        fit([(1, entry()), (2, entry())], ALPACA, tokenizer, 9, "truncate", "file")
    problems = [str(problem) for problem in caught.value.problems]
    assert [problem.split(":")[1] for problem in problems] == [" entry 1", " entry 2"]
    assert "its prompt frame alone leaves no room for an answer in 9 tokens" in problems[0]


WORDS = st.lists(st.sampled_from(["a", "Straße", "日本語", "ภาษา", "🙂🙂", "नमस्ते", "\n"]), min_size=1, max_size=25)
TEXTS = WORDS.map(" ".join).filter(str.strip)


@settings(deadline=None, max_examples=60)
@given(texts=st.lists(TEXTS, min_size=2, max_size=6), limit=st.integers(24, 60), given=st.booleans())
def test_truncated_entries_always_keep_answers_and_stay_valid(texts, limit, given, tokenizer, tmp_path_factory):
    from llm.common.files import write_json

    one = entry(texts[0], texts[1] if given else "", texts[-1]) if len(texts) < 4 else chat(*texts[: len(texts) & ~1])
    path = tmp_path_factory.mktemp("cut") / "entries.json"
    write_json(path, fit([(1, one)], NONE, tokenizer, limit, "truncate", "file").entries)
    (cut,) = read_entries(path)
    encoded = encode_entry(cut, NONE, tokenizer)
    assert answer_tokens(encoded, limit) > 0
    if encoded.length > limit:  # the last answer is cut by the row
        assert encoded.start <= limit
    InstructionDataset([cut], tokenizer, limit, mask_prompt=True, frame=NONE)


def test_the_cost_of_a_frame_is_what_it_adds(tokenizer):
    entries = [entry("one two", "three", "four"), entry("five", "", "six seven")]
    template = TemplateFrame(Template("#{instruction}#{input}", "#"))
    own = sum(len(tokenizer.encode(text)) for one in entries for text in one.values())

    def cost(entries, frame):
        return frame_cost(entries, [length(one, tokenizer, frame) for one in entries], tokenizer)

    assert cost(entries, template) == {"frame_tokens_mean": 3.0, "frame_share": 6 / (own + 6)}
    assert cost(entries, ALPACA)["frame_tokens_mean"] > 20
    turns = cost([chat("a", "b", "c", "d")], template)  # and one <|endoftext|> between the turns
    assert turns["frame_tokens_mean"] == 2 * 3 + 1


def test_lengths_are_those_of_the_encoded_entries(tokenizer):
    entries = [entry("one two", "three", "four"), chat("a", "b", "c", "d")]
    whole = [length(one, tokenizer, ALPACA) for one in entries]
    fitted = fit([(1, entries[0]), (2, entries[1])], ALPACA, tokenizer, max(whole) - 1, "truncate", "file")
    assert fitted.lengths == [length(one, tokenizer, ALPACA) for one in fitted.entries]


@pytest.mark.parametrize("limit", [140, 200, 240, 262])
def test_a_long_answer_after_a_long_frame_keeps_what_fits(limit, tokenizer):
    one = entry("do", "word tree cat " * 60, "word tree cat " * 60)
    frame = length(entry("do", "", ""), tokenizer, ALPACA)
    assert frame < limit  # a part of the answer fits
    (cut,) = fit([(1, one)], ALPACA, tokenizer, limit, "truncate", "file").entries
    assert answer_tokens(encode_entry(cut, ALPACA, tokenizer), limit) > 0


def test_a_chat_is_never_cut_to_an_answer_without_a_question(tokenizer):
    turns = [("assistant", "Hi."), ("user", "z z z z z z"), ("assistant", "a b c d e f")]
    one = {"messages": [{"role": role, "content": text} for role, text in turns]}
    (cut,) = fit([(1, one)], NONE, tokenizer, 12, "truncate", "file").entries
    assert "user" in [message["role"] for message in cut.get("messages", [{"role": "user"}])]
