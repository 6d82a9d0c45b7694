"""Prompt frames: those of the book, templates, chats, and which tokens are answers."""

import json

import pytest

from llm.common import params
from llm.common.errors import DATA, USAGE, UserError
from llm.data.chat_template import Segment
from llm.data.instruction_lengths import encode_entry
from llm.data.prompts import (
    ALPACA,
    PREAMBLE,
    Template,
    TemplateFrame,
    all_questions,
    format_prompt,
    frame_of,
    make_frame,
    question,
    single,
    to_json,
)
from llm.data.tokenizer import Tokenizer

ENTRY = {"instruction": "Name a colour.", "input": "", "output": "Red."}
WITH_INPUT = ENTRY | {"input": "A warm one."}
END = Segment("<|endoftext|>", trained=True, special=True)
QUESTION = Template("Frage: {instruction}\n{input}", "\nAntwort:")
CHAT = {
    "messages": [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye."},
        {"role": "assistant", "content": "Ciao."},
    ]
}


@pytest.fixture(scope="module")
def tokenizer(vocabulary) -> Tokenizer:
    return Tokenizer.load(vocabulary)


def whole(frame, entry) -> str:
    return "".join(segment.text for segment in frame.segments(entry))


# --- frames by hand ---


def test_the_prompt_is_that_of_the_book():
    assert format_prompt(ENTRY) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nName a colour."
    )


def test_an_input_follows_the_instruction():
    assert format_prompt(WITH_INPUT) == format_prompt(ENTRY) + "\n\n### Input:\nA warm one."


@pytest.mark.parametrize(
    ("prompt", "entry", "text"),
    [
        ("alpaca", ENTRY, f"{PREAMBLE}\n\n### Instruction:\nName a colour.\n\n### Response:\nRed."),
        ("phi3", ENTRY, "<|user|>\nName a colour.\n<|assistant|>:\nRed."),
        ("phi3", WITH_INPUT, "<|user|>\nName a colour.\nA warm one.\n<|assistant|>:\nRed."),
        ("none", ENTRY, "Name a colour.\nRed."),
        ("none", WITH_INPUT, "Name a colour.\nA warm one.\nRed."),
        (QUESTION, ENTRY, "Frage: Name a colour.\nAntwort:Red."),
        (QUESTION, WITH_INPUT, "Frage: Name a colour.\nA warm one.\nAntwort:Red."),
        (Template("{instruction}{input}?", "=", input=" [{input}]"), WITH_INPUT, "Name a colour. [A warm one.]?=Red."),
    ],
)
def test_an_entry_in_its_frame(prompt, entry, text, tokenizer):
    frame = make_frame(prompt, tokenizer)
    assert whole(frame, entry) == text + "<|endoftext|>"
    assert frame.segments(entry)[-2:] == [Segment("Red.", trained=True), END]
    assert format_prompt(entry, frame) + frame.header + "Red." == text


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (
            "alpaca",
            "Be short.\n\n### Instruction:\nHi.\n\n### Response:\nHello.<|endoftext|>"
            "### Instruction:\nBye.\n\n### Response:\nCiao.<|endoftext|>",
        ),
        (
            "phi3",
            "<|system|>\nBe short.\n<|user|>\nHi.\n<|assistant|>:\nHello.<|endoftext|>"
            "<|user|>\nBye.\n<|assistant|>:\nCiao.<|endoftext|>",
        ),
        (
            QUESTION,
            "Be short.\n\nFrage: Hi.\nAntwort:Hello.<|endoftext|>Frage: Bye.\nAntwort:Ciao.<|endoftext|>",
        ),
        (
            Template("{instruction}{input}", ">", system="({system})"),
            "(Be short.)Hi.>Hello.<|endoftext|>Bye.>Ciao.<|endoftext|>",
        ),
    ],
)
def test_a_chat_in_its_frame(prompt, text, tokenizer):
    frame = make_frame(prompt, tokenizer)
    assert whole(frame, CHAT) == text
    assert "".join(s.text for s in frame.prompt(CHAT, header=True)) + "Ciao.<|endoftext|>" == text
    assert [s.text for s in frame.segments(CHAT) if s.trained] == ["Hello.", "<|endoftext|>", "Ciao.", "<|endoftext|>"]
    before = "".join(segment.text for segment in frame.prompt(CHAT))
    assert before + frame.header + "Ciao.<|endoftext|>" == text


def test_the_preamble_stands_once_where_a_chat_has_no_system_message(tokenizer):
    text = whole(make_frame("alpaca", tokenizer), {"messages": CHAT["messages"][1:]})
    assert text.startswith(f"{PREAMBLE}\n\n### Instruction:\nHi.")
    assert text.count(PREAMBLE) == 1


@pytest.mark.parametrize("text", ["{input}", "{output}{0}", r"\1 \g<0>", "{instruction}", "{}", "{system}"])
def test_braces_in_a_text_are_text(text, tokenizer):
    entry = {"instruction": text, "input": text, "output": text}
    for prompt in ("alpaca", "phi3", "none", QUESTION):
        assert whole(make_frame(prompt, tokenizer), entry).count(text) == 3


# --- answers ---


def test_an_answer_is_taken_without_its_header(tokenizer):
    assert ALPACA.extract_answer("\n\n### Response:\nRed. \n") == "Red."
    assert ALPACA.extract_answer("<|assistant|>: red") == "<|assistant|>: red"
    assert make_frame("phi3", tokenizer).extract_answer("\n<|assistant|>:\n It is red. ") == "It is red."
    assert make_frame("none", tokenizer).extract_answer(" Red. ") == "Red."
    assert make_frame(QUESTION, tokenizer).extract_answer("Antwort: Red.") == "Red."


