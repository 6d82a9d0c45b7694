"""chrF by hand, and the reference score of texts without spaces."""

from collections import Counter

import pytest

from llm.common.scripts import is_without_spaces
from llm.evaluate.chrf import corpus_score, sentence_score
from llm.evaluate.reference_score import reference_score


def by_hand(answer: str, reference: str) -> float:
    """F2 of the mean precision and the mean recall of character n-grams up to 6 (Popović 2015)."""
    a, r = ("".join(text.split()) for text in (answer, reference))
    precision, recall = [], []
    for n in range(1, 7):
        own, wanted = (Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in (a, r))
        if own and wanted:
            common = sum((own & wanted).values())
            precision.append(common / sum(own.values()))
            recall.append(common / sum(wanted.values()))
    p, r = sum(precision) / len(precision), sum(recall) / len(recall)
    return 100 * 5 * p * r / (4 * p + r) if p + r else 0.0


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("The cat sat.", "A cat sat down."),
        ("我喜欢吃苹果", "我喜欢吃香蕉"),
        ("Hund beißt Mann", "Mann beißt Hund"),
        ("ฉันชอบแมว", "ฉันชอบหมา"),
        ("xyz", "abc"),
        ("日本", "日本"),
    ],
)
def test_chrf_is_the_f2_score_of_character_ngrams(answer, reference):
    assert sentence_score(answer, reference) == pytest.approx(by_hand(answer, reference))
    assert corpus_score([answer], [reference]) == pytest.approx(by_hand(answer, reference))


def test_the_order_of_words_costs_little_in_chrf():
    reference = "Den Hund beißt der Mann."
    moved, wrong = (sentence_score(text, reference) for text in ("Der Mann beißt den Hund.", "Die Maus frisst Käse."))
    assert moved > 2 * wrong > 0
    assert sentence_score("", "abc") == 0


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("我喜欢苹果", True),
        ("東京タワーはどこですか", True),
        ("ภาษาไทยเขียนติดกัน", True),
        ("GPT 是一个语言模型", True),
        ("한국어는 띄어 쓴다", False),
        ("The word 猫 means cat", False),
        ("हिन्दी में लिखो", False),
        ("123 !?", False),
        ("", False),
    ],
)
def test_scripts_without_spaces_are_known(text, without):
    assert is_without_spaces(text) == without


def score(answer: str, reference: str, instruction: str, given: str = "") -> int:
    return reference_score({"instruction": instruction, "input": given, "output": reference, "model_response": answer})


def test_an_answer_without_spaces_is_scored_by_chrf():
    question, reference = "法国的首都是什么？", "法国的首都是巴黎。"
    answers = ("法国的首都是巴黎", "是巴黎。", "法国的首都是巴黎，是的", question, "猫在睡觉", "")
    right, short, long, copied, wrong, none = (score(answer, reference, question) for answer in answers)
    assert (right, copied, wrong, none) == (100, 0, 0, 0)
    assert short == round(sentence_score("是巴黎", "法国的首都是巴黎"))
    assert wrong < short < long <= 99
    assert score("ประเทศญี่ปุ่น", "ประเทศญี่ปุ่นนะ", "x") > score("ไทย", "ประเทศญี่ปุ่นนะ", "x")


def test_a_combining_mark_belongs_to_its_word():
    assert score("हिन्दी", "उत्तर हिन्दी है", "भाषा?") > score("हनद", "उत्तर हिन्दी है", "भाषा?")
