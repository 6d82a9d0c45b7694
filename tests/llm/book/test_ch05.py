"""Chapter 5: the losses and the training loop against the pipeline's, and the printed draws."""

import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.book import ch05
from llm.book.ch02 import SimpleTokenizerV1, create_dataloader_v1
from llm.data.batches import IGNORED, Batch
from llm.data.tokenizer import Tokenizer
from llm.generate.config import DecodingConfig
from llm.generate.decoding import choose
from llm.model.gpt import GPT
from llm.train import losses
from llm.train.book_mode import fit_as_the_book
from tests import tiny

LOGITS = torch.tensor(ch05.LOGITS)
NUMBERS = SimpleTokenizerV1({str(number): number for number in range(20)})  # ids are written as numbers
TRAIN = replace(
    tiny.TRAIN,
    batch_size=2,
    eval_batches=2,
    schedule="constant",
    warmup_steps=0,
    weight_decay_on="all",
    beta2=0.999,
    clip_norm=None,
)


def text(tokens: int, seed: int) -> str:
    """A text of random tokens of NUMBERS."""
    ids = torch.randint(20, (tokens,), generator=torch.Generator().manual_seed(seed))
    return " ".join(map(str, ids.tolist()))


class Windows:
    """The windows of a loader as the pipeline's dataset."""

    def __init__(self, loader) -> None:
        self.windows = loader.dataset

    def __len__(self) -> int:
        return len(self.windows)

    def batch(self, indices) -> Batch:
        inputs, targets = zip(*(self.windows[i] for i in indices), strict=True)
        return Batch(torch.stack(inputs), torch.stack(targets))


@pytest.fixture
def loaders():
    """11 windows for training in batches of 2, and 3 windows for validation."""
    return (
        create_dataloader_v1(text(89, seed=1), NUMBERS, 2, 8, 8),
        create_dataloader_v1(text(25, seed=2), NUMBERS, 2, 8, 8, shuffle=False, drop_last=False),
    )


@pytest.fixture
def model(model_config) -> GPT:
    torch.manual_seed(123)
    shape = model_config(vocab_size=20, dropout=0.2, qkv_bias=False, tie_head=False, init="torch", attention="eager")
    return GPT(shape)


def test_train_model_simple_gives_the_losses_of_mode_book(loaders, model, capsys):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1, fused=True)
    train_losses, val_losses, tokens_seen = ch05.train_model_simple(
        model,
        *loaders,
        optimizer,
        "cpu",
        num_epochs=2,
        eval_freq=3,
        eval_iter=2,
        start_context="1 2",
        tokenizer=NUMBERS,
    )
    after = torch.get_rng_state()
    assert capsys.readouterr().out.count("\n1 2 ") == 2  # a sample after each epoch

    torch.manual_seed(123)
    again = GPT(model.config)  # the same weights, and the same random numbers to come
    runtime = replace(tiny.FP32, fused_loss=False)
    data = (*map(Windows, loaders), TRAIN, runtime, 123)
    rows = [row for row in fit_as_the_book(again, losses.next_token, *data).rows if row["step"] in (0, 3, 6, 9)]
    assert tokens_seen == [row["tokens_seen"] for row in rows] == [16, 64, 112, 160]
    assert train_losses == pytest.approx([row["train_loss"] for row in rows], rel=1e-6)
    assert val_losses == pytest.approx([row["val_loss"] for row in rows], rel=1e-6)
    for ours, theirs in zip(again.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert len({round(loss, 4) for loss in train_losses}) == 4
    assert torch.equal(torch.get_rng_state(), after)


def test_train_model_simple_takes_the_books_own_model(loaders, capsys):
    """A reader's GPTModel has the book's attributes, and no config of ours."""

    class GPTModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tok_emb, self.pos_emb, self.out_head = nn.Embedding(20, 8), nn.Embedding(8, 8), nn.Linear(8, 20)

        def forward(self, ids: Tensor) -> Tensor:
            return self.out_head(self.tok_emb(ids) + self.pos_emb(torch.arange(ids.shape[1])))

    model = GPTModel()
    optimizer = torch.optim.AdamW(model.parameters())
    counts = {"num_epochs": 1, "eval_freq": 3, "eval_iter": 1}
    ch05.train_model_simple(model, *loaders, optimizer, "cpu", **counts, start_context="1 2", tokenizer=NUMBERS)
    first, *_, sample = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"Ep 1 \(Step 000000\): Train loss \d\.\d{3}, Val loss \d\.\d{3}", first)
    assert sample.startswith("1 2 ")


