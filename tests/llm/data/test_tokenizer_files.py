"""Tokenizers read from `tokenizer.json`, compared with Hugging Face's encoder; and files that are refused."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as HuggingFace

from llm.common.errors import DATA, UserError
from llm.common.files import sha256
from llm.data import special_tokens, tokenizer, tokenizer_files, tokenizer_steps
from llm.data.byte_letters import LETTERS
from llm.data.special_tokens import END_OF_TEXT
from llm.data.tokenizer import Segment, Tokenizer
from tests import tiny_tokenizers
from tests.hard_texts import SPECIAL, hard_texts

TEXTS = hard_texts(10_000)


@pytest.fixture(scope="module")
def folders(vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a small tokenizer of each family."""
    root = tmp_path_factory.mktemp("families")
    made = {family: tiny_tokenizers.make(family, root / family) for family in tiny_tokenizers.FAMILIES}
    return made | {"gpt2": vocabulary}


ALL = pytest.mark.parametrize("family", [*tiny_tokenizers.FAMILIES, "gpt2"])


def changed(folder: Path, copy: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of a tokenizer with another tokenizer.json."""
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    published = json.loads((folder / "tokenizer.json").read_text())
    change(published)
    (copy / "tokenizer.json").write_text(json.dumps(published))
    return copy


# Ids


@ALL
def test_hard_texts_have_the_ids_of_hugging_face(folders: dict[str, Path], family: str) -> None:
    ours, theirs = Tokenizer.load(folders[family]), tiny_tokenizers.ordinary(folders[family])
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids, ascii(text)


@ALL
def test_texts_without_special_tokens_have_the_ids_of_the_whole_encoder(folders: dict[str, Path], family: str) -> None:
    ours, theirs = Tokenizer.load(folders[family]), HuggingFace.from_file(str(folders[family] / "tokenizer.json"))
    texts = [text for text in TEXTS if not any(token in text for token in ours.special)]
    assert len(texts) > 5000
    for text in texts[:3000]:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids, ascii(text)


@ALL
def test_special_tokens_of_every_family_stay_text(folders: dict[str, Path], family: str) -> None:
    ours = Tokenizer.load(folders[family])
    text = "x".join([*SPECIAL, *ours.special, "".join(SPECIAL)])
    ids = ours.encode(text)
    assert not set(ids) & set(ours.special.values())
    assert ours.decode(ids) == text


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("smollm2", lambda found: vars(found).update(_missing=b"")),  # ids beyond the vocabulary come out
        ("qwen3", lambda found: vars(found).update(_normalize=lambda text: text)),
    ],
)
def test_the_hard_texts_notice_a_step_left_out(folders: dict[str, Path], family: str, change: Any) -> None:
    ours, theirs = Tokenizer.load(folders[family]), tiny_tokenizers.ordinary(folders[family])
    change(ours)
    assert sum(ours.encode(t) != theirs.encode(t, add_special_tokens=False).ids for t in TEXTS[:2000]) > 5


def test_the_hard_texts_notice_the_pattern_before_digits(folders: dict[str, Path], monkeypatch: Any) -> None:
    monkeypatch.setattr(tokenizer_steps, "DIGITS", tokenizer_steps.DIGITS.replace(r"|\s+(?=\p{N})", ""))
    ours, theirs = Tokenizer.load(folders["smollm2"]), tiny_tokenizers.ordinary(folders["smollm2"])
    assert any(ours.encode(text) != theirs.encode(text, add_special_tokens=False).ids for text in TEXTS)


def test_bytes_without_a_token_are_left_out_before_merging(folders: dict[str, Path]) -> None:
    ours, theirs = Tokenizer.load(folders["smollm2"]), tiny_tokenizers.ordinary(folders["smollm2"])
    assert b"\x01" in ours._missing
    pair = next(token.decode() for token in ours._vocabulary.ranks if len(token) == 2 and token.isascii())
    for text in (f"{pair[0]}\x01{pair[1]}", "\x01", "a\x01\x02b \U000f0000", "\x01\x02"):
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False).ids
        assert max(ids, default=0) < ours.vocab_size
    assert ours.encode_all(["\x01", "a", "\x01a"]) == [ours.encode(text) for text in ("\x01", "a", "\x01a")]


@pytest.mark.parametrize("token", ["<unk>", "a", "", None])
def test_a_token_for_unknown_bytes_is_read_only_if_every_byte_has_one(
    folders: dict[str, Path], tmp_path: Path, token: str | None
) -> None:
    def change(published: dict[str, Any]) -> None:
        published["model"] |= {"unk_token": token}
        published["model"]["vocab"].setdefault(token or "<unk>", 700)
        published["added_tokens"].append(published["added_tokens"][0] | {"id": 700, "content": "<unk>"})

    known = changed(folders["gpt2"], tmp_path / "gpt2", lambda stored: stored["model"].update(unk_token=token))
    ours, theirs = Tokenizer.load(known), tiny_tokenizers.ordinary(known)
    for text in TEXTS[:500]:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids, ascii(text)
    copy = changed(folders["smollm2"], tmp_path / "smollm2", change)
    if not token:
        assert Tokenizer.load(copy).encode("\x01the") == Tokenizer.load(folders["smollm2"]).encode("\x01the")
        return
    assert tiny_tokenizers.ordinary(copy).encode("\x01").ids  # which ours would leave out
    with pytest.raises(UserError, match=rf"unk_token is '{token}', but \d+ bytes have no token, such as 0x00"):
        Tokenizer.load(copy)


def test_a_token_without_merges_is_found_as_a_whole_piece_only(folders: dict[str, Path]) -> None:
    ours, theirs = Tokenizer.load(folders["llama3"]), tiny_tokenizers.ordinary(folders["llama3"])
    whole = ours._vocabulary.ranks[b" xyzzy"]
    assert ours.encode("a xyzzy") == [*ours.encode("a"), whole]
    assert whole not in ours.encode("a xyzzyx")
    assert ours.encode("a xyzzyx xyzzy!") == theirs.encode("a xyzzyx xyzzy!", add_special_tokens=False).ids


@ALL
def test_any_id_can_be_decoded(folders: dict[str, Path], family: str) -> None:
    ours, theirs = Tokenizer.load(folders[family]), HuggingFace.from_file(str(folders[family] / "tokenizer.json"))
    chance, top = random.Random(0), ours.vocab_size
    assert ours.decode([top, -1, top + 300, 10**9]) == ""
    for _ in range(300):
        ids = [chance.randrange(top + 50) for _ in range(chance.randrange(12))]
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


# Special tokens


def test_special_tokens_come_from_the_folder(folders: dict[str, Path]) -> None:
    smol, llama, qwen, gpt2 = (Tokenizer.load(folders[name]) for name in ("smollm2", "llama3", "qwen3", "gpt2"))
    assert (smol.eot, smol.stops, smol.bos) == (2, {2}, None)
    s = llama.special
    assert (llama.eot, llama.stops) == (s["<|end_of_text|>"], {s["<|end_of_text|>"], s["<|eot_id|>"]})
    assert llama.bos == s["<|begin_of_text|>"]
    assert (qwen.eot, qwen.stops) == (
        qwen.special["<|im_end|>"],
        {qwen.special["<|im_end|>"], qwen.special[END_OF_TEXT]},
    )
    assert qwen.vocab_size == max(qwen.special.values()) + 1
    assert (gpt2.eot, gpt2.stops, gpt2.bos, gpt2.vocab_size) == (299, {299}, None, 300)


def test_the_end_of_a_turn_stops_an_answer_if_no_file_says_so(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = changed(folders["qwen3"], tmp_path / "base", lambda published: None)
    (copy / "generation_config.json").unlink()
    config = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": END_OF_TEXT}))
    ours = Tokenizer.load(copy)
    assert (ours.eot, ours.stops) == (
        ours.special[END_OF_TEXT],
        {ours.special[END_OF_TEXT], ours.special["<|im_end|>"]},
    )


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, [END_OF_TEXT]),
        ({"config.json": {"eos_token_id": 9}}, ["<end>"]),
        ({"config.json": {"eos_token_id": [3, 9]}}, ["<end>", "\n"]),  # an added token ends a document
        ({"config.json": {"eos_token_id": 3}}, [END_OF_TEXT, "\n"]),
        ({"config.json": {"eos_token_id": 9}, "generation_config.json": {"eos_token_id": [7, 9]}}, ["<turn>", "<end>"]),
        ({"tokenizer_config.json": {"eos_token": {"content": "<turn>"}}}, ["<turn>"]),
        ({"special_tokens_map.json": {"eos_token": "<turn>"}}, ["<turn>"]),
        ({"config.json": {"eos_token_id": [50256, 7]}}, ["<turn>"]),
        ({"config.json": {"eos_token_id": 50256}}, [END_OF_TEXT]),
    ],
)
def test_where_the_end_of_a_text_is_named(tmp_path: Path, files: dict[str, Any], expected: list[str]) -> None:
    special, ids = {"<turn>": 7, END_OF_TEXT: 8, "<end>": 9}, {"\n": 3, "<turn>": 7, END_OF_TEXT: 8, "<end>": 9}
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value))
    assert special_tokens.ends(tmp_path, special, ids.values()) == [ids[text] for text in expected]


def test_files_without_an_end_of_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer_config\.json: no token ends a text"):
        special_tokens.ends(tmp_path, {"<s>": 1}, {1})
    for text, message in (
        ('{"eos_token_id": "2"}', "eos_token_id is '2', not a token id"),
        ('{"eos_token_id": [1, null]}', r"eos_token_id is \[1, None\], not a token id"),
        ("[]", "holds list, not an object"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=rf"config\.json: {message}"):
            special_tokens.ends(tmp_path, {"<s>": 1}, {1})


def template(*pieces: dict[str, Any]) -> dict[str, Any]:
    """A post-processor that puts these around a text."""
    return {"type": "TemplateProcessing", "single": list(pieces), "pair": [], "special_tokens": {END_OF_TEXT: END}}


END = {"id": END_OF_TEXT, "ids": [299], "tokens": [END_OF_TEXT]}
SPECIAL_PIECE, TEXT_PIECE = {"SpecialToken": {"id": END_OF_TEXT}}, {"Sequence": {"id": "A"}}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}


@pytest.mark.parametrize(
    ("processor", "bos"),
    [
        (None, None),
        (BYTE_LEVEL, None),
        (template(TEXT_PIECE), None),
        (template(SPECIAL_PIECE, TEXT_PIECE), 299),
        ({"type": "Sequence", "processors": [BYTE_LEVEL, template(SPECIAL_PIECE, TEXT_PIECE)]}, 299),
        (template(TEXT_PIECE, SPECIAL_PIECE), "refused"),
        (template(SPECIAL_PIECE, SPECIAL_PIECE, TEXT_PIECE), "refused"),
        ({**template(SPECIAL_PIECE, TEXT_PIECE), "special_tokens": {}}, "refused"),
        ({**template(SPECIAL_PIECE, TEXT_PIECE), "special_tokens": {END_OF_TEXT: {**END, "ids": [5]}}}, "refused"),
        ({"type": "Sequence", "processors": [template(SPECIAL_PIECE, TEXT_PIECE)] * 2}, "refused"),
        ({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}, "refused"),
        ({"type": "TemplateProcessing", "single": 3}, "refused"),
        ([], "refused"),
    ],
    ids=str,
)
def test_what_is_put_around_a_text_is_one_token_before_it(
    vocabulary: Path, tmp_path: Path, processor: Any, bos: Any
) -> None:
    copy = changed(vocabulary, tmp_path, lambda published: published.update(post_processor=processor))
    if bos != "refused":
        assert Tokenizer.load(copy).bos == bos
        return
    with pytest.raises(UserError, match=r"post_processor is .*, only one special token before the text, or none, is"):
        Tokenizer.load(copy)


@ALL
def test_segments_are_encoded_as_the_joined_text(folders: dict[str, Path], family: str) -> None:
    """Tokens cross the border of two segments; special tokens are special in those of a template only."""
    ours, theirs = Tokenizer.load(folders[family]), HuggingFace.from_file(str(folders[family] / "tokenizer.json"))
    end = next(iter(ours.special))
    chance = random.Random(0)
    texts = [text for text in TEXTS if not any(token in text for token in ours.special)]
    for _ in range(300):
        parts = [chance.choice([end, *texts[:500]]) for _ in range(chance.randrange(1, 8))]
        segments = [Segment(part, chance.random() < 0.5, part == end or chance.random() < 0.5) for part in parts]
        ids, trained = ours.encode_segments(segments)
        assert ids == theirs.encode("".join(parts), add_special_tokens=False).ids
        assert len(trained) == len(ids)
    user, _ = ours.encode_segments([Segment(f"a{end}b")])
    assert user == ours.encode(f"a{end}b")
    assert not set(user) & set(ours.special.values())


def test_trained_tokens_are_those_with_characters_of_trained_segments(folders: dict[str, Path]) -> None:
    ours = Tokenizer.load(folders["qwen3"])
    end = "<|im_end|>"
    segments = [Segment("the user\n", special=True), Segment("the assiste\u0301 answers", trained=True)]
    ids, trained = ours.encode_segments([*segments, Segment(end, True, True), Segment("\n\nthe", special=True)])
    assert ours.decode([token for token, flag in zip(ids, trained, strict=True) if flag]) == f"the assisté answers{end}"
    assert ours.decode([token for token, flag in zip(ids, trained, strict=True) if not flag]) == "the user\n\n\nthe"
    smol = Tokenizer.load(folders["smollm2"])  # leaves \x01 out
    ids, trained = smol.encode_segments([Segment("the \x01"), Segment("user\x01", trained=True), Segment("\n")])
    assert smol.decode([token for token, flag in zip(ids, trained, strict=True) if flag]).strip() == "user"


# GPT-2's folders


def old_format(published: dict[str, Any]) -> None:
    """As GPT-2 was published: merges as text, no type."""
    published["model"]["merges"] = [" ".join(pair) for pair in published["model"]["merges"]]
    del published["model"]["type"]


@pytest.mark.parametrize("change", [lambda published: None, old_format])
def test_tokenizer_json_alone_is_the_same_tokenizer(vocabulary: Path, tmp_path: Path, change: Any) -> None:
    pair, alone = tmp_path / "pair", tmp_path / "alone"
    pair.mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(vocabulary / name, pair / name)
    changed(vocabulary, alone, change)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (alone / name).unlink()
    one, other = Tokenizer.load(pair), Tokenizer.load(alone)
    assert one._vocabulary == other._vocabulary
    assert (one.eot, one.vocab_size, one.stops) == (other.eot, other.vocab_size, other.stops) == (299, 300, {299})
    tokenizer.adopt(alone, tmp_path / "adopted")
    assert tokenizer.fingerprint(tmp_path / "adopted") == tokenizer.fingerprint(alone)
    assert Tokenizer.load(tmp_path / "adopted").encode("fox") == one.encode("fox")


def test_the_fingerprint_is_of_all_that_decides_the_ids(vocabulary: Path, tmp_path: Path) -> None:
    pair = tmp_path / "pair"
    shutil.copytree(vocabulary, pair)
    (pair / "tokenizer.json").unlink()
    published = tokenizer.fingerprint(vocabulary)
    assert published == tokenizer.fingerprint(pair) == sha256(vocabulary / "vocab.json")  # shards of all versions
    for number, change in enumerate(
        (
            lambda stored: stored.update(normalizer={"type": "NFC"}),
            lambda stored: stored.update(post_processor=template(SPECIAL_PIECE, TEXT_PIECE)),
            lambda stored: stored["added_tokens"].append(stored["added_tokens"][0] | {"id": 300, "content": "<x>"}),
        )
    ):
        assert tokenizer.fingerprint(changed(vocabulary, tmp_path / str(number), change)) != published


def test_added_tokens_of_a_gpt2_folder_are_read(vocabulary: Path, tmp_path: Path) -> None:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    pad = {"id": 300, "content": "[PAD]", "special": True, **flags}
    ours = Tokenizer.load(changed(vocabulary, tmp_path, lambda published: published["added_tokens"].append(pad)))
    assert (ours.special, ours.vocab_size, ours.eot) == ({END_OF_TEXT: 299, "[PAD]": 300}, 301, 299)
    assert ours.decode([300]) == "[PAD]"
    assert 300 not in ours.encode("[PAD]")


def replace_added(published: dict[str, Any], ids: dict[str, int], *known: str) -> None:
    """Give a tokenizer.json these added tokens, of which `known` are in `model.vocab` too."""
    first, vocab = published["added_tokens"][0], published["model"]["vocab"]
    vocab.pop(END_OF_TEXT, None)
    published["added_tokens"] = [first | {"id": number, "content": token} for token, number in ids.items()]
    vocab.update({token: ids[token] for token in known})


@pytest.mark.parametrize(
    ("ids", "known", "refused"),
    [
        ({END_OF_TEXT: 299, "<a>": 300, "<b>": 301}, [], None),
        ({END_OF_TEXT: 299, "<b>": 301, "<a>": 300}, [END_OF_TEXT, "<a>", "<b>"], None),
        ({"<a>": 350, END_OF_TEXT: 340}, [END_OF_TEXT, "<a>"], None),  # a gap that model.vocab has
        ({END_OF_TEXT: 350, "<a>": 300, "<b>": 301}, [END_OF_TEXT], None),
        ({END_OF_TEXT: 300, "<a>": 299, "<b>": 301}, ["<a>"], None),
        ({END_OF_TEXT: 309, "<a>": 310}, [], (END_OF_TEXT, 309, 299)),
        ({"<a>": 300, END_OF_TEXT: 299}, [], ("<a>", 300, 299)),
        ({END_OF_TEXT: 299, "<a>": 301}, [], ("<a>", 301, 300)),
        ({END_OF_TEXT: 350, "<a>": 351}, [END_OF_TEXT], ("<a>", 351, 300)),
    ],
    ids=str,
)
def test_added_tokens_have_the_ids_that_hugging_face_gives_them(
    vocabulary: Path, tmp_path: Path, ids: dict[str, int], known: list[str], refused: tuple[str, int, int] | None
) -> None:
    copy = changed(vocabulary, tmp_path, lambda published: replace_added(published, ids, *known))
    theirs = HuggingFace.from_file(str(copy / "tokenizer.json"))
    if refused is None:
        assert Tokenizer.load(copy).special == ids == {token: theirs.token_to_id(token) for token in ids}
        return
    token, told, given = refused
    assert theirs.token_to_id(token) == given
    message = f"the added token {token!r} has the id {told}, not {given}, which Hugging Face gives it"
    with pytest.raises(UserError, match=re.escape(f"tokenizer.json: {message}")):
        Tokenizer.load(copy)


def test_random_added_tokens_are_read_only_with_the_ids_of_hugging_face(vocabulary: Path) -> None:
    text, found = (vocabulary / "tokenizer.json").read_text(), {True: 0, False: 0}
    for seed in range(200):
        chance, published = random.Random(seed), json.loads(text)
        names = ["<a>", "<b>", "<c>", "<d>"]
        known = [token for token in names if chance.random() < 0.4]
        others = [token for token in names if token not in known]
        order = chance.sample(names, 4)
        ids = dict(zip([*known, *others], range(299, 303), strict=True))
        if chance.random() < 0.5:
            ids[chance.choice(names)] += chance.randrange(5, 9)
        replace_added(published, {token: ids[token] for token in (names if chance.random() < 0.5 else order)}, *known)
        theirs = HuggingFace.from_str(json.dumps(published))
        same = {token: theirs.token_to_id(token) for token in ids} == ids
        found[same] += 1
        if same:
            assert tokenizer_files.parse(published, "tokenizer.json").special == ids, seed
            continue
        with pytest.raises(UserError, match="which Hugging Face gives it"):
            tokenizer_files.parse(published, "tokenizer.json")
    assert min(found.values()) > 40, found


# Merges


def random_tokenizer(chance: random.Random) -> dict[str, Any]:
    """A tokenizer.json with few merges of a, b, c and d; their order, ids and bytes are often odd."""
    dropped = chance.choice("abcd") if chance.random() < 0.3 else ""
    tokens, merges = [letter for letter in "abcd" if letter != dropped], list[list[str]]()
    for _ in range(chance.randrange(2, 9)):
        pair = chance.choices(tokens, k=2)
        if len("".join(pair)) < 7 and pair not in merges and ("".join(pair) not in tokens or chance.random() < 0.3):
            merges.append(pair)
            tokens = list(dict.fromkeys([*tokens, "".join(pair)]))
    words = [token for token in tokens if len(token) > 1]
    words = list(dict.fromkeys([*words, "".join(chance.choices("abcd", k=3))])) if chance.random() < 0.3 else words
    if chance.random() < 0.3:
        chance.shuffle(words)
    if chance.random() < 0.2:
        chance.shuffle(merges)
    letters = [letter for letter in LETTERS if letter != dropped]
    vocab = {token: number for number, token in enumerate([*letters, *words])}
    step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": chance.random() < 0.5}
    return {"version": "1.0", "added_tokens": [], "pre_tokenizer": step, "model": model}


def test_merges_are_accepted_only_if_both_encoders_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"equal": 0, "refused": 0}

    def differ(published: dict[str, Any], texts: list[str]) -> bool:
        ours = Tokenizer(tokenizer_files.parse(published, "tokenizer.json"), [0])
        theirs = HuggingFace.from_str(json.dumps(published))
        return any(ours.encode(text) != theirs.encode(text).ids for text in texts)

    for seed in range(400):
        chance = random.Random(seed)
        published = random_tokenizer(chance)
        words = [token for token in published["model"]["vocab"] if len(token) > 1]
        texts = ["".join(chance.choices("abcd", k=chance.randrange(1, 12))) for _ in range(100)]
        texts += [first + second for first in words for second in ["", *words]]
        try:
            assert not differ(published, texts), seed
            found["equal"] += 1
        except UserError:
            with monkeypatch.context() as patch:
                patch.setattr(tokenizer_files, "_check_merges", lambda *_: None)
                found["refused"] += differ(published, texts)
    assert found["equal"] > 150  # control
    assert found["refused"] > 100  # rightly


# Refused files


def damage() -> Iterator[tuple[str, Callable[[dict[str, Any]], Any], str]]:
    def put(*keys: Any, value: Any) -> Callable[[dict[str, Any]], Any]:
        def change(published: Any) -> None:
            for key in keys[:-1]:
                published = published[key]
            published[keys[-1]] = value

        return change

    space, metaspace = {"type": "ByteLevel", "add_prefix_space": True}, {"type": "Metaspace", "replacement": "▁"}
    hidden = {"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated", "invert": False}
    bytes_only = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    odd = {"type": "Split", "pattern": {"Regex": "(?<name"}, "behavior": "Isolated", "invert": False}
    split = {"type": "Split", "pattern": {"Regex": "\ud800"}, "behavior": "Isolated", "invert": False}
    surrogate = {"type": "Sequence", "pretokenizers": [split, bytes_only]}
    yield "no model", lambda published: published.pop("model"), "it has no object `model`"
    yield "unigram", put("model", "type", value="Unigram"), 'model.type is "Unigram", only BPE is supported'
    yield "SentencePiece", put("model", "byte_fallback", value=True), "model.byte_fallback is true"
    yield "dropout", put("model", "dropout", value=0.1), "model.dropout is 0.1"
    yield "suffix", put("model", "end_of_word_suffix", value="</w>"), 'model.end_of_word_suffix is "</w>"'
    yield "prefix space", put("pre_tokenizer", value=space), "pre_tokenizer is .*only ByteLevel"
    yield "metaspace", put("pre_tokenizer", value=metaspace), "pre_tokenizer is .*Metaspace"
    yield "none", put("pre_tokenizer", value=None), "pre_tokenizer is null"
    sequence = {"type": "Sequence", "pretokenizers": [hidden, bytes_only]}
    yield "split by text", put("pre_tokenizer", value=sequence), "pre_tokenizer is"
    sequence = {"type": "Sequence", "pretokenizers": [odd, bytes_only]}
    yield "a damaged pattern", put("pre_tokenizer", value=sequence), "the pattern of pre_tokenizer cannot be used"
    yield "lower case", put("normalizer", value={"type": "Lowercase"}), "normalizer is .*only NFC is supported"
    yield "a stripping token", put("added_tokens", 0, "lstrip", value=True), r"added_tokens\[0\] is .*a visible token"
    yield "a token of spaces", put("added_tokens", 0, "content", value="  "), r"added_tokens\[0\] is .*a visible token"
    yield "a token without id", put("added_tokens", 0, "id", value=None), r"added_tokens\[0\] is .*an object with id"
    yield (
        "a lone surrogate",
        put("added_tokens", 0, "content", value="<\ud800>"),
        r'<\\ud800>".* a token without lone surrogates is',
    )
    for value in (2**31, 10**30):
        yield (
            f"an added {value}",
            put("added_tokens", 0, "id", value=value),
            rf"added_tokens\[0\] is .*\b{value}\b.*below",
        )
        yield (
            f"the id {value}",
            put("model", "vocab", "a", value=value),
            f"model.vocab: the token 'a' has the id {value}",
        )
    for value in (True, 3, "ByteLevel", {"type": "ByteLevel"}):
        sequence = {"type": "Sequence", "pretokenizers": value}
        yield f"steps {value}", put("pre_tokenizer", value=sequence), "pre_tokenizer is .*only ByteLevel"
        sequence = {"type": "Sequence", "normalizers": value}
        yield f"normalizers {value}", put("normalizer", value=sequence), "normalizer is .*only NFC"
        sequence = {"type": "Sequence", "processors": value}
        if value != {"type": "ByteLevel"}:
            yield f"processors {value}", put("post_processor", value=sequence), "post_processor is .*only one special"
        yield f"added tokens {value}", put("added_tokens", value=value), r"added_tokens\[0\] is "
        yield f"merges {value}", put("model", "merges", value=value), r"merges\[0\] is "
    yield "a damaged character", put("pre_tokenizer", value=surrogate), "the pattern of pre_tokenizer cannot be used"
    yield "ids that are text", put("model", "vocab", "a", value="64"), "not an object of tokens and ids"
    yield "one id twice", put("model", "vocab", "a", value=65), "the ids of .* contradict each other"
    yield "a negative id", put("model", "vocab", "a", value=-1), "contradict each other"
    yield "two ids", put("model", "vocab", END_OF_TEXT, value=500), "contradict each other"
    yield "not bytes", put("model", "vocab", "▁the", value=500), "'▁the' is not written in letters of bytes"
    yield "half a merge", put("model", "merges", 0, value=["a"]), r"merges\[0\] is \['a'\], not two tokens"
    yield "an unknown token", put("model", "merges", 0, value=["a", "xx"]), r"merges\[0\] joins 'a' and 'xx'"
    yield "no merges", put("model", "merges", value=None), r"merges\[0\] is None"
    yield "order", lambda published: published["model"]["merges"].reverse(), "(merge|no merge)"


@pytest.mark.parametrize(("change", "message"), [pytest.param(*row[1:], id=row[0]) for row in damage()])
def test_unsupported_files_are_refused_in_one_line(vocabulary: Path, tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Tokenizer.load(changed(vocabulary, tmp_path, change))
    assert caught.value.code == DATA
    assert str(tmp_path) in str(caught.value)
    assert str(caught.value).encode().count(b"\n") == 0


def test_all_unsupported_keys_are_listed_at_once(vocabulary: Path, tmp_path: Path) -> None:
    def change(published: dict[str, Any]) -> None:
        published["model"] |= {"byte_fallback": True, "dropout": 0.5}
        published["normalizer"] = {"type": "NFKC"}

    with pytest.raises(UserError) as caught:
        Tokenizer.load(changed(vocabulary, tmp_path, change))
    assert len(getattr(caught.value, "problems", [])) == 3