def test_an_answer_may_contain_the_header_of_an_own_frame(tokenizer):
    frame = make_frame(Template("Q: {instruction}\n{input}", "\nA:"), tokenizer)
    assert frame.extract_answer("\nA: USA: 50 states. DNA: a molecule.") == "USA: 50 states. DNA: a molecule."
    assert frame.extract_answer(" USA: 50 states.") == "USA: 50 states."
    assert ALPACA.extract_answer("### Response:\nRed.\n### Response:\nBlue.") == "Red.\n\nBlue."  # as in the book


def test_a_chat_as_one_question_has_the_turns_before_it_as_input():
    assert single(CHAT) == {
        "instruction": "Bye.",
        "input": "system: Be short.\nuser: Hi.\nassistant: Hello.",
        "output": "Ciao.",
    }
    assert single(ENTRY) == ENTRY
    assert question(CHAT) == "Bye.\nsystem: Be short.\nuser: Hi.\nassistant: Hello."
    assert all_questions(CHAT) == ["Hi.\nsystem: Be short.", question(CHAT)]
    assert all_questions(ENTRY) == [question(ENTRY)]
    alone = {"messages": [{"role": "assistant", "content": "Hello."}]}
    assert single(alone) == {"instruction": "", "input": "", "output": "Hello."}


# --- settings ---


def test_a_template_needs_a_place_for_each_text():
    names = [name for name, *_ in Template("x", "y", "z", "w").problems()]
    assert names == ["text", "text", "input", "system"]
    assert list(QUESTION.problems()) == []


def test_the_frame_of_a_model_is_read_from_its_config(tmp_path, tokenizer):
    config = tmp_path / "config.json"
    for value, frame in [
        ({}, make_frame("alpaca", tokenizer)),
        ({"prompt": "phi3"}, make_frame("phi3", tokenizer)),
        ({"prompt": "none"}, make_frame("none", tokenizer)),
        ({"prompt": to_json(QUESTION)}, TemplateFrame(QUESTION)),
    ]:
        config.write_text(json.dumps(value))
        assert frame_of(tmp_path, tokenizer) == frame
    assert to_json(QUESTION) == {"text": "Frage: {instruction}\n{input}", "answer": "\nAntwort:"}
    assert to_json("alpaca") == "alpaca"


@pytest.mark.parametrize(
    ("value", "wrong"), [("llama", 1), (None, 1), (5, 1), ({"text": "x"}, 1), ({"text": 1, "answer": 2}, 2)]
)
def test_an_unknown_frame_in_a_config_is_refused(value, wrong, tmp_path, tokenizer):
    (tmp_path / "config.json").write_text(json.dumps({"prompt": value}))
    with pytest.raises(UserError, match="prompt") as caught:
        frame_of(tmp_path, tokenizer)
    problems = getattr(caught.value, "problems", [caught.value])
    assert [problem.code for problem in problems] == [DATA] * wrong


def test_a_parameter_may_be_a_name_or_a_section():
    from stages.tokenize_instructions import Params

    given = params.load("params.yaml")["tokenize"]["instructions"]

    def parsed(prompt, shape="guess"):
        values = {"instructions": given | {"shape": shape}, "prompt": prompt, "context_length": 8}
        return params.parse(Params, values)

    assert parsed("none").prompt == "none"
    assert parsed(to_json(QUESTION)).prompt == QUESTION
    assert parsed("none", {"instruction": "q", "output": "a"}).instructions.shape.instruction == "q"
    for prompt, shape, said in [
        ("alpacca", "guess", "prompt: 'alpacca' is not one of alpaca, phi3, none, chat | fix: did you mean alpaca"),
        ({"text": "{instruction}{input}"}, "guess", "prompt.answer: missing"),
        ({"text": "{instruction}{input}", "answer": "\nA: "}, "guess", "prompt.answer: '\\nA: ' ends with a space"),
        (5, "guess", "prompt: 5 is not one of"),
        (None, "guess", "prompt: None is not one of"),
        ("none", {"instruction": "q"}, "names instruction, which is neither a pair nor a chat"),
        ("none", {"messages": "m", "role": "r", "content": "c", "input": "i"}, "neither a pair nor a chat"),
    ]:
        with pytest.raises(UserError) as caught:
            parsed(prompt, shape)
        assert said in str(caught.value)
        assert caught.value.code == USAGE


# --- token ids ---


def test_texts_are_encoded_as_one_text_between_special_tokens(tokenizer):
    frame = make_frame("alpaca", tokenizer)
    one = encode_entry(WITH_INPUT, frame, tokenizer)
    assert one.ids == [*tokenizer.encode(format_prompt(WITH_INPUT) + "\n\n### Response:\nRed."), tokenizer.eot]
    assert one.start == len(tokenizer.encode(format_prompt(WITH_INPUT) + "\n\n### Response:\n"))
    assert tokenizer.decode([i for i, trained in zip(*one, strict=True) if trained]) == "Red.<|endoftext|>"


def test_every_answer_of_a_chat_is_trained_with_its_end(tokenizer):
    one = encode_entry(CHAT, make_frame("phi3", tokenizer), tokenizer)
    assert one.ids.count(tokenizer.eot) == 2
    answers = [i for i, trained in zip(*one, strict=True) if trained]
    assert answers == [*tokenizer.encode("Hello."), tokenizer.eot, *tokenizer.encode("Ciao."), tokenizer.eot]


def test_end_of_text_in_a_message_is_ordinary_text(tokenizer):
    chat = {"messages": [m | {"content": "a<|endoftext|>b"} for m in CHAT["messages"]]}
    one = encode_entry(chat, make_frame("none", tokenizer), tokenizer)
    assert one.ids.count(tokenizer.eot) == 2
    assert tokenizer.decode(one.ids).count("<|endoftext|>") == 7