def test_calc_loss_batch_is_the_pipelines_mean_loss(loaders, model):
    inputs, targets = next(iter(loaders[1]))
    targets[0, :3] = IGNORED
    batch = Batch(inputs, targets)
    expected = losses.next_token(model.eval(), batch)["loss"] / batch.count
    torch.testing.assert_close(ch05.calc_loss_batch(inputs, targets, model), expected)


def test_calc_loss_loader_is_the_mean_of_the_batch_means(loaders, model):
    means = [F.cross_entropy(model.eval()(x).transpose(1, 2), y).item() for x, y in loaders[1]]
    assert len(means) == 2
    assert ch05.calc_loss_loader(loaders[1], model) == pytest.approx(sum(means) / 2)
    assert ch05.calc_loss_loader(loaders[1], model, num_batches=1) == pytest.approx(means[0])
    assert ch05.calc_loss_loader(loaders[1], model, num_batches=9) == pytest.approx(sum(means) / 2)
    assert ch05.calc_loss_loader([], model) != ch05.calc_loss_loader([], model)  # NaN


def test_evaluate_model_is_without_dropout_and_returns_to_training(loaders, model):
    first, second = (ch05.evaluate_model(model, loaders[1], loaders[1], "cpu", 2) for _ in range(2))
    assert first == second
    assert first[0] == first[1]
    assert model.training


def test_the_end_of_text_is_one_token(vocabulary):
    tokenizer = Tokenizer.load(vocabulary)
    ids = ch05.text_to_token_ids("moves you<|endoftext|>Every<|endoftext|>", tokenizer)
    assert ids.tolist() == [[*tokenizer.encode("moves you"), tokenizer.eot, *tokenizer.encode("Every"), tokenizer.eot]]
    assert ids.dtype == torch.int64


def test_text_becomes_ids_and_text_again(vocabulary):
    tokenizer = Tokenizer.load(vocabulary)
    ids = ch05.text_to_token_ids("Every effort moves you", tokenizer)
    assert ids.shape == (1, len(tokenizer.encode("Every effort moves you")))
    assert ch05.token_ids_to_text(ids, tokenizer) == "Every effort moves you"


def test_sampled_tokens_are_printed_with_their_counts(capsys):
    ch05.print_sampled_tokens(ch05.softmax_with_temperature(LOGITS, 1))
    lines = capsys.readouterr().out.splitlines()
    assert (lines[0], lines[3], lines[-1]) == ("73 x closer", "582 x forward", "0 x you")


@pytest.mark.parametrize(
    ("temperature", "counts"),
    [
        (1, [73, 0, 0, 582, 2, 0, 0, 343, 0]),
        (0.1, [0, 0, 0, 985, 0, 0, 0, 15, 0]),
        (5, [165, 75, 42, 239, 71, 46, 32, 227, 103]),
    ],
)
def test_draws_by_temperature(temperature, counts):
    assert ch05.draw_counts(ch05.softmax_with_temperature(LOGITS, temperature)) == counts


def test_exact_probability_of_pizza():
    probability = ch05.softmax_with_temperature(LOGITS, 5)[ch05.WORDS.index("pizza")]
    assert round(float(probability), 4) == 0.0430


def test_top_k_keeps_the_most_likely():
    kept = ch05.top_k_logits(LOGITS, 3)
    assert [ch05.WORDS[i] for i in kept.isfinite().nonzero().flatten()] == ["closer", "forward", "toward"]
    probabilities = kept.softmax(dim=-1)[kept.isfinite()]
    assert [round(float(p), 4) for p in probabilities] == [0.0615, 0.5775, 0.3610]


def test_the_pipeline_samples_as_the_book():
    torch.manual_seed(123)
    book = [int(torch.multinomial(ch05.top_k_logits(LOGITS, 3).div(1.4).softmax(-1), 1)) for _ in range(50)]
    generator = torch.Generator().manual_seed(123)
    config = DecodingConfig(max_new_tokens=1, temperature=1.4, top_k=3, top_p=None)
    assert [int(choose(LOGITS[None], config, [generator])) for _ in range(50)] == book
    assert len(set(book)) == 3
