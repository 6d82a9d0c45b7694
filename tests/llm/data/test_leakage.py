"""Leaks between splits: by hand, compared with a pairwise search, and on the data of the book."""

import random
import zipfile
from pathlib import Path

import pytest

from llm.book.measures.sources import SPAM
from llm.data import leakage
from llm.data.instructions import read_entries, split_entries
from llm.data.leakage import ALIKE, counts, leaks, ngrams, without, words
from llm.data.prompts import question
from llm.data.spam import balanced_splits, read_messages

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


@pytest.mark.parametrize(
    ("text", "leak"),
    [
        ("Call 0800 123 now!", "exact"),
        ("Call 0800 123 now! ", "near"),
        ("call 0900 456 NOW", "near"),
        ("callnow", "near"),
        ("Call now or later", "none"),
        ("now call", "none"),
        ("77", "none"),  # texts without letters have no near-duplicates
        ("12345", "exact"),
        (LONG + " fifteen", "near"),  # Jaccard index 10/11
        (LONG.removeprefix("one two "), "near"),  # 8/10
        (LONG.removeprefix("one two three "), "none"),  # 7/10
        (" ".join(reversed(LONG.split())), "none"),
    ],
)
def test_leaks_by_hand(text, leak):
    assert leaks([text], ["Call 0800 123 now!", "12345", LONG]) == [leak]


def test_without_training_texts_nothing_leaks():
    assert leaks(["a", ""], []) == ["none", "none"]


def test_ngrams_have_five_words_or_all():
    assert ngrams(words("A b, c-D 5 e f")) == {("a", "b", "c", "d", "e"), ("b", "c", "d", "e", "f")}
    assert ngrams(words("only two")) == {("only", "two")}
    assert ngrams(words("12 !")) == set()
    assert words("Grüße, 3x naïve_café") == ["grüsse", "x", "naïve", "café"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("我喜欢猫。", ["我", "喜", "欢", "猫"]),
        ("コーヒー・お茶", ["コ", "ー", "ヒ", "ー", "お", "茶"]),
        ("ที่นี่ GPT", ["ที่", "นี่", "gpt"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("ＡＢＣ ﬁn", ["abc", "fin"]),
        ("Cafe\u0301 CAFÉ", ["café", "café"]),
        ("Москва́", ["москва́"]),
    ],
)
def test_words_of_other_scripts(text, found):
    assert words(text) == found


CHINESE = "请把下面这个很长的句子翻译成英文，并且保持原来的语气和风格：今天下午我们一起去公园散步，看见了许多美丽的花。"


@pytest.mark.parametrize(
    ("text", "leak"),
    [
        (CHINESE, "exact"),
        (CHINESE.replace("，", " ").replace("。", "！"), "near"),
        (CHINESE.replace("美丽", "漂亮"), "near"),
        (CHINESE.replace("公园散步", "商店买书").replace("美丽", "漂亮"), "none"),
        ("今天下午我们一起去公园散步", "none"),
        ("ｶﾌｪ", "near"),  # half-width
    ],
)
def test_leaks_without_spaces(text, leak):
    assert leaks([text], [CHINESE, "カフェ"]) == [leak]


def test_the_index_finds_the_same_as_a_pairwise_search():
    draw = random.Random(0)
    base = [[draw.choice("abcdefgh") for _ in range(draw.randint(1, 120))] for _ in range(60)]

    def changed(text):
        return [draw.choice("abcdefgh") if draw.random() < 0.02 else word for word in text]

    train, held_out = ([" ".join(text) for text in texts] for texts in (base, [changed(t) for t in base]))

    def plain(text):
        pairs = [(ngrams(words(text)), ngrams(words(other))) for other in train]
        return any(len(a & b) / len(a | b) >= ALIKE for a, b in pairs)

    found = leaks(held_out, train)
    assert [leak != "none" for leak in found] == [plain(text) for text in held_out]
    assert 5 < found.count("near") < 55


def test_texts_with_the_same_long_part_are_not_compared_one_by_one(monkeypatch):
    draw, frame = random.Random(0), " ".join(f"frame{number:c}" for number in range(97, 197))
    texts = [
        f"{frame} " + " ".join(f"own{draw.choice('abcdefgh') * 3}{draw.randrange(97, 9999):c}" for _ in range(15))
        for _ in range(200)
    ]
    compared = []
    jaccard = leakage.jaccard
    monkeypatch.setattr(leakage, "jaccard", lambda a, b: compared.append(1) or jaccard(a, b))
    near = texts[0].rsplit(" ", 1)[0]
    assert leaks([*texts[100:], near], texts[:100]) == ["none"] * 100 + ["near"]
    assert len(compared) < 20


def test_leaks_are_removed_and_counted():
    found = ["none", "near", "exact", "none"]
    assert without([1, 2, 3, 4], found, "exact") == [1, 2, 4]
    assert without([1, 2, 3, 4], found, "exact", "near") == [1, 4]
    splits = {"train": ["a b"], "test": ["a b", "A B", "c"], "validation": ["c"]}
    assert counts(splits) == {
        "test_exact_in_train": 1,
        "test_near_in_train": 1,
        "validation_exact_in_train": 0,
        "validation_near_in_train": 0,
    }


# --- the book's data ---


def test_37_of_the_300_test_messages_of_the_book_are_in_its_training_split(mirror, tmp_path):
    with zipfile.ZipFile(mirror / "sms+spam+collection.zip") as archive:
        messages = read_messages(Path(archive.extract("SMSSpamCollection", tmp_path)), SPAM)
    splits = balanced_splits(messages, SPAM, 123)
    found = counts({split: part["Text"].tolist() for split, part in splits.items()})
    assert found["test_exact_in_train"] == 37
    assert found["test_near_in_train"] == 25  # mostly the same advertisement with another number
    assert found["validation_exact_in_train"] == 13


def test_2_of_the_110_test_prompts_of_the_book_are_in_its_training_split(mirror):
    splits = split_entries(read_entries(mirror / "instruction-data.json"), 0.85, 0.1)
    found = counts({split: [question(entry) for entry in part] for split, part in splits.items()})
    assert found["test_exact_in_train"] == 2
    assert found["test_near_in_train"] == 6


def test_a_lower_threshold_finds_more(monkeypatch):
    assert leaks([LONG.removeprefix("one two three ")], [LONG]) == ["none"]
    monkeypatch.setattr(leakage, "ALIKE", 0.7)
    assert leaks([LONG.removeprefix("one two three ")], [LONG]) == ["near"]
