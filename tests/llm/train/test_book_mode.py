"""Mode book is bit-identical to a plain loop like the book's, and differs from exact mode."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from llm.common import params, profiles
from llm.common.errors import UserError
from llm.data import corpus
from llm.data.batches import Batch
from llm.data.corpus_dataset import TokenWindows
from llm.data.corpus_files import CorpusFiles
from llm.data.corpus_split import encode_corpus
from llm.data.tokenizer import Tokenizer
from llm.model import gpt
from llm.model.gpt import GPT
from llm.train import losses
from llm.train.book_mode import data_loader, fit_as_the_book
from llm.train.callbacks import Progress, Samples
from llm.train.config import TrainConfig
from llm.train.history import History
from llm.train.loop import evaluation_batches, fit
from llm.train.task import Task
from stages.schema import AllParams
from stages.sections.pretrain import ShortWindows
from tests import tiny
from tests.tiny import FP32

ROOT = Path(__file__).parents[3]
MODEL = replace(
    tiny.MODEL,
    vocab_size=20,
    context_length=8,
    dropout=0.2,
    qkv_bias=False,
    tie_head=False,
    init="torch",
    attention="eager",
)
TRAIN = replace(
    tiny.TRAIN,
    epochs=3,
    batch_size=2,
    eval_every=4,
    eval_batches=3,
    warmup_steps=6,
    warmup_from=0.1,
    weight_decay=0.5,
    weight_decay_on="all",
    beta2=0.999,
    clip_norm=0.3,
)
STEPS = 15  # 3 epochs of 5 full batches


class Rows:
    """Rows of random tokens; the targets are the next tokens."""

    def __init__(self, n: int, seed: int) -> None:
        self.ids = torch.randint(20, (n, 9), generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: Sequence[int]) -> Batch:
        rows = self.ids[list(indices)]
        return Batch(rows[:, :-1], rows[:, 1:])


TRAIN_ROWS, VAL_ROWS = Rows(11, seed=1), Rows(3, seed=2)  # each leaves an incomplete batch of one row


@dataclass
class Recorder:
    points: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def progress(self, step: int, steps: int, loss: float, tokens_per_second: float) -> None:
        pass

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.points.append((step, dict(values)))


@dataclass
class Plain:
    """The book's loop, written from its description; each field switches one detail."""

    evaluates: bool = True  # evaluation draws from the generator
    evaluates_untrained: bool = True
    clips_in_warmup: bool = False
    decays_all: bool = True

    rows: list[tuple[int, float, float]] = field(default_factory=list)  # step, training loss, validation loss

    def train(self, seed: int = 123) -> GPT:
        data = self.data(TRAIN_ROWS, True), self.data(VAL_ROWS, False)
        torch.manual_seed(seed)
        model = GPT(MODEL)
        if self.evaluates_untrained:
            torch.manual_seed(seed)
            self.evaluate(model, -1, data, None)
        torch.manual_seed(seed)
        model = GPT(MODEL)
        optimizer = torch.optim.AdamW(self.groups(model), lr=0.01, weight_decay=0.5, fused=True)
        step = -1
        for _ in range(3):
            for inputs, targets in data[0]:
                model.train()
                step += 1
                for group in optimizer.param_groups:
                    group["lr"] = self.lr(step)
                optimizer.zero_grad()
                self.loss(model, inputs, targets).backward()  # type: ignore[no-untyped-call]
                if step >= 6 or self.clips_in_warmup:
                    nn.utils.clip_grad_norm_(model.parameters(), 0.3)
                optimizer.step()
                if step % 4 == 0 and self.evaluates:
                    self.evaluate(model, step, data, 3)
        self.evaluate(model, step, data, 3)
        return model

    def evaluate(self, model: GPT, step: int, data: tuple[Any, Any], batches: int | None) -> None:
        model.eval()
        with torch.no_grad():
            train, val = (self.mean(model, part, batches) for part in data)
        self.rows.append((step, train, val))

    def mean(self, model: GPT, data: Any, batches: int | None) -> float:
        seen = []
        for number, (inputs, targets) in enumerate(data):
            if number == batches:
                break
            seen.append(self.loss(model, inputs, targets).item())
        return sum(seen) / len(seen)

    def groups(self, model: GPT) -> Any:
        if self.decays_all:
            return model.parameters()
        by_kind: dict[bool, list[Tensor]] = {True: [], False: []}
        for parameter in model.parameters():
            by_kind[parameter.dim() > 1].append(parameter)
        return [{"params": by_kind[True]}, {"params": by_kind[False], "weight_decay": 0.0}]

    @staticmethod
    def lr(step: int) -> float:
        if step < 6:
            return 0.01 * (0.1 + 0.9 * step / 6)
        return 0.01 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - 6) / 9)))

    @staticmethod
    def loss(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    @staticmethod
    def data(rows: Rows, training: bool) -> Any:
        pairs: Any = [(row[:-1], row[1:]) for row in rows.ids]
        return DataLoader(pairs, batch_size=2, shuffle=training, drop_last=training)


@dataclass(frozen=True)
class Trained:
    model: GPT
    history: History
    watcher: Recorder


def by_the_book(config: TrainConfig = TRAIN, seed: int = 123, **changes: Any) -> Trained:
    torch.manual_seed(seed)
    model, watcher, count = GPT(replace(MODEL, **changes)), Recorder(), iter(range(99))
    data = (TRAIN_ROWS, VAL_ROWS, config, FP32, seed)
    samples = Samples(lambda: f"sample {next(count)}", lambda updates: updates in (5, 10))
    return Trained(model, fit_as_the_book(model, losses.next_token, *data, [Progress(watcher), samples]), watcher)


@pytest.fixture(scope="module")
def book() -> Trained:
    return by_the_book()


@pytest.fixture(scope="module")
def plain() -> tuple[GPT, Plain]:
    loop = Plain()
    return loop.train(), loop


def same_bits(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


# Bit-identical to a plain loop


def test_weights_equal_those_of_a_plain_loop(book: Trained, plain: tuple[GPT, Plain]) -> None:
    assert same_bits(book.model, plain[0])


def test_losses_equal_those_of_a_plain_loop(book: Trained, plain: tuple[GPT, Plain]) -> None:
    assert book.history.table(["step", "train_loss", "val_loss"]) == [list(row) for row in plain[1].rows]


@pytest.mark.parametrize(
    "different",
    [
        Plain(evaluates=False),
        Plain(clips_in_warmup=True),
        Plain(decays_all=False),
    ],
    ids=["never evaluates", "clips from the start", "decays matrices only"],
)
def test_a_different_plain_loop_gives_other_weights(book: Trained, different: Plain) -> None:
    assert not same_bits(book.model, different.train())


def test_evaluating_the_untrained_model_changes_nothing(plain: tuple[GPT, Plain]) -> None:
    assert same_bits(Plain(evaluates_untrained=False).train(), plain[0])


def test_exact_mode_gives_other_weights(book: Trained) -> None:
    torch.manual_seed(123)
    model = GPT(MODEL)
    loader = data_loader(TRAIN_ROWS, 2, training=True)
    source = [batch for _ in range(3) for batch in loader]
    task = Task(model, losses.next_token, source, evaluation_batches(TRAIN_ROWS, VAL_ROWS, TRAIN))
    fit(task, TRAIN, FP32, 123)
    assert not same_bits(book.model, model)


def test_the_weights_depend_on_when_the_model_is_evaluated(book: Trained) -> None:
    assert not same_bits(book.model, by_the_book(replace(TRAIN, eval_every=5)).model)


def test_two_runs_give_the_same_bits_after_other_random_numbers(book: Trained) -> None:
    torch.rand(7)
    again = by_the_book()
    assert same_bits(book.model, again.model)
    assert book.history == again.history


def test_another_seed_gives_other_weights(book: Trained) -> None:
    assert not same_bits(book.model, by_the_book(seed=124).model)


def test_checkpointed_activations_change_no_bit(book: Trained) -> None:
    torch.manual_seed(123)
    model, runtime = GPT(MODEL), replace(FP32, checkpoint_activations=True)
    with patch("llm.model.gpt.checkpoint", wraps=gpt.checkpoint) as spy:
        fit_as_the_book(model, losses.next_token, TRAIN_ROWS, VAL_ROWS, TRAIN, runtime, 123)
    assert spy.call_count == STEPS * MODEL.n_layer
    assert same_bits(book.model, model)


# The curve


def test_the_first_update_is_step_0_and_is_evaluated(book: Trained) -> None:
    assert [row["step"] for row in book.history.rows] == [-1, 0, 4, 8, 12, 14]
    assert [row["tokens_seen"] for row in book.history.rows] == [0, 16, 80, 144, 208, 240]
    assert [step for step, _ in book.watcher.points] == [-1, 0, 4, 8, 12, 14]


def test_samples_are_written_after_the_given_updates_with_the_steps_of_the_curve(book: Trained) -> None:
    assert book.history.samples == [(4, "sample 0"), (9, "sample 1"), (14, "sample 2")]


def test_every_batch_has_the_same_weight(book: Trained) -> None:
    """The validation rows make batches of two rows and one row, so the last row has the weight of the two before."""
    logits = book.model(VAL_ROWS.ids[:, :-1]).transpose(1, 2)
    a, b, c = nn.functional.cross_entropy(logits, VAL_ROWS.ids[:, 1:], reduction="none").mean(dim=1).tolist()
    assert book.history.last["val_loss"] == pytest.approx((a + b) / 4 + c / 2, rel=1e-5)
    assert book.history.last["val_loss"] != pytest.approx((a + b + c) / 3, rel=1e-4)


# Batches


def test_an_epoch_has_every_row_once_except_the_incomplete_batch() -> None:
    torch.manual_seed(0)
    loader = data_loader(TRAIN_ROWS, 2, training=True)
    first, second = (torch.cat([batch.inputs for batch in loader]) for _ in range(2))
    for rows in (first, second):
        assert len({tuple(row) for row in rows.tolist()}) == len(rows) == 10
    assert not torch.equal(first, second)


def test_validation_rows_come_in_order_with_the_incomplete_batch() -> None:
    batches = list(data_loader(VAL_ROWS, 2, training=False))
    assert torch.equal(torch.cat([batch.inputs for batch in batches]), VAL_ROWS.ids[:, :-1])


def test_a_batch_larger_than_the_data_is_an_error() -> None:
    with pytest.raises(UserError, match=r"train.batch_size: 12, but there are only 11 examples"):
        by_the_book(replace(TRAIN, batch_size=12))


# Checks


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> AllParams:
    """All parameters with the profile book-digits."""
    path = tmp_path_factory.mktemp("digits") / "params.yaml"
    shutil.copyfile(ROOT / "params.yaml", path)
    profiles.use(ROOT / "configs/book-digits.yaml", AllParams, path)
    return params.read_all(AllParams, path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("short_windows", ShortWindows(1, 8, 1)),
        ("save_every", 5),
        ("keep", "best"),
        ("patience", 2),
        ("compile", True),
    ],
    ids=str,
)
def test_settings_that_mode_book_lacks_are_refused(digits: AllParams, key: str, value: Any) -> None:
    wrong = replace(digits.pretrain, save_optimizer=False, **{key: value})
    assert [name for name, *_ in wrong.problems()] == [key]
    assert list(replace(wrong, mode="exact").problems()) == []


# The published digits


class Enough(Exception):
    """Stops a run."""


@dataclass
class Until:
    """Stops a run after the row of step `last`."""

    last: int
    said: dict[int, tuple[float, float]] = field(default_factory=dict)

    def progress(self, step: int, steps: int, loss: float, tokens_per_second: float) -> None:
        pass

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.said[step] = values["loss/train"], values["loss/val"]
        if step == self.last:
            raise Enough


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def verdict(mirror: Path, tmp_path: Path, digits: AllParams) -> Callable[[str], TokenWindows]:
    """The windows over a split of The Verdict, made as in the stages."""
    shutil.copyfile(mirror / "encoder.json", tmp_path / "vocab.json")
    shutil.copyfile(mirror / "vocab.bpe", tmp_path / "merges.txt")
    vocabulary, pins = Tokenizer.load(tmp_path), corpus.Pins(50257, "gpt2")
    (tmp_path / "text").mkdir()
    shutil.copyfile(mirror / "the-verdict.txt", tmp_path / "text/the-verdict.txt")
    files = CorpusFiles(tmp_path / "text", digits.tokenize.documents)
    found = encode_corpus(files, digits.tokenize.corpus, vocabulary, tmp_path / "unsplit", digits.tokenize.parallel)
    for split, ids in (("train", found.train), ("val", found.val)):
        corpus.write_shards(tmp_path, split, ids, 0, pins, 10**6)
    config = digits.pretrain
    return lambda split: TokenWindows(tmp_path, split, config.context, config.stride, 50257)


@pytest.mark.long
@pytest.mark.usefixtures("two_threads")
def test_first_losses_of_chapter_5_are_the_published_ones(
    verdict: Callable[[str], TokenWindows], digits: AllParams
) -> None:
    torch.manual_seed(digits.seed)
    model, told, config = GPT(digits.model.config(digits.tokenizer.vocab_size)), Until(5), digits.pretrain
    data = (verdict("train"), verdict("val"), config, digits.runtime, digits.seed)
    with pytest.raises(Enough):
        fit_as_the_book(model, losses.next_token, *data, [Progress(told)])
    assert [f"{loss:.5f}" for loss in told.said[-1]] == ["10.98758", "10.98111"]
    assert [f"{loss:.3f}" for loss in told.said[0]] == ["9.781", "9.933"]
    assert [f"{loss:.3f}" for loss in told.said[5]] == ["8.111", "8.339"]
