"""The simple baselines, worked by hand on tiny data."""

from __future__ import annotations

import math

import pytest

from benchmarks.sample import single_word, trigram_loss


def test_trigram_probability_worked_by_hand():
    # 2 follows (0, 1) once: (1 + 1 x bigram) / (1 + 1). 2 follows 1 once: (1 + 1 x unigram) / (1 + 1).
    # 2 is one of three tokens of three kinds, in a vocabulary of four: (1 + 3 / 4) / (3 + 3).
    unigram = (1 + 3 / 4) / 6
    bigram = (1 + unigram) / 2
    trigram = (1 + bigram) / 2
    assert trigram_loss([0, 1, 2], [0, 1, 2], 4) == pytest.approx(-math.log(trigram))


def test_trigram_falls_back_to_unigrams_in_unseen_contexts():
    unigram = (0 + 3 / 4) / 6  # 3 does not occur in training, and neither does the context [3, 3]
    assert trigram_loss([0, 1, 2], [3, 3, 3], 4) == pytest.approx(-math.log(unigram))


def test_trigram_probabilities_sum_to_one():
    train = [0, 1, 2, 0, 1, 3, 0, 1, 2, 2]
    for context in ([0, 1], [2, 2], [3, 3]):
        total = sum(math.exp(-trigram_loss(train, [*context, token], 4)) for token in range(4))
        assert total == pytest.approx(1)


TRAIN = ([1, 1, 0, 0], ["win now", "win big", "see you", "now then"])


def test_the_best_word_is_chosen_on_one_split_and_measured_on_another():
    assert single_word(TRAIN, TRAIN) == 1.0  # "win" separates the classes
    assert single_word(TRAIN, ([1, 0, 0, 0], ["win it", "win it back", "hello", "now"])) == 0.75


def test_a_word_may_indicate_ham():
    ham = ([0, 0, 1, 1], ["love mum", "love dad", "cash", "prize"])
    assert single_word(ham, ([1, 0], ["love", "love"])) == 0.5
    assert single_word(ham, ham) == 1.0


def test_the_best_word_of_three_classes_tells_one_of_them_from_the_most_frequent_other():
    three = ([0, 1, 2, 0, 1, 2, 2], ["goal", "vote", "chip", "goal", "vote on it", "chip", "chip now"])
    assert single_word(three, three) == pytest.approx(5 / 7)  # "chip" is class 2; without it, class 0 or 1
    assert single_word(three, ([2, 0, 1], ["a chip", "see", "hm"])) == pytest.approx(2 / 3)
