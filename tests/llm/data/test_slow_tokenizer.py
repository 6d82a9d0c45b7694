"""Folders of a slow tokenizer: `vocab.json`, `merges.txt` and added tokens, compared with transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from llm.common.errors import DATA, UserError
from llm.common.files import sha256
from llm.data import tokenizer
from llm.data.special_tokens import END_OF_TEXT
from llm.data.tokenizer import Segment, Tokenizer
from tests.hard_texts import hard_texts

START, END = "<|im_start|>", "<|im_end|>"
CHAT = {START: 300, END: 301}
GPT2 = {"tokenizer_class": "GPT2Tokenizer", "eos_token": END}
FLAGS = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}


def decoder(tokens: dict[str, int], **flags: bool) -> dict[str, Any]:
    """`added_tokens_decoder` of a tokenizer_config.json."""
    return {str(number): {"content": text, **FLAGS, **flags} for text, number in tokens.items()}


def pair(vocabulary: Path, folder: Path, added: Any = None, config: Any = None, without: str = "") -> Path:
    """Write `vocab.json` and `merges.txt`, and the two files that may hold more tokens."""
    folder.mkdir()
    vocab = json.loads((vocabulary / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps({text: id_ for text, id_ in vocab.items() if text != without}))
    shutil.copyfile(vocabulary / "merges.txt", folder / "merges.txt")
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    for name, value in (("added_tokens.json", added), ("tokenizer_config.json", config)):
        if value is not None:
            (folder / name).write_text(json.dumps(value))
    return folder


ALL = {END_OF_TEXT: 299, **CHAT}
FOLDERS: dict[str, dict[str, Any]] = {
    "added_tokens.json": {"added": ALL, "config": GPT2},
    "without the end of text": {"added": CHAT, "config": GPT2},
    "no class": {"added": CHAT, "config": {"eos_token": END}},
    "added_tokens_decoder": {"config": GPT2 | {"added_tokens_decoder": decoder(ALL)}},
    "both": {"added": CHAT, "config": GPT2 | {"added_tokens_decoder": decoder(ALL)}},
    "all added tokens beside vocab.json": {"added": ALL, "config": GPT2, "without": END_OF_TEXT},
}


@pytest.mark.parametrize("files", FOLDERS.values(), ids=FOLDERS.keys())
def test_ids_are_those_of_transformers(vocabulary: Path, tmp_path: Path, files: dict[str, Any]) -> None:
    folder = pair(vocabulary, tmp_path / "pair", **files)
    theirs = AutoTokenizer.from_pretrained(folder)
    tokenizer.adopt(folder, tmp_path / "adopted")
    (tmp_path / "copied").mkdir()
    tokenizer.copy(folder, tmp_path / "copied")
    written = [tmp_path / "adopted", tmp_path / "copied"]
    for ours in map(Tokenizer.load, [folder, *written]):
        assert (ours.vocab_size, ours.eot, ours.special) == (len(theirs), theirs.eos_token_id, ALL)
        for text in hard_texts(300):
            if not any(token in text for token in ALL):
                assert ours.encode(text) == theirs.encode(text)
        prompt = f"{START}user\nthe fox{END}\n \n{END_OF_TEXT} a"
        assert ours.encode_segments([Segment(prompt, special=True)])[0] == theirs.encode(prompt)
    for one in written:
        opened = AutoTokenizer.from_pretrained(one)
        assert opened.encode(prompt) == theirs.encode(prompt)
        assert (len(opened), opened.eos_token) == (302, END)
        assert not (one / "vocab.json").exists()
        assert tokenizer.fingerprint(one) == tokenizer.fingerprint(folder) == sha256(one / "tokenizer.json")


@pytest.mark.parametrize("added", [None, {END_OF_TEXT: 299}])
@pytest.mark.parametrize(
    "config", [None, {"eos_token": END_OF_TEXT, "added_tokens_decoder": decoder({END_OF_TEXT: 299})}]
)
def test_a_pair_with_the_end_of_text_only_stays_a_pair(
    vocabulary: Path, tmp_path: Path, added: Any, config: Any
) -> None:
    folder = pair(vocabulary, tmp_path / "pair", added, config)
    tokenizer.adopt(folder, tmp_path / "adopted")
    for name in tokenizer.FILES:
        assert (tmp_path / "adopted" / name).read_bytes() == (vocabulary / name).read_bytes()
    (tmp_path / "copied").mkdir()
    tokenizer.copy(folder, tmp_path / "copied")
    assert not (tmp_path / "copied/tokenizer.json").exists()
    assert tokenizer.fingerprint(folder) == sha256(folder / "vocab.json")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another class": (
        {"config": {"tokenizer_class": "Qwen2Tokenizer"}},
        "the tokenizer is 'Qwen2Tokenizer'; without a tokenizer.json only GPT2Tokenizer is supported",
    ),
    "a token before a text": ({"config": GPT2 | {"add_bos_token": True}}, "add_bos_token is True"),
    "a space before a text": ({"config": GPT2 | {"add_prefix_space": True}}, "add_prefix_space is True"),
    "an end without an id": ({"config": GPT2}, "eos_token is '<|im_end|>', which is neither in added_tokens.json"),
    "a gap": ({"added": {END: 310}, "config": GPT2}, r"'<\|im_end\|>' has the id 310, not 300, the next one"),
    "an id of another token": (
        {"added": {END: 299}, "config": GPT2},
        "has the id 299, not 300",
    ),
    "an id of text": ({"added": {END: 7}, "config": GPT2}, "has the id 7, not 299"),
    "no id": ({"added": {END: None}, "config": GPT2}, "has the id None"),
    "two ids": (
        {"added": {END: 300}, "config": GPT2 | {"added_tokens_decoder": decoder({END: 301})}},
        r"added_tokens_decoder\['301'\] is .*, not a token with its id in added_tokens.json",
    ),
    "no object": ({"config": GPT2 | {"added_tokens_decoder": [END]}}, "added_tokens_decoder"),
    "a number of 5000 digits": (
        {"config": GPT2 | {"added_tokens_decoder": {"1" * 5000: {"content": END}}}},
        r"added_tokens_decoder\['111",
    ),
    "no number": ({"config": GPT2 | {"added_tokens_decoder": {"x": {"content": END}}}}, r"added_tokens_decoder\['x'\]"),
    "a lone surrogate": (
        {"added": {END: 300, "\ud800": 301}, "config": GPT2},
        r"added_tokens\.json: the added token '\\ud800' has a lone surrogate",
    ),
    "a lone surrogate in the settings": (
        {"config": GPT2 | {"added_tokens_decoder": decoder({END: 300, "\ud800": 301})}},
        r"tokenizer_config\.json: the added token '\\ud800' has a lone surrogate",
    ),
    "a token that strips": (
        {"config": GPT2 | {"added_tokens_decoder": decoder({END: 300}, lstrip=True)}},
        "a visible token without single_word, lstrip, rstrip",
    ),
}


@pytest.mark.parametrize(("files", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_read_is_refused(vocabulary: Path, tmp_path: Path, files: dict[str, Any], message: str) -> None:
    folder = pair(vocabulary, tmp_path / "pair", **files)
    for read in (Tokenizer.load, lambda folder: tokenizer.adopt(folder, tmp_path / "adopted")):
        with pytest.raises(UserError, match=message) as caught:
            read(folder)
        assert caught.value.code == DATA


@pytest.mark.parametrize("kind", ["GPT2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend"])
def test_every_class_that_may_hold_gpt2s_tokenizer_is_read(vocabulary: Path, tmp_path: Path, kind: str) -> None:
    folder = pair(vocabulary, tmp_path / "pair", CHAT, {"tokenizer_class": kind, "eos_token": END})
    assert Tokenizer.load(folder).special == ALL


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3"])
def test_a_folder_of_qwen_without_settings_is_refused(vocabulary: Path, tmp_path: Path, model_type: str) -> None:
    folder = pair(vocabulary, tmp_path / "pair")
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(UserError, match=r"config\.json: the tokenizer is 'Qwen2Tokenizer'"):
        Tokenizer.load(folder)
