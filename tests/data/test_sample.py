"""The embedded sample data: reproducible, of the promised form, split without leaks.

Each guard is a function of its data, and a planted fault shows that it can fail.
"""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from llm.reason.problems import Style, Task, read_source

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"
SPLIT_SEEDS = (0, 1, 2)
FILES = ("corpus.txt", "spam.tsv", "instructions.json", "facts.json")


@pytest.fixture(scope="module")
def make():
    spec = importlib.util.spec_from_file_location("sample_make", SAMPLE / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def corpus(make):
    return make.corpus_text()


@pytest.fixture(params=SPLIT_SEEDS)
def split_seed(request):
    return request.param


# --- the files ---


@pytest.mark.slow
def test_script_reproduces_the_committed_bytes(make, tmp_path):
    make.write(tmp_path, make.SPLIT_SEED)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (SAMPLE / name).read_bytes(), name


def test_files_hold_at_most_two_megabytes():
    assert sum((SAMPLE / name).stat().st_size for name in FILES) <= 2_000_000


def test_only_the_messages_leave_ascii():
    for name in ("corpus.txt", "instructions.json", "facts.json"):
        assert (SAMPLE / name).read_text("utf-8").isascii(), name


def test_corpus_and_facts_are_those_of_every_split_seed(make, tmp_path):
    make.write(tmp_path, 1)
    for name in ("corpus.txt", "facts.json"):
        assert (tmp_path / name).read_bytes() == (SAMPLE / name).read_bytes(), name
    for name in ("spam.tsv", "instructions.json"):
        assert (tmp_path / name).read_bytes() != (SAMPLE / name).read_bytes(), name


# --- the corpus and its facts ---


def test_corpus_documents_are_parted_by_single_blank_lines(corpus):
    documents = corpus.split("\n\n")
    assert len(documents) > 5000
    assert all(document.strip() and not document.startswith("\n") for document in documents)


def test_corpus_states_every_fact_many_times(make, corpus):
    """Counted before the validation documents: what is only there is never learned."""
    train = corpus[: len(corpus) * 9 // 10]
    for fact in make.world.facts():
        wording = make.WORDINGS[fact.kind]
        told = [statement.format(**fact.slots) for statement in wording.statements]
        assert sum(train.count(statement) for statement in told) >= 10, fact
        assert sum(statement in train for statement in told) >= 4, fact


def test_probes_have_one_answer_each(make):
    probes = make.facts()
    assert 200 <= len(probes) <= 220
    assert len({probe["key"] for probe in probes}) == len({probe["prompt"] for probe in probes}) == len(probes)
    assert all(not probe["prompt"].endswith(" ") and probe["answer"].startswith(" ") for probe in probes)


def test_corpus_never_contradicts_a_probe(make, corpus):
    """Where the corpus goes on after a probe's prompt with one word, it is the probe's answer."""
    for probe in make.facts():
        following = [re.match(r" \w+", after) for after in corpus.split(probe["prompt"])[1:]]
        words = {match.group() for match in following if match}
        assert words == {probe["answer"]}, probe


# --- the instructions ---


def parts_of(entries: list) -> tuple[list, list, list]:
    """Train, test, validation as the pipeline cuts them: 85, 10 and 5 in a hundred, in file order."""
    first, second = int(0.85 * len(entries)), int(0.85 * len(entries)) + int(0.10 * len(entries))
    return entries[:first], entries[first:second], entries[second:]


def shared_keys(keys: list[str]) -> set[str]:
    """Keys of test or validation that training has too, and keys that those two share."""
    train, test, validation = map(set, parts_of(keys))
    return train & (test | validation) | test & validation


def test_instructions_have_the_form_of_the_book(make, split_seed):
    entries = make.instruction_entries(split_seed)
    assert len(entries) == 1100
    assert all(list(entry) == ["instruction", "input", "output"] for entry in entries)
    assert all(entry["instruction"] and entry["output"] for entry in entries)
    assert len({(entry["instruction"], entry["input"]) for entry in entries}) == 1100
    assert 0.6 <= sum(not entry["input"] for entry in entries) / 1100 <= 0.8


def test_committed_instructions_are_indented_by_four():
    text = (SAMPLE / "instructions.json").read_text("utf-8")
    assert text == json.dumps(json.loads(text), indent=4, ensure_ascii=False) + "\n"


def test_no_held_out_key_is_trained_on(make, split_seed):
    assert shared_keys(make.instruction_keys(split_seed)) == set()


def test_the_key_guard_finds_a_planted_key(make):
    keys = make.instruction_keys(0)
    keys[0] = keys[-1]
    assert shared_keys(keys) == {keys[-1]}


def test_every_kind_is_in_every_part(make, split_seed):
    kinds = [{key.split("/")[0] for key in part} for part in parts_of(make.instruction_keys(split_seed))]
    assert kinds[0] == kinds[1] == kinds[2]
    assert len(kinds[0]) >= 12


def test_about_half_of_the_test_wordings_are_new(make, split_seed):
    """A wording is told by the words left when its fact's words are taken out."""
    train, test, _ = parts_of(make.instructions.entries(split_seed))
    wording = {(entry.instruction, entry.input): entry.wording for entry in train + test}
    seen = {wording[entry.instruction, entry.input] for entry in train}
    new = sum(wording[entry.instruction, entry.input] not in seen for entry in test)
    assert 0.35 <= new / len(test) <= 0.65


def test_no_instruction_of_any_split_is_in_the_corpus(make, corpus, split_seed):
    assert make.leaked(corpus, make.instruction_entries(split_seed)) == []


def test_the_leak_guard_finds_planted_instructions(make, corpus):
    _, test, _ = parts_of(make.instruction_entries(0))
    bare = next(entry for entry in test if not entry["input"])
    given = next(entry for entry in test if entry["input"])
    planted = f"{corpus}\nSomeone asked: {bare['instruction'].lower()} Nobody knew.\n\n{given['input']}\n"
    assert make.leaked(planted, test) == sorted([bare["instruction"], given["input"]])


# --- the messages ---


def classes_of(lines: list[str]) -> dict[str, list[str]]:
    found = {"ham": [], "spam": []}
    for line in lines:
        label, message = line.split("\t")
        found[label].append(message)
    return found


def message_parts(messages: list) -> tuple[list, list, list]:
    """Train, validation, test of one class as the pipeline cuts them: 70, 10 and 20 in a hundred."""
    first, second = int(0.7 * len(messages)), int(0.8 * len(messages))
    return messages[:first], messages[first:second], messages[second:]


def shared_patterns(patterns: list[str]) -> set[str]:
    train, validation, test = map(set, message_parts(patterns))
    return train & (validation | test) | validation & test


def features(message: str) -> set[str]:
    """The words of a message and the classes a one-word filter could use."""
    text = message.lower()
    found = set(re.findall(r"[\w']+", text))
    classes = {
        "<digit>": r"\d",
        "<number>": r"\d{4}",
        "<long number>": r"\d{8}",
        "<money>": "£|&lt;",
        "<url>": r"www|http|\.(com|net)",
        "<shout>": "!",
        "<ask>": r"\?",
    }
    return found | {name for name, pattern in classes.items() if re.search(pattern, text)}


def best_single_word(spam: list[str], ham: list[str]) -> tuple[float, str]:
    """The best balanced accuracy of "spam if and only if the message has (or lacks) this word"."""
    spam_sets, ham_sets = [features(m) for m in spam], [features(m) for m in ham]

    def accuracy(word):
        hit = sum(word in found for found in spam_sets) / len(spam)
        miss = sum(word in found for found in ham_sets) / len(ham)
        return 0.5 + abs(hit - miss) / 2

    return max((accuracy(word), word) for word in set().union(*spam_sets, *ham_sets))


def test_messages_have_the_form_of_the_uci_file(make, split_seed):
    lines = make.spam_lines(split_seed)
    assert 1950 <= len(lines) <= 2100
    assert len(set(lines)) == len(lines)
    assert all(line.count("\t") == 1 and "\n" not in line for line in lines)
    classes = classes_of(lines)
    assert 0.12 <= len(classes["spam"]) / len(lines) <= 0.14


@pytest.mark.parametrize(
    "part", [r'^(ham|spam)\t"', '"$', "£", "é", "ü", "…", "&lt;#&gt;", "&amp;", r"\b0\d{10}\b", r"\b8\d{4}\b", r"\bu\b"]
)
def test_messages_have_the_nasty_parts_of_the_real_file(make, part):
    assert sum(bool(re.search(part, line)) for line in make.spam_lines(0)) >= 5


def test_some_messages_leave_a_quote_open(make):
    assert sum(line.count('"') % 2 for line in make.spam_lines(0)) >= 20


def test_no_held_out_message_pattern_is_trained_on(make, split_seed):
    classes = make.spam.messages(split_seed)
    for label, (train, test) in {"spam": (40, 25), "ham": (80, 40)}.items():
        patterns = [message.pattern for message in classes[label]]
        assert shared_patterns(patterns) == set()
        assert len(set(message_parts(patterns)[0])) >= train
        assert len(set(message_parts(patterns)[2])) >= test


def test_the_pattern_guard_finds_a_planted_pattern(make):
    patterns = [message.pattern for message in make.spam.messages(0)["spam"]]
    patterns[0] = patterns[-1]
    assert shared_patterns(patterns) == {patterns[-1]}


def test_lines_are_the_messages_of_both_classes_in_order(make, split_seed):
    lines, classes = classes_of(make.spam_lines(split_seed)), make.spam.messages(split_seed)
    for label in ("ham", "spam"):
        assert lines[label] == [message.text for message in classes[label]]


def test_no_message_and_no_pattern_is_in_the_corpus(make, corpus):
    """Compared by runs of six words, digits aside."""

    def runs(text):
        words = re.findall(r"[a-z']+", text.lower())
        return {tuple(words[i : i + 6]) for i in range(len(words) - 5)}

    known = set().union(*(runs(document) for document in corpus.split("\n\n")))
    for split_seed in SPLIT_SEEDS:
        for line in make.spam_lines(split_seed):
            assert not runs(line.split("\t")[1]) & known, line


def test_no_single_word_gives_spam_away(make, split_seed):
    """Even chosen on the test part itself."""
    classes = classes_of(make.spam_lines(split_seed))
    accuracy, word = best_single_word(*(message_parts(classes[label])[2] for label in ("spam", "ham")))
    assert accuracy <= 0.80, word


def test_the_single_word_guard_finds_a_planted_word(make):
    classes = classes_of(make.spam_lines(0))
    accuracy, word = best_single_word([m + " zzz" for m in classes["spam"]], classes["ham"])
    assert (accuracy, word) == (1.0, "zzz")


def test_script_reproduces_the_word_problems():
    spec = importlib.util.spec_from_file_location("sample_reasoning", SAMPLE / "reasoning.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (SAMPLE / "reasoning.jsonl").read_text("utf-8")
    assert text == "\n".join(module.lines()) + "\n"
    problems = read_source(SAMPLE / "reasoning.jsonl", Task("number", Style("Think:", "")))
    assert {split: len(found) for split, found in problems.items()} == {
        "train": 0,
        "rl": 0,
        "validation": 10,
        "test": 50,
    }
    for line in map(json.loads, text.splitlines()):
        assert line["steps"].endswith(f"= {line['answer']}.")
