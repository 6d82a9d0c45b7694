"""The classifier: positions, padding, the causal mask, trainable parameters, predictions, configuration."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from llm.common.errors import UserError
from llm.common.params import load, parse
from llm.data.batches import SequentialBatches
from llm.data.spam_dataset import SpamDataset, pad_right
from llm.data.tokenizer import Tokenizer
from llm.evaluate.accuracy import predict
from llm.model.classifier import Classifier, freeze
from llm.model.gpt import GPT, count_parameters
from llm.model.trainable import Position
from stages.sections.finetune_spam import FinetuneSpamConfig
from tests import tiny
from tests.llm.conversions import Conversions
from tests.tiny import BF16, FP32

ROWS = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
PAD = 299
GPT2_124M = replace(tiny.MODEL, vocab_size=50257, context_length=1024, n_layer=12, n_head=12, n_embd=768, init="torch")


@pytest.fixture
def gpt(model_config) -> GPT:
    torch.manual_seed(0)
    return GPT(model_config(init="torch")).eval()


def scores(gpt: GPT, position: str, width: int | None) -> torch.Tensor:
    """Class logits of ROWS, padded to `width`."""
    torch.manual_seed(1)
    batch = pad_right(ROWS, PAD, width, [0] * len(ROWS))
    return Classifier(gpt, 2, position)(batch.inputs, batch.lengths)


def by_hand(gpt: GPT, read) -> torch.Tensor:
    """The same for each row alone and unpadded; `read` maps its hidden states (T, C) to (C,)."""
    torch.manual_seed(1)
    head = torch.nn.Linear(gpt.config.n_embd, 2)
    return torch.stack([head(read(gpt.transformer(torch.tensor([row]))[0])) for row in ROWS])


BY_HAND = {
    "first": lambda hidden: hidden[0],
    "last_token": lambda hidden: hidden[-1],
    "mean": lambda hidden: hidden.mean(dim=0),
    "last_token_and_mean": lambda hidden: (hidden[-1] + hidden.mean(dim=0)) / 2,
}


@pytest.mark.parametrize("width", [None, 9, 16])
@pytest.mark.parametrize("position", BY_HAND)
def test_positions_of_real_tokens_do_not_depend_on_padding(position, width, gpt):
    torch.testing.assert_close(scores(gpt, position, width), by_hand(gpt, BY_HAND[position]))


@pytest.mark.parametrize("width", [None, 9])
@pytest.mark.parametrize(
    ("position", "read"), [("last", lambda hidden: hidden[-1]), ("mean_all", lambda hidden: hidden.mean(dim=0))]
)
def test_last_and_mean_all_read_the_padded_row_as_in_the_book(position, read, width, gpt):
    padded = [row + [PAD] * ((width or 5) - len(row)) for row in ROWS]
    torch.manual_seed(1)
    head = torch.nn.Linear(gpt.config.n_embd, 2)
    expected = torch.stack([head(read(gpt.transformer(torch.tensor([row]))[0])) for row in padded])
    torch.testing.assert_close(scores(gpt, position, width), expected)


@pytest.mark.parametrize("position", ["last", "mean_all"])
def test_last_and_mean_all_depend_on_the_padding(position, gpt):
    assert not torch.allclose(scores(gpt, position, None), scores(gpt, position, 9), atol=1e-3)


def test_all_positions_give_different_scores(gpt):
    read = [scores(gpt, position, 9) for position in get_args(Position)]
    assert all(not torch.allclose(a, b, atol=1e-3) for i, a in enumerate(read) for b in read[:i])


@pytest.mark.parametrize("position", ["last", "last_token"])
def test_without_lengths_every_token_is_real(position, gpt):
    model = Classifier(gpt, 2, position)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(model(ids), model(ids, torch.tensor([3])))


# --- the causal mask ---


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_without_the_causal_mask_the_first_token_sees_the_last(attention, model_config):
    def read(causal: bool, last_token: int) -> torch.Tensor:
        torch.manual_seed(0)
        gpt = GPT(model_config(init="torch", attention=attention)).eval()
        return Classifier(gpt, 2, "first", causal=causal)(torch.tensor([[5, 6, 7, last_token]]))

    assert torch.equal(read(True, 8), read(True, 9))
    assert not torch.allclose(read(False, 8), read(False, 9), atol=1e-3)
    assert not torch.allclose(read(False, 8), read(True, 8), atol=1e-3)


def test_without_causal_mask_and_positions_token_order_does_not_matter(gpt):
    """With attention to all tokens, permuting the others does not change the first one."""
    gpt.transformer.wpe.weight.data.zero_()
    model = Classifier(gpt, 2, "first", causal=False)
    one, other = (model(torch.tensor([ids])) for ids in ([5, 6, 7, 8], [5, 8, 6, 7]))
    torch.testing.assert_close(one, other)
    for block in gpt.transformer.h:
        block.attn.causal = True
    model.position = "last"
    one, other = (model(torch.tensor([ids])) for ids in ([5, 6, 7, 8], [5, 6, 8, 7]))
    assert not torch.allclose(one, other, atol=1e-3)


# --- what is trained ---


def trained(model: Classifier) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_freezing_leaves_only_the_chosen_part_trainable(gpt):
    model = Classifier(gpt, 2, "last")
    names = {name for name, _ in model.named_parameters()}
    head = {"score.weight", "score.bias"}
    norm = {"transformer.ln_f.weight", "transformer.ln_f.bias"}
    last, one_before = ({name for name in names if name.startswith(f"transformer.h.{layer}.")} for layer in (1, 0))
    expected = {
        "head": head,
        "last_block": head | norm | last,
        "last_two_blocks": head | norm | last | one_before,
        "all": names,
    }
    assert {trainable: (freeze(model, trainable), trained(model))[1] for trainable in expected} == expected


# One block of GPT-2 124M: feed forward and attention as published, the bias of q, k and v, two norms.
BLOCK = 4_722_432 + 2_360_064 + 3 * 768 + 2 * 2 * 768
HEAD, NORM = 2 * 768 + 2, 2 * 768


@pytest.mark.parametrize(
    ("trainable", "count"),
    [
        ("head", HEAD),
        ("last_block", HEAD + NORM + BLOCK),
        ("last_two_blocks", HEAD + NORM + 2 * BLOCK),
        ("all", 124_441_346),
    ],
)
def test_parameter_counts_of_gpt2_124m_are_the_published_ones(trainable, count):
    with torch.device("meta"):
        model = Classifier(GPT(GPT2_124M), 2, "last")
    freeze(model, trainable)
    assert count_parameters(model, trainable_only=True) == count
    assert count_parameters(model) == 124_441_346


# --- predictions ---


@pytest.fixture
def messages(vocabulary) -> SpamDataset:
    return SpamDataset(
        [0, 1, 0, 1, 1], ["one", "a longer one", "x", "over the lazy dogs", "fox"], Tokenizer.load(vocabulary), 16
    )


@pytest.mark.parametrize(("batch_size", "micro_batch_size"), [(1, None), (2, None), (5, None), (5, 2), (2, 1)])
def test_predictions_come_in_the_order_of_the_messages(batch_size, micro_batch_size, gpt, messages):
    model = Classifier(gpt, 2, "last_token")
    one_by_one = torch.cat([model(torch.tensor([ids])) for ids in messages.ids])
    torch.testing.assert_close(
        predict(model, SequentialBatches(messages, batch_size), FP32, micro_batch_size), one_by_one.detach()
    )


@pytest.mark.parametrize(("micro_batch_size", "rows"), [(None, [5]), (2, [2, 2, 1])])
def test_predicting_respects_the_micro_batch_size(micro_batch_size, rows, gpt, messages):
    model, seen = Classifier(gpt, 2, "last_token"), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    predict(model, SequentialBatches(messages, 5), FP32, micro_batch_size)
    assert seen == rows


@pytest.mark.parametrize("training", [True, False])
def test_predicting_turns_dropout_off_and_restores_the_mode(training, model_config, messages):
    model = Classifier(GPT(model_config(dropout=0.5)), 2, "mean").train(training)
    first, again = (predict(model, SequentialBatches(messages, 2), FP32) for _ in range(2))
    assert torch.equal(first, again)
    assert model.training == model.transformer.h[0].training == training
    assert not first.requires_grad


def test_bf16_predictions_are_fp32_tensors_close_to_fp32(gpt, messages):
    model = Classifier(gpt, 2, "mean")
    bf16 = predict(model, SequentialBatches(messages, 2), BF16)
    assert bf16.dtype == torch.float32
    torch.testing.assert_close(bf16, predict(model, SequentialBatches(messages, 2), FP32), atol=0.05, rtol=0.05)


def test_weights_are_converted_once_not_for_every_batch(gpt, messages):
    with Conversions() as seen:
        predict(Classifier(gpt, 2, "mean"), SequentialBatches(messages, 2), BF16)
    assert seen.shapes.count(tuple(gpt.transformer.h[0].mlp.c_fc.weight.shape)) == len(gpt.transformer.h)


def test_as_gpt_shares_the_transformer_and_ties_the_head(gpt):
    exported = Classifier(gpt, 2, "last").as_gpt()
    ids = torch.tensor([ROWS[0]])
    torch.testing.assert_close(exported(ids), gpt.transformer(ids) @ gpt.transformer.wte.weight.T)


# --- configuration ---

SECTION = load(Path(__file__).parents[3] / "params.yaml")["finetune_spam"]


@pytest.mark.parametrize(("dropout", "wrong"), [(0.0, []), (0.5, []), (1.0, ["dropout"]), (-0.1, ["dropout"])])
def test_dropout_lies_between_0_and_1(dropout, wrong):
    config = FinetuneSpamConfig(**(SECTION | {"dropout": dropout}))
    assert [problem[0] for problem in config.problems()] == wrong


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"padding": "batch", "position": "last_token"}, []),
        ({"padding": "batch", "position": "last_token_and_mean"}, []),
        ({"padding": "batch", "position": "last"}, ["padding"]),
        ({"padding": "batch", "position": "mean_all"}, ["padding"]),
        ({"padding": "batch", "position": "last_token", "causal": False}, ["padding"]),
        ({"padding": "longest", "position": "mean_all", "causal": False}, []),
    ],
)
def test_a_score_may_not_depend_on_the_rest_of_its_batch(changes, wrong):
    assert [problem[0] for problem in FinetuneSpamConfig(**(SECTION | changes)).problems()] == wrong


@pytest.mark.parametrize("key", ["position", "trainable", "padding", "weights"])
def test_an_unknown_choice_is_refused(key):
    parse(FinetuneSpamConfig, SECTION)
    with pytest.raises(UserError, match=f"{key}: 'none' is not one of "):
        parse(FinetuneSpamConfig, SECTION | {key: "none"})
