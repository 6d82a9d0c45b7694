"""The cheap baselines, by hand on tiny data."""

from __future__ import annotations

import math

import pytest

from benchmarks.sample import single_word, trigram_loss


def test_trigram_probability_worked_by_hand():
    # after 0 1 stood 2 once: (1 + 1 x bigram) / (1 + 1); after 1 stood 2 once: (1 + 1 x unigram) / (1 + 1);
    # 2 stands once among three tokens of three kinds, in a vocabulary of four: (1 + 3 / 4) / (3 + 3)
    unigram = (1 + 3 / 4) / 6
    bigram = (1 + unigram) / 2
    trigram = (1 + bigram) / 2
    assert trigram_loss([0, 1, 2], [0, 1, 2], 4) == pytest.approx(-math.log(trigram))


def test_trigram_knows_nothing_of_unseen_contexts():
    unigram = (0 + 3 / 4) / 6  # 3 never stood anywhere, and no context of [3, 3] is known
    assert trigram_loss([0, 1, 2], [3, 3, 3], 4) == pytest.approx(-math.log(unigram))


def test_trigram_probabilities_sum_to_one():
    train = [0, 1, 2, 0, 1, 3, 0, 1, 2, 2]
    for context in ([0, 1], [2, 2], [3, 3]):
        total = sum(math.exp(-trigram_loss(train, [*context, token], 4)) for token in range(4))
        assert total == pytest.approx(1)


TRAIN = ([1, 1, 0, 0], ["win now", "win big", "see you", "now then"])


def test_best_word_is_chosen_on_one_part_and_measured_on_the_other():
    assert single_word(TRAIN, TRAIN) == 1.0  # "win" tells them apart
    assert single_word(TRAIN, ([1, 0, 0, 0], ["win it", "win it back", "hello", "now"])) == 0.75


def test_a_word_may_speak_against_spam():
    ham = ([0, 0, 1, 1], ["love mum", "love dad", "cash", "prize"])
    assert single_word(ham, ([1, 0], ["love", "love"])) == 0.5
    assert single_word(ham, ham) == 1.0
