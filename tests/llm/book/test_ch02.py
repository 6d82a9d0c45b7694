"""Chapter 2: the printed counts of The Verdict, ids and windows, and unknown words in both tokenizers."""

import pytest

from llm.book.ch02 import (
    END_OF_TEXT,
    UNKNOWN,
    SimpleTokenizerV1,
    SimpleTokenizerV2,
    create_dataloader_v1,
    vocabulary,
    words,
)

FIRST = [40, 367, 2885, 1464, 1807, 3619, 402, 271, 10899, 2138]  # GPT-2's first ids of The Verdict
NUMBERS = SimpleTokenizerV1({str(number): number for number in range(50257)})  # a text of ids becomes these ids


def loader(ids, *args, **settings):
    return create_dataloader_v1(" ".join(map(str, ids)), NUMBERS, *args, **settings)


@pytest.fixture(scope="module")
def verdict(mirror) -> list[str]:
    return words((mirror / "the-verdict.txt").read_text("utf-8"))


def test_words_and_marks_are_tokens_and_spaces_are_not():
    assert words("Hello, world.  Is this-- a test?") == "Hello , world . Is this -- a test ?".split()


def test_the_verdict_has_the_published_counts(verdict):
    assert len(verdict) == 4690
    assert len(vocabulary(verdict)) == 1130
    assert len(vocabulary(verdict, [END_OF_TEXT, UNKNOWN])) == 1132


def test_v1_reads_back_and_refuses_a_new_word(verdict):
    tokenizer = SimpleTokenizerV1(vocabulary(verdict))
    text = "It's the last he painted, you know, Mrs. Gisburn said."
    assert tokenizer.decode(tokenizer.encode(text)).replace("' s", "'s") == text
    with pytest.raises(KeyError, match="Hello"):
        tokenizer.encode("Hello, do you like tea?")


def test_only_v2_removes_the_space_before_a_colon():
    text, numbers = "terraces: of the palace; tea?", vocabulary(words("terraces: of the palace; tea?"))
    assert (
        SimpleTokenizerV1(numbers).decode(SimpleTokenizerV1(numbers).encode(text)) == "terraces : of the palace ; tea?"
    )
    numbers |= {UNKNOWN: len(numbers)}
    assert SimpleTokenizerV2(numbers).decode(SimpleTokenizerV2(numbers).encode(text)) == text


def test_v2_marks_a_new_word(verdict):
    tokenizer = SimpleTokenizerV2(vocabulary(verdict, [END_OF_TEXT, UNKNOWN]))
    ids = tokenizer.encode("Hello, do you like tea? <|endoftext|> In the sunlit terraces of the palace.")
    assert ids == [1131, 5, 355, 1126, 628, 975, 10, 1130, 55, 988, 956, 984, 722, 988, 1131, 7]
    assert tokenizer.decode(ids).startswith("<|unk|>, do you like tea? <|endoftext|> In the sunlit")


def test_the_first_window_and_its_targets():
    inputs, targets = next(iter(loader(FIRST, 1, 4, 1, shuffle=False)))
    assert inputs.tolist() == [[40, 367, 2885, 1464]]
    assert targets.tolist() == [[367, 2885, 1464, 1807]]


@pytest.mark.parametrize(("length", "rows"), [(2, [FIRST[0:2], FIRST[2:4]]), (8, [FIRST[0:8], FIRST[2:10]])])
def test_windows_of_exercise_2_2(length, rows):
    ids = [*FIRST, 0]
    windows = loader(ids, batch_size=1, max_length=length, stride=2, shuffle=False)
    assert [inputs[0].tolist() for inputs, _ in windows][:2] == rows


def test_a_last_window_needs_its_target():
    assert len(loader(range(9), 1, 4, 4)) == 2
    assert len(loader(range(8), 1, 4, 4)) == 1


def test_a_short_last_batch_is_dropped_or_kept():
    assert [len(loader(range(4), 2, 1, 1, drop_last=drop)) for drop in (True, False)] == [1, 2]
