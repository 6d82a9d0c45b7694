"""Decoding together: the same bits as alone, and requests that join, leave, stop and end."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.generate.config import DecodingConfig, greedy
from llm.generate.decoding import generate
from llm.model import memory
from llm.model.gpt import GPT
from llm.model.packed_weights import pack_for_decoding
from llm.runtime import machine
from llm.serve import engine
from llm.serve.batch import ROWS, SLOTS, Batch
from llm.serve.engine import Engine, Memory, Piece, Request
from llm.serve.text import TextStream
from tests.llm.model.test_packed_weights import PORTABLE, needs_avx2
from tests.llm.serve import world

PROMPTS = [[(7 * at + at * at * n) % 299 for n in range(1, 2 + 5 * at % 37)] for at in range(40)]


@pytest.fixture(scope="module")
def model() -> GPT:
    return world.model()


def letters(ids: Sequence[int]) -> str:
    """Each token as one character."""
    return "".join(chr(0x4E00 + token) for token in ids)


def request(prompt: Sequence[int], decoding: DecodingConfig, seed: int = 0, stops: Sequence[str] = ()) -> Request:
    return Request(prompt, decoding, seed, TextStream(letters, stops))


def run(engine: Engine, requests: Sequence[Request], each: int) -> dict[Request, list[Piece]]:
    """Let `each` requests join after every step."""
    todo, found = list(requests), {request: list[Piece]() for request in requests}
    while todo or engine.busy:
        engine.waiting.extend(todo[:each])
        todo = todo[each:]
        for which, piece in engine.step():
            found[which].append(piece)
    return found


@pytest.mark.parametrize("packed", [False, pytest.param(True, marks=needs_avx2)])
def test_logits_are_the_same_bits_alone_and_in_any_batch(packed: bool) -> None:
    model, alone = world.model(), {}
    if packed:
        model = pack_for_decoding(model, PORTABLE, 1)
    assert Batch(model, 1).unit == (1 if packed else ROWS)
    for at, prompt in enumerate(PROMPTS[:20]):
        batch = Batch(model, 32)
        alone[at] = [batch.add([prompt])[0], *(batch.step([token])[0] for token in range(40))]
    batch, rows, seen = Batch(model, 16), list[int](), {at: list[torch.Tensor]() for at in range(20)}
    todo = list(range(20))
    while todo or rows:
        while todo and len(rows) < 16:
            width = batch.width(PROMPTS[todo[0]])
            some = [at for at in todo if batch.width(PROMPTS[at]) == width][: min(3, 16 - len(rows))]
            for at, logits in zip(some, batch.add([PROMPTS[at] for at in some]), strict=True):
                seen[at].append(logits)
                rows.append(at)
                todo.remove(at)
            if len(rows) % 2:
                break
        logits = batch.step([len(seen[at]) - 1 for at in rows])
        for row, at in enumerate(rows):
            seen[at].append(logits[row])
        for row in reversed(range(len(rows))):
            if len(seen[rows[row]]) == 41:
                batch.remove(row)
                rows[row] = rows[-1]
                rows.pop()
    for at, logits in seen.items():
        assert torch.equal(torch.stack(logits), torch.stack(alone[at])), at


def test_the_cache_follows_the_tokens_that_are_there(model: GPT) -> None:
    batch = Batch(model, 16)
    cache, bytes_of = batch.cache, batch.cache.most_bytes(1) * 4 // 5 // SLOTS  # of a token; a fifth is for copies
    seen, promised = list[int](), cache.most_bytes(*[400] * 5)
    for length in (1, 70, 3, 3, 3):
        batch.add([[1] * length], [400])
        seen.append(cache.nbytes // bytes_of)
    assert seen == [64, 2 * 128, 4 * 128, 4 * 128, 8 * 128]
    while cache.lengths[1] < 399:
        batch.step([1] * 5)
        assert cache.nbytes <= promised
    assert cache.nbytes // bytes_of == 8 * 448
    for left, slots in ((1, 8 * 448), (1, 8 * 448), (1, 2 * 448), (0, 2 * 448), (0, 0)):
        batch.remove(left)
        assert cache.nbytes // bytes_of == slots


def with_memory(monkeypatch: pytest.MonkeyPatch, total: int, *engines: Engine) -> None:
    """Let these engines share so many bytes, those for a prompt left out."""
    shared = Memory("cpu")
    for one in engines:
        one.memory = shared
        shared.engines.append(one)
    monkeypatch.setattr(engine, "LARGE", 0)
    monkeypatch.setattr(memory, "first_pass", lambda *_: 0)
    monkeypatch.setattr(machine, "available", lambda _: total - sum(held(one) for one in engines))


def held(one: Engine) -> int:
    return one._batch.cache.nbytes if one._batch else 0


@given(st.lists(st.tuples(st.integers(1, 120), st.integers(1, 90)), min_size=1, max_size=9), st.integers(2, 25))
@settings(max_examples=10, deadline=None)
def test_running_requests_never_lack_memory(sizes: list[tuple[int, int]], blocks: int) -> None:
    model = world.model()
    one_block = Batch(model, 1).cache.most_bytes(1)
    requests = [request([7] * prompt, greedy(new)) for prompt, new in sizes]
    engines = [Engine(model, frozenset(), 8) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        with_memory(patch, blocks * one_block, *engines)
        for at, each in enumerate(requests):
            engines[at % 2].waiting.append(each)
        ends = {}
        while any(one.busy for one in engines):
            for one in engines:
                ends |= {which: piece.finish for which, piece in one.step() if piece.finish}
                assert sum(map(held, engines)) <= blocks * one_block
    for each in requests:
        fits = -(-each.most // SLOTS) <= blocks
        assert (ends[each], len(each.tokens)) == (("length", each.decoding.max_new_tokens) if fits else ("memory", 0))
        assert fits == (not each.lacks)


def test_a_request_waits_for_memory_that_another_engine_uses(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = engines = [Engine(model, frozenset(), 8) for _ in range(2)]
    with_memory(monkeypatch, Batch(model, 1).cache.most_bytes(256), *engines)
    first.waiting.append(request([1], greedy(200)))
    second.waiting.append(request([1], greedy(100)))
    first.step()
    second.step()
    assert held(first) < first._batch.cache.most_bytes()  # type: ignore[union-attr]
    assert (len(first.running), len(second.running), len(second.waiting)) == (1, 0, 1)
    first.running[0].cancelled = True
    first.step()
    second.step()
    assert len(second.running) == 1


@pytest.mark.parametrize("each", [1, 3, 40])
def test_greedy_texts_are_those_of_generate(model: GPT, each: int) -> None:
    stop = generate(model, PROMPTS[:1], greedy(10), stops=())[0][-1]
    expected = generate(model, PROMPTS, greedy(30), {stop})
    found = run(Engine(model, frozenset({stop}), 16), [request(prompt, greedy(30)) for prompt in PROMPTS], each)
    assert [which.tokens for which in found] == expected
    assert ["".join(piece.text for piece in pieces) for pieces in found.values()] == list(map(letters, expected))
    assert {pieces[-1].finish for pieces in found.values()} == {"stop", "length"}


def test_a_sampled_text_depends_on_its_seed_only(model: GPT) -> None:
    sampling = DecodingConfig(20, 1.3, 50, 0.9)
    alone = [run(Engine(model, frozenset(), 8), [request(PROMPTS[3], sampling, seed)], 1) for seed in (1, 2)]
    texts = [next(iter(one)).tokens for one in alone]
    others = [request(prompt, sampling, 9) for prompt in PROMPTS[:12]]
    among = [request(PROMPTS[3], sampling, seed) for seed in (1, 2)]
    run(Engine(model, frozenset(), 8), [*others[:6], *among, *others[6:]], 2)
    assert [one.tokens for one in among] == texts
    assert texts[0] != texts[1]
    assert texts == generate(model, [PROMPTS[3]] * 2, sampling, (), [1, 2])


def test_a_cancelled_and_a_late_request_free_their_rows(model: GPT) -> None:
    engine = Engine(model, frozenset(), 2)
    endless = [request([1], greedy(100)) for _ in range(4)]
    engine.waiting.extend(endless)
    engine.step()
    assert (engine.running, list(engine.waiting)) == (endless[:2], endless[2:])
    endless[0].cancelled = True
    endless[1].deadline = time.monotonic() - 1
    endless[2].cancelled = True
    ended = {which: piece.finish for which, piece in engine.step() if piece.finish}
    assert ended == {endless[0]: "cancelled", endless[1]: "timeout", endless[2]: "cancelled"}
    assert engine.running == endless[3:]


def test_logprobs_are_of_the_chosen_and_the_likeliest_tokens(model: GPT) -> None:
    asked = Request(PROMPTS[4], greedy(3), 0, TextStream(letters), logprobs=2)
    pieces = run(Engine(model, frozenset(), 8), [asked], 1)[asked]
    scored = [each for piece in pieces for each in piece.scored]
    ids = list(PROMPTS[4])
    for each in scored:
        expected = model(torch.tensor([ids]))[0, -1].log_softmax(dim=-1)
        assert each.logprob == pytest.approx(expected[each.token].item(), abs=1e-5)
        assert [token for token, _ in each.top] == expected.topk(2).indices.tolist()
        ids.append(each.token)
    assert [each.token for each in scored] == asked.tokens


def decode(ids: Sequence[int]) -> str:
    return bytes(ids).decode("utf-8", "replace")


@given(st.binary(max_size=30), st.lists(st.text("ab€", min_size=1, max_size=3), max_size=3))
def test_the_pieces_of_a_text_join_to_it_cut_at_the_first_stop(raw: bytes, stops: list[str]) -> None:
    stream, text = TextStream(decode, stops), ""
    for byte in raw:
        text += stream.push(byte)
        if stream.stopped:
            break
    text += stream.finish()
    whole = decode(raw)
    assert text == whole[: min([whole.index(stop) for stop in stops if stop in whole], default=len(whole))]


@given(st.lists(st.sampled_from(["a", "b", " ", "\n", "##", "# ", "## R", "R", "€"]), max_size=12))
def test_pieces_of_a_cleaned_text_join_to_the_clean_text(parts: list[str]) -> None:
    def clean(text: str) -> str:
        return text.replace("## R", "").strip()

    stream = TextStream(decode, (), clean, "## R")
    text = "".join([*map(stream.push, "".join(parts).encode()), stream.finish()])
    assert text == clean("".join(parts))


def test_text_is_sent_as_soon_as_it_is_certain() -> None:
    stream = TextStream(decode, ["END"])
    assert [stream.push(byte) for byte in "aE€EN".encode()] == ["a", "", "", "", "E€", "", ""]
    assert (stream.push(ord("D")), stream.stopped, stream.finish()) == ("", True, "")


@pytest.mark.parametrize("part", ["add", "step"])
@pytest.mark.parametrize("broken_text", [False, True])
def test_a_step_that_fails_ends_every_request_once(
    model: GPT, part: str, broken_text: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(model, frozenset(), 8)
    requests = [request([1] * length, greedy(tokens)) for length, tokens in ((5, 2), (5, 9), (40, 2), (9, 2), (70, 2))]
    engine.waiting.extend(requests[:2])
    sent = engine.step()
    engine.waiting.extend(requests[2:])
    if broken_text:
        monkeypatch.setattr(requests[3].text, "finish", lambda: 1 / 0)

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Batch, part, fail)
        with pytest.raises(MemoryError):
            sent += engine.step()
    sent += engine.fail()
    ended = [(which, piece.finish) for which, piece in sent if piece.finish]
    first = "length" if part == "add" else "error"  # it has its last token before the prompts are computed
    assert sorted(ended, key=lambda one: requests.index(one[0])) == [
        (which, "error" if which is not requests[0] else first) for which in requests
    ]
    assert not engine.busy
    assert run(engine, [request([1, 2], greedy(2))], 1)  # it starts over
