"""Chapter 5: the losses, the plain training loop, temperature and top-k.

Shapes: B rows, T tokens, V words of the vocabulary. Names of this chapter that are defined elsewhere:
generate -> llm/generate/decoding.py:generate
assign -> llm/weights/gpt2.py:from_openai
load_weights_into_gpt -> llm/weights/gpt2.py:from_openai
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.book.ch02 import END_OF_TEXT, AnyTokenizer
from llm.book.ch04 import generate_text_simple
from llm.data.tokenizer import Tokenizer
from llm.model.gpt import GPT

Device = torch.device | str
Loader = Iterable[tuple[Tensor, Tensor]]  # batches of inputs and targets

# "every effort moves", "I really like", and the token that follows each token (section 5.1).
LOSS_INPUTS = ((16833, 3626, 6100), (40, 1107, 588))
LOSS_TARGETS = ((3626, 6100, 345), (1107, 588, 11311))

# Nine words and their logits after "every effort moves you" (section 5.3).
WORDS = ("closer", "every", "effort", "forward", "inches", "moves", "pizza", "toward", "you")
LOGITS = (4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79)


def text_to_token_ids(text: str, tokenizer: AnyTokenizer) -> Tensor:
    """Ids (1, T) of a text, in which `<|endoftext|>` is one token of a `Tokenizer` (section 5.1)."""
    if isinstance(tokenizer, Tokenizer):
        return torch.tensor([tokenizer.encode_joined(text.split(END_OF_TEXT)).tolist()])
    return torch.tensor([tokenizer.encode(text)])


def token_ids_to_text(token_ids: Tensor, tokenizer: AnyTokenizer) -> str:
    """Text of ids (1, T) (section 5.1)."""
    return tokenizer.decode(token_ids[0].tolist())


@torch.no_grad()
def toy_loss(model: nn.Module) -> tuple[list[float], float]:
    """Probabilities that `model` gives the six target tokens, and their mean cross-entropy (section 5.1)."""
    logits = model.eval()(torch.tensor(LOSS_INPUTS)).flatten(0, 1)  # (6, V)
    targets = torch.tensor(LOSS_TARGETS).flatten()
    probabilities = logits.softmax(dim=-1)[torch.arange(len(targets)), targets]
    return probabilities.tolist(), F.cross_entropy(logits, targets).item()


def calc_loss_batch(input_batch: Tensor, target_batch: Tensor, model: nn.Module, device: Device = "cpu") -> Tensor:
    """Mean cross-entropy over the targets of a batch, in nats (sections 5.1, 6.6); targets of -100 do not count."""
    logits = model(input_batch.to(device))  # (B, T, V), or (B, classes)
    return F.cross_entropy(logits.flatten(0, -2), target_batch.to(device).flatten())


def calc_loss_loader(
    data_loader: Loader, model: nn.Module, device: Device = "cpu", num_batches: int | None = None
) -> float:
    """Mean of the losses of the first `num_batches` batches (None: all); NaN without a batch (section 5.1)."""
    losses = [calc_loss_batch(x, y, model, device).item() for x, y in islice(data_loader, num_batches)]
    return sum(losses) / len(losses) if losses else math.nan


@torch.no_grad()
def evaluate_model(
    model: nn.Module, train_loader: Loader, val_loader: Loader, device: Device, eval_iter: int
) -> tuple[float, float]:
    """Training and validation loss, each over `eval_iter` batches, without dropout (section 5.2)."""
    model.eval()
    train_loss, val_loss = (calc_loss_loader(loader, model, device, eval_iter) for loader in (train_loader, val_loader))
    model.train()
    return train_loss, val_loss


def generate_and_print_sample(model: nn.Module, tokenizer: AnyTokenizer, device: Device, start_context: str) -> None:
    """Print a greedy continuation of 50 tokens on one line (section 5.2).

    The model is ours, or one with a `pos_emb` as in the book.
    """
    size = model.config.context_length if isinstance(model, GPT) else len(cast(nn.Embedding, model.pos_emb).weight)
    model.eval()
    ids = text_to_token_ids(start_context, tokenizer).to(device)
    ids = generate_text_simple(model, ids, max_new_tokens=50, context_size=size)
    print(token_ids_to_text(ids, tokenizer).replace("\n", " "))
    model.train()


def train_model_simple(
    model: nn.Module,
    train_loader: Loader,
    val_loader: Loader,
    optimizer: torch.optim.Optimizer,
    device: Device,
    num_epochs: int,
    eval_freq: int,
    eval_iter: int,
    start_context: str,
    tokenizer: AnyTokenizer,
) -> tuple[list[float], list[float], list[int]]:
    """Train, evaluate every `eval_freq` updates from the first on, and print a sample after each epoch (section 5.2).

    Returns the training losses, the validation losses and the tokens seen, one for each evaluation.
    """
    train_losses: list[float] = []
    val_losses: list[float] = []
    track_tokens_seen: list[int] = []
    step = tokens_seen = 0
    for epoch in range(1, num_epochs + 1):
        model.train()
        for inputs, targets in train_loader:
            optimizer.zero_grad()
            calc_loss_batch(inputs, targets, model, device).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            tokens_seen += inputs.numel()
            if step % eval_freq == 0:
                train_loss, val_loss = evaluate_model(model, train_loader, val_loader, device, eval_iter)
                train_losses.append(train_loss)
                val_losses.append(val_loss)
                track_tokens_seen.append(tokens_seen)
                print(f"Ep {epoch} (Step {step:06d}): Train loss {train_loss:.3f}, Val loss {val_loss:.3f}")
            step += 1
        generate_and_print_sample(model, tokenizer, device, start_context)
    return train_losses, val_losses, track_tokens_seen


def softmax_with_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Probabilities of logits (..., V): flatter above temperature 1, sharper below (section 5.3)."""
    return torch.softmax(logits / temperature, dim=-1)


def top_k_logits(logits: Tensor, k: int) -> Tensor:
    """Set all but the `k` highest of logits (..., V) to minus infinity (section 5.3)."""
    return logits.masked_fill(logits < logits.topk(k).values[..., -1:], -torch.inf)


def draw_counts(probas: Tensor) -> list[int]:
    """How often each of WORDS comes up in 1,000 draws with seed 123 (section 5.3, exercise 5.1)."""
    torch.manual_seed(123)
    drawn = [int(torch.multinomial(probas, num_samples=1)) for _ in range(1_000)]
    return torch.bincount(torch.tensor(drawn), minlength=len(WORDS)).tolist()


def print_sampled_tokens(probas: Tensor) -> None:
    """Print `draw_counts` with the words (section 5.3)."""
    print("\n".join(f"{count} x {word}" for count, word in zip(draw_counts(probas), WORDS, strict=True)))
