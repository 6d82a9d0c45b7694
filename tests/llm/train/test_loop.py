"""The training loop: its results, and what must not change them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm.common.errors import DIVERGED, RESOURCES, UserError
from llm.data.batches import IGNORED, Batch, SequentialBatches, ShuffledBatches
from llm.generate.config import DecodingConfig
from llm.generate.decoding import generate
from llm.model import packed_weights
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.runtime.device import RuntimeConfig, autocast, without_autocast
from llm.train import losses
from llm.train.callbacks import Progress, Samples
from llm.train.config import TrainConfig
from llm.train.history import COLUMNS, History
from llm.train.loop import evaluate, fit, update
from llm.train.optim import AdamW
from llm.train.ranks import ALONE
from llm.train.task import Loss, Task, Training
from tests import tiny
from tests.llm.conversions import Conversions
from tests.llm.model.test_packed_weights import needs_onednn
from tests.tiny import BF16, FP32

Make = Callable[..., ModelConfig]


class Sentences:
    """Rows of tokens that follow a rule; some targets are ignored."""

    def __init__(self, n: int = 24, length: int = 8, seed: int = 0) -> None:
        first = torch.randint(20, (n, 1), generator=torch.Generator().manual_seed(seed))
        self.ids = (first + torch.arange(length + 1) * 3) % 20
        self.targets = self.ids[:, 1:].clone()
        for row in range(n):
            self.targets[row, : row % 5] = IGNORED

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: Sequence[int]) -> Batch:
        rows = list(indices)
        return Batch(self.ids[rows, :-1], self.targets[rows])


@dataclass
class Recorder:
    """Records the calls of `fit`."""

    steps: list[tuple[int, int, float, float]] = field(default_factory=list)
    points: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def progress(self, step: int, steps: int, loss: float, tokens_per_second: float) -> None:
        self.steps.append((step, steps, loss, tokens_per_second))

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.points.append((step, dict(values)))


def config(**changes: Any) -> TrainConfig:
    return replace(tiny.TRAIN, **changes)


@pytest.fixture
def train(model_config: Make) -> Callable[..., tuple[GPT, History, Recorder]]:
    """Train a new tiny model; keyword arguments change the config."""

    def run(
        steps: int = 8,
        loss: Loss = losses.next_token,
        seed: int = 1,
        runtime: RuntimeConfig = FP32,
        dropout: float = 0.0,
        write: Callable[[GPT], str] | None = None,
        after: Callable[[int], bool] | None = None,
        **changes: Any,
    ) -> tuple[GPT, History, Recorder]:
        torch.manual_seed(5)
        model, data, watcher = GPT(model_config(vocab_size=20, dropout=dropout)), Sentences(), Recorder()
        settings = config(**changes)
        source = ShuffledBatches(data, settings.batch_size, steps, seed)
        evaluations = {"train": SequentialBatches(data, 5), "val": SequentialBatches(Sentences(7, seed=9), 5)}
        samples = [Samples(lambda: write(model), after)] if write else []
        task = Task(model, loss, source, evaluations)
        return model, fit(task, settings, runtime, seed, [Progress(watcher), *samples]), watcher

    return run


Train = Callable[..., tuple[GPT, History, Recorder]]


def same_bits(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


# Results


def test_training_lowers_the_loss(train: Train) -> None:
    _, history, _ = train(steps=60, lr=0.03)
    assert history.rows[0]["train_loss"] == pytest.approx(math.log(20), rel=0.05)
    assert history.last["train_loss"] < 1.0


def test_updates_equal_those_of_a_plain_loop(train: Train, model_config: Make) -> None:
    model, _, _ = train(steps=3, schedule="constant", warmup_steps=0, weight_decay=0.0, clip_norm=None)
    torch.manual_seed(5)
    plain, source = GPT(model_config(vocab_size=20)), ShuffledBatches(Sentences(), 6, 3, 1)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(3):
        optimizer.zero_grad()
        logits, targets = plain(source[step].inputs).flatten(0, 1), source[step].targets.flatten()
        torch.nn.functional.cross_entropy(logits, targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_micro_batches_give_the_update_of_the_whole_batch(train: Train) -> None:
    whole, *_ = train(steps=3)
    for size in (1, 2, 3):
        for parameter, other in zip(
            whole.parameters(), train(steps=3, micro_batch_size=size)[0].parameters(), strict=True
        ):
            torch.testing.assert_close(parameter, other, atol=1e-5, rtol=1e-4)


def test_only_long_gradients_are_clipped(model_config: Make) -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)

    def loss(m: nn.Module, batch: Batch) -> losses.Sums:
        return {"loss": 100.0 * m.weight.sum() * batch.count}  # type: ignore[operator]

    seen: list[float] = []
    original = AdamW.step

    def spy(self: AdamW, *args: Any) -> Any:
        seen.append(float(model.weight.grad))  # type: ignore[arg-type]
        return original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AdamW, "step", spy)
        for clip in (0.5, 200.0, None):
            fit(Task(model, loss, ShuffledBatches(Sentences(), 6, 1, 0), {}), config(clip_norm=clip), FP32, 0)
    assert seen[0] == pytest.approx(0.5, rel=1e-4)
    assert seen[1:] == [100.0, 100.0]


def test_bf16_trains_fp32_weights(train: Train) -> None:
    model, history, _ = train(steps=60, lr=0.03, runtime=BF16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert history.last["train_loss"] < 1.0


# What must not change the weights


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_two_runs_give_the_same_bits(train: Train, dropout: float) -> None:
    assert same_bits(train(dropout=dropout)[0], train(dropout=dropout)[0])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_evaluating_and_sampling_do_not_change_the_weights(train: Train, dropout: float) -> None:
    def disturb(model: GPT) -> str:
        decoding = DecodingConfig(max_new_tokens=4, temperature=1.0, top_k=None, top_p=None)
        torch.rand(3)
        return str(generate(model, [[1, 2]], decoding, ()))

    often, *_ = train(dropout=dropout, eval_every=1, write=disturb)
    between, *_ = train(dropout=dropout, eval_every=3, write=disturb, after=lambda updates: updates % 2 == 1)
    seldom, *_ = train(dropout=dropout, eval_every=1000)
    assert same_bits(often, seldom)
    assert same_bits(between, seldom)


def checksum(model: GPT) -> str:
    return repr(model.lm_head.weight.sum().item())


@pytest.mark.parametrize(
    ("after", "steps"),
    [
        (None, [0, 3, 6, 8]),  # the steps of the curve
        (lambda updates: updates in (2, 3, 8), [2, 3, 8]),
        (lambda updates: updates in (2, 3), [2, 3, 8]),  # and after the last update
    ],
)
def test_samples_are_written_with_evaluations_or_after_the_given_updates(train: Train, after: Any, steps: Any) -> None:
    model, history, _ = train(write=checksum, after=after)
    assert [step for step, _ in history.samples] == steps
    assert len({text for _, text in history.samples}) == len(steps)
    assert history.samples[-1][1] == checksum(model)  # after the update, not before


def test_the_global_generator_does_not_change_the_weights(train: Train) -> None:
    once, *_ = train(dropout=0.3)
    again, *_ = train(dropout=0.3, write=lambda model: str(torch.manual_seed(99)))
    assert same_bits(once, again)


def test_another_seed_changes_order_and_dropout(train: Train) -> None:
    assert not same_bits(train(seed=1)[0], train(seed=2)[0])
    one_batch = {"steps": 1, "batch_size": 24, "warmup_steps": 0}  # every order gives the same batch, up to rounding
    first, second = (train(seed=seed, dropout=0.3, **one_batch)[0].lm_head.weight for seed in (1, 2))
    assert (first - second).abs().max() > 1e-3


def test_dropout_acts_in_training(train: Train) -> None:
    assert not same_bits(train(dropout=0.3)[0], train(dropout=0.0)[0])


def test_dropout_differs_between_steps_and_micro_batches() -> None:
    masks: list[Tensor] = []

    class Dropped(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            masks.append(torch.nn.functional.dropout(torch.ones(64)))
            return super().forward(x)

    def loss(model: nn.Module, batch: Batch) -> losses.Sums:
        return {"loss": model(torch.ones(1, 2)).sum()}

    settings = config(micro_batch_size=3, eval_every=100)
    fit(Task(Dropped(2, 1), loss, ShuffledBatches(Sentences(), 6, 3, 0), {}), settings, FP32, 0)
    assert len({tuple(mask.tolist()) for mask in masks}) == len(masks) == 6


# The curve


def test_first_row_is_the_untrained_model(train: Train, model_config: Make) -> None:
    _, history, _ = train()
    torch.manual_seed(5)
    untrained = GPT(model_config(vocab_size=20))
    row = history.rows[0]
    assert (row["step"], row["tokens_seen"]) == (0, 0)
    assert row["train_loss"] == evaluate(untrained, losses.next_token, SequentialBatches(Sentences(), 5), FP32)["loss"]


def test_steps_count_updates_and_the_last_has_a_row(train: Train) -> None:
    _, history, _ = train(steps=8, eval_every=3)
    assert [row["step"] for row in history.rows] == [0, 3, 6, 8]
    assert [row["tokens_seen"] for row in history.rows] == [0, 3 * 48, 6 * 48, 8 * 48]


def test_last_row_is_the_trained_model(train: Train) -> None:
    model, history, _ = train()
    val = SequentialBatches(Sentences(7, seed=9), 5)
    assert history.last["val_loss"] == evaluate(model, losses.next_token, val, FP32)["loss"]


def test_rows_have_the_learning_rate_of_the_last_update(train: Train) -> None:
    _, history, _ = train(steps=4, eval_every=1, schedule="constant", warmup_steps=2)
    assert [row["lr"] for row in history.rows] == [0.0, 0.0, 0.005, 0.01, 0.01]


def test_every_update_and_every_row_is_reported(train: Train) -> None:
    _, history, watcher = train(steps=8, eval_every=3)
    assert [(step, steps) for step, steps, *_ in watcher.steps] == [(n, 8) for n in range(1, 9)]
    assert all(speed > 0 for *_, speed in watcher.steps)
    names = {"loss/train": "train_loss", "loss/val": "val_loss", "lr": "lr", "tokens_seen": "tokens_seen"}
    rows = [(row["step"], {name: row[column] for name, column in names.items()}) for row in history.rows]
    assert watcher.points == rows


def test_progress_reports_the_mean_loss_of_the_batch(train: Train, model_config: Make) -> None:
    _, _, watcher = train(steps=1, micro_batch_size=2)
    torch.manual_seed(5)
    model, batch = GPT(model_config(vocab_size=20)), ShuffledBatches(Sentences(), 6, 1, 1)[0]
    assert watcher.steps[0][2] == pytest.approx(losses.next_token(model, batch)["loss"].item() / batch.count, rel=1e-5)


def test_table_has_the_columns_in_order(train: Train) -> None:
    _, history, _ = train()
    assert history.table() == [[row[name] for name in COLUMNS] for row in history.rows]
    assert history.best_val_loss == min(row["val_loss"] for row in history.rows)


# The best weights, and a run that ends early


def follow(values: Sequence[float], steps: int, **changes: Any) -> tuple[float, list[float], History]:
    """Train one number with these validation losses. Returns its final value, its value per evaluation, the history."""
    model, found, seen = nn.Linear(1, 1, bias=False), iter(values), list[float]()
    nn.init.ones_(model.weight)
    of_train, of_val = SequentialBatches(Sentences(6), 6), SequentialBatches(Sentences(7), 7)

    def loss(_model: nn.Module, batch: Batch) -> losses.Sums:
        if model.training:
            mean = model.weight.sum()
        elif len(batch.inputs) == 7:
            mean = torch.tensor(next(found))
        else:
            seen.append(model.weight.item())
            mean = torch.tensor(-float(len(seen)))
        return {"loss": mean * batch.count}

    settings = config(**{"eval_every": 1, "warmup_steps": 0} | changes)
    source, evaluations = ShuffledBatches(Sentences(), 6, steps, 0), {"train": of_train, "val": of_val}
    history = fit(Task(model, loss, source, evaluations), settings, FP32, 0)
    assert len(set(seen)) == len(seen) == len(history.rows)
    assert next(found, None) is None, "evaluations are missing"
    return model.weight.item(), seen, history


CURVES = [
    pytest.param([5, 4, 3, 2, 1], None, 4, id="the last is the best"),
    pytest.param([5, 3, 4, 2, 3], None, 3, id="one in the middle is the best"),
    pytest.param([5, 3, 4, 3, 3], None, 1, id="the first of equal ones"),
    pytest.param([1, 2, 3, 4, 5], None, 0, id="none is better than the start"),
    pytest.param([5, 3, 4, 2, 3], 2, 3, id="each wait is shorter than the patience"),
    pytest.param([5, 3, 4], 1, 1, id="patience of one"),
    pytest.param([5, 3, 3], 1, 1, id="an equal one is not lower"),
    pytest.param([5, 3, 4, 3.5], 2, 1, id="lower than the one before is not lower"),
    pytest.param([1, 2, 3], 2, 0, id="patience runs out at the start"),
]


@pytest.mark.parametrize(("values", "patience", "best"), CURVES)
def test_keep_and_patience_follow_the_validation_losses(values: list[float], patience: int | None, best: int) -> None:
    end = len(values) - 1
    kept, seen, history = follow(values, 4, keep="best", patience=patience)
    last, same_seen, same_history = follow(values, 4, patience=patience)
    assert (kept, last) == (seen[best], seen[end])
    assert (seen, history.rows) == (same_seen, same_history.rows)
    assert (history.step, history.best["step"], history.last["step"]) == (end, best, end)
    assert not same_history.best_weights


@pytest.mark.parametrize(
    ("values", "steps", "changes", "told"),
    [
        ([5, 3, 4, 4], 3, {}, (-4.0, 4, 3, "absent", "absent")),
        ([5, 3, 4, 4], 3, {"keep": "best"}, (-2.0, 3, 3, 1, "absent")),
        ([5, 3, 4, 4], 9, {"patience": 2}, (-4.0, 4, 3, "absent", True)),
        ([5, 3, 4, 4], 9, {"keep": "best", "patience": 2}, (-2.0, 3, 3, 1, True)),
        ([5, 3, 4, 4], 3, {"keep": "best", "patience": 2}, (-2.0, 3, 3, 1, False)),  # at the last step
        ([5, 3, 4, 4], 3, {"keep": "best", "patience": 3}, (-2.0, 3, 3, 1, False)),
    ],
)
def test_the_reported_losses_belong_to_the_final_weights(
    values: list[float], steps: int, changes: dict[str, Any], told: tuple[Any, ...]
) -> None:
    settings = config(**changes)
    _, _, history = follow(values, steps, **changes)
    names = ("train_loss", "val_loss", "best_val_loss", "kept_step", "stopped_early")
    reported = history.losses(settings)
    assert tuple(reported.get(name, "absent") for name in names) == told
    assert set(reported) <= set(names)
    assert history.kept(settings)["val_loss"] == reported["val_loss"]


def test_the_message_on_the_ending() -> None:
    def told(steps: int, **changes: Any) -> str:
        return follow([5, 3, 4, 4], steps, **changes)[2].ending(config(**changes))

    early = "ended after 3 of 9 updates: no lower validation loss in 2 evaluations"
    assert told(3) == told(3, patience=2) == "ended after 3 of 3 updates"
    assert told(9, patience=2) == early
    assert told(9, patience=2, keep="best") == f"{early}; the weights are those of step 1"


def test_a_run_that_ends_in_its_warm_up_says_so() -> None:
    history = History(step=3, planned=3)
    cold = "ended after 3 of 3 updates; warmup_steps is 3: the learning rate never rose to 0.002"
    assert history.ending(config(warmup_steps=3, lr=0.002)) == cold
    assert history.ending(config(warmup_steps=2)) == "ended after 3 of 3 updates"


def test_ending_early_does_not_change_the_schedule() -> None:
    _, _, whole = follow([5, 4, 3, 3, 3, 3, 3], 6)
    _, _, early = follow([5, 4, 3, 3, 3], 6, patience=2)
    assert early.table() == whole.table()[:5]
    assert early.last["lr"] > whole.last["lr"]


def test_patience_counts_evaluations_not_updates() -> None:
    _, _, history = follow([5, 6, 7], 20, eval_every=3, patience=2)
    assert [row["step"] for row in history.rows] == [0, 3, 6]


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_reported_losses_are_those_of_the_model(train: Train, keep: str) -> None:
    model, history, _ = train(steps=12, lr=0.3, warmup_steps=0, eval_every=1, schedule="constant", keep=keep)
    reported = history.losses(config(keep=keep))
    data = {"train": Sentences(), "val": Sentences(7, seed=9)}
    found = {
        f"{name}_loss": evaluate(model, losses.next_token, SequentialBatches(data[name], 5), FP32)["loss"]
        for name in data
    }
    assert found == {name: reported[name] for name in found}
    assert history.best is not history.last
    assert (reported["val_loss"] == history.best_val_loss) == (keep == "best")


def test_only_trainable_weights_are_kept_and_restored() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)

    def loss(m: nn.Module, batch: Batch) -> losses.Sums:
        return {"loss": (m(torch.ones(1, 2)) ** 2).sum() * batch.count}

    untrained = {name: p.clone() for name, p in model.named_parameters()}
    data = {name: SequentialBatches(Sentences(7), 7) for name in ("train", "val")}
    settings = config(keep="best", patience=1, eval_every=1, lr=10.0, warmup_steps=0)
    history = fit(Task(model, loss, ShuffledBatches(Sentences(), 6, 3, 0), data), settings, FP32, 0)
    assert (history.step, history.best["step"]) == (1, 0)
    assert set(history.best_weights) == {"1.weight", "1.bias"}
    assert all(torch.equal(p, untrained[name]) for name, p in model.named_parameters())


# Evaluation


@pytest.mark.parametrize("batch_size", [1, 5, 7, 24])
def test_evaluation_is_the_mean_over_all_targets(model_config: Make, batch_size: int) -> None:
    torch.manual_seed(5)
    model, data = GPT(model_config(vocab_size=20, dropout=0.5)), Sentences()
    with torch.no_grad():
        model.eval()
        exact = torch.nn.functional.cross_entropy(model(data.ids[:, :-1]).flatten(0, 1), data.targets.flatten())
    model.train()
    found = evaluate(model, losses.next_token, SequentialBatches(data, batch_size), FP32)["loss"]
    assert found == pytest.approx(exact.item(), rel=1e-6)


@needs_onednn
@pytest.mark.parametrize("loss", [losses.next_token, losses.fused_next_token])
def test_in_bf16_evaluations_use_packed_weights_and_training_does_not(
    train: Train, monkeypatch: pytest.MonkeyPatch, loss: Loss
) -> None:
    asked: list[nn.Module] = []

    def of_each(model: nn.Module, batch: Batch) -> losses.Sums:
        if not model.training:
            asked.append(model)
        return loss(model, batch)

    model, history, _ = train(loss=of_each, runtime=BF16, dropout=0.2, lr=0.03, keep="best")
    assert not model.training
    assert len(history.rows) == len(set(map(id, asked))) == 4  # one for both splits
    for evaluated in asked:
        assert packed_weights.PackedLinear in map(type, evaluated.modules())
        assert nn.Linear not in map(type, evaluated.modules())
    asked.clear()
    monkeypatch.setattr(packed_weights, "can_pack_bf16", lambda: False)
    unpacked, plain, _ = train(loss=of_each, runtime=BF16, dropout=0.2, lr=0.03, keep="best")
    assert set(asked) == {unpacked}
    assert same_bits(model, unpacked)
    for row, other in zip(history.rows, plain.rows, strict=True):
        assert row == pytest.approx(other, rel=2e-3)
    assert history.rows[0]["val_loss"] != pytest.approx(history.last["val_loss"], rel=2e-2)  # control


@pytest.mark.parametrize("micro_batch_size", [1, 3, 24])
def test_micro_batches_do_not_change_an_evaluation(model_config: Make, micro_batch_size: int) -> None:
    torch.manual_seed(5)
    model, source = GPT(model_config(vocab_size=20)), SequentialBatches(Sentences(), 7)
    whole = evaluate(model, losses.next_token, source, FP32)
    assert evaluate(model, losses.next_token, source, FP32, micro_batch_size) == pytest.approx(whole, rel=1e-6)


def test_evaluation_uses_micro_batches_too(train: Train) -> None:
    rows: set[int] = set()

    def loss(model: nn.Module, batch: Batch) -> losses.Sums:
        rows.add(len(batch.inputs))
        return losses.next_token(model, batch)

    train(loss=loss, micro_batch_size=2)
    assert max(rows) == 2


def test_mean_of_batch_means_would_differ(model_config: Make) -> None:
    torch.manual_seed(5)
    model, source = GPT(model_config(vocab_size=20)), SequentialBatches(Sentences(), 7)
    means = [losses.next_token(model, source[i])["loss"].item() / source[i].count for i in range(len(source))]
    assert abs(sum(means) / len(means) - evaluate(model, losses.next_token, source, FP32)["loss"]) > 1e-5


# Divergence


def failing(at: int, spoil: Callable[[Tensor, GPT], Tensor]) -> Loss:
    """The next-token loss, changed in training step `at`."""
    calls = 0

    def loss(model: nn.Module, batch: Batch) -> losses.Sums:
        nonlocal calls
        calls += model.training
        sums = losses.next_token(model, batch)
        return {"loss": spoil(sums["loss"], model)} if model.training and calls == at + 1 else sums  # type: ignore[arg-type]

    return loss


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda loss, model: loss * math.nan, id="loss is nan"),
        pytest.param(lambda loss, model: loss + math.inf, id="loss is infinite"),
        pytest.param(lambda loss, model: loss + (model.lm_head.weight * 0).sqrt().sum(), id="gradient is nan"),
    ],
)
@pytest.mark.parametrize("clip_norm", [1.0, None])
def test_divergence_stops_before_the_update(train: Train, spoil: Any, clip_norm: float | None) -> None:
    kept: list[GPT] = []

    def keep(model: GPT) -> str:
        kept.append(model)
        return ""

    said = r"train.lr: training diverged after 2 steps: .*at lr 0\.01 \(last finite training loss \d"
    with pytest.raises(UserError, match=said) as caught:
        train(loss=failing(2, spoil), write=keep, eval_every=100, clip_norm=clip_norm)
    assert caught.value.code == DIVERGED
    with pytest.raises(KeyboardInterrupt):
        train(loss=failing(2, stop_here), write=keep, eval_every=100, clip_norm=clip_norm)
    assert kept[0] is not kept[1]
    assert same_bits(kept[0], kept[1])


def stop_here(loss: Tensor, model: GPT) -> Tensor:
    raise KeyboardInterrupt


def test_loss_that_stays_finite_does_not_stop(train: Train) -> None:
    assert train(loss=failing(2, lambda loss, model: loss + 0))[1].last["step"] == 8


# Memory


def out_of_host_memory(loss: Tensor, model: GPT) -> Tensor:
    return loss + torch.empty(2**56).sum()


def out_of_device_memory(loss: Tensor, model: GPT) -> Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def out_of_apples_memory(loss: Tensor, model: GPT) -> Tensor:
    raise RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GiB, max allowed: 9.07 GiB).")


@pytest.mark.parametrize("spoil", [out_of_host_memory, out_of_device_memory, out_of_apples_memory])
def test_out_of_memory_names_the_batch_and_the_parameter(train: Train, spoil: Any) -> None:
    with pytest.raises(
        UserError, match=r"params\.yaml: train\.micro_batch_size: out of memory with 3 rows of 8 tokens at once"
    ) as caught:
        train(loss=failing(2, spoil), micro_batch_size=3)
    assert caught.value.code == RESOURCES


@pytest.mark.parametrize("training", [True, False])
def test_out_of_memory_names_the_section_in_training_and_in_evaluations(model_config: Make, training: bool) -> None:
    def loss(model: nn.Module, batch: Batch) -> losses.Sums:
        if model.training is training:
            raise MemoryError
        return losses.next_token(model, batch)

    model, data = GPT(model_config(vocab_size=20)), Sentences()
    task = Task(model, loss, ShuffledBatches(data, 6, 1, 0), {"train": SequentialBatches(data, 6)}, "mine")
    with pytest.raises(UserError, match=r"params\.yaml: mine\.micro_batch_size: out of memory with 6 rows"):
        fit(task, config(), FP32, 0)


def test_other_errors_are_not_reported_as_out_of_memory(train: Train) -> None:
    def mistake(loss: Tensor, model: GPT) -> Tensor:
        return loss + torch.ones(2) @ torch.ones(3)

    with pytest.raises(RuntimeError, match="size"):
        train(loss=failing(2, mistake))


# Settings of the runtime


@pytest.mark.parametrize("runtime", [FP32, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("random", ["each", "packed"])
def test_checkpointed_activations_give_the_same_bits(
    model_config: Make, runtime: RuntimeConfig, attention: str, random: str
) -> None:
    def trained(checkpoint: bool) -> tuple[GPT, list[int]]:
        torch.manual_seed(0)
        shape = model_config(dropout=0.2, attention=attention, dropout_random=random)
        model, data, calls = GPT(shape), Sentences(), [0]
        model.transformer.h[0].mlp.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + model.training))
        source = ShuffledBatches(data, 6, 3, 1)
        task = Task(model, losses.next_token_of(True), source, {"train": source, "val": source})
        fit(task, config(), replace(runtime, checkpoint_activations=checkpoint), 1)
        return model, calls

    (kept, once), (computed, twice) = trained(False), trained(True)
    assert same_bits(kept, computed)
    assert (once, twice) == ([3], [6])


def test_in_bf16_weights_are_converted_once_a_step(model_config: Make) -> None:
    def conversions(micro_batch_size: int | None) -> int:
        torch.manual_seed(0)
        model, data = GPT(model_config()), Sentences()
        source = ShuffledBatches(data, 6, 2, 1)
        task = Task(model, losses.next_token, source, {"train": [data.batch([0])], "val": [data.batch([0])]})
        settings = config(micro_batch_size=micro_batch_size)
        training = Training(task, settings, BF16, AdamW(model, config()), History(), 2, model, task.loss, ALONE)
        with Conversions() as seen:
            update(training, source[0], 0.01, 1.0, 1)
        return seen.shapes.count(tuple(model.transformer.h[0].mlp.c_fc.weight.shape))

    blocks, micro_batches = 2, 3
    assert conversions(None) == blocks * (1 + 1)  # the weight, and its gradient back to fp32
    assert conversions(2) == blocks * (1 + micro_batches)


@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_in_bf16_a_step_gives_the_gradients_of_separate_contexts(
    model_config: Make, micro_batch_size: int | None
) -> None:
    def gradients(shared: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model, batch = GPT(model_config()), Sentences().batch(range(6))
        with autocast(BF16) if shared else nullcontext():
            for micro in batch.split(micro_batch_size):
                with nullcontext() if shared else autocast(BF16):
                    loss = losses.fused_next_token(model, micro)["loss"] / batch.count
                with without_autocast(BF16):
                    loss.backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    assert all(map(torch.equal, gradients(True), gradients(False)))
