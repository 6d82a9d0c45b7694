"""LoRA: published parameter counts, no effect before training, gradients, merging, model folders, configuration."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from llm.common.errors import UserError
from llm.common.files import read_json
from llm.common.params import load, parse
from llm.data.batches import Batch, SequentialBatches, ShuffledBatches
from llm.model import lora
from llm.model.classifier import Classifier, freeze
from llm.model.config import ModelConfig
from llm.model.gpt import GPT, count_parameters
from llm.model.lora import LoraLinear, add_lora, merge_lora
from llm.model.trainable import LoraConfig
from llm.runtime.device import autocast
from llm.train import losses
from llm.train.loop import evaluate, fit
from llm.train.task import Task
from llm.weights.classifier_folder import load_classifier, save_classifier
from llm.weights.families import untie_head
from llm.weights.model_folder import load_model, save_adapter, save_model
from stages.sections.finetune_instruct import FinetuneInstructConfig
from stages.sections.finetune_spam import FinetuneSpamConfig
from tests import tiny
from tests.tiny import BF16, FP32

Make = Callable[..., ModelConfig]
SMALL = LoraConfig(rank=4, alpha=8.0, scaling="alpha/rank")
BOOK = LoraConfig(rank=16, alpha=16.0, scaling="alpha/rank")
IDS = torch.randint(300, (3, 9), generator=torch.Generator().manual_seed(1))


def gpt(config: ModelConfig) -> GPT:
    torch.manual_seed(0)
    return GPT(config).eval()


def classifier(config: ModelConfig) -> nn.Module:
    return Classifier(gpt(config), 2, "last").eval()


def lora_layers(model: nn.Module) -> list[LoraLinear]:
    return [module for module in model.modules() if isinstance(module, LoraLinear)]


def train_a_bit(model: nn.Module) -> None:
    """Give all LoRA matrices values that matter, as training would."""
    torch.manual_seed(2)
    with torch.no_grad():
        for path in lora_layers(model):
            for part in (path.lora_A, path.lora_B):
                part.copy_(torch.randn_like(part) * 0.2)


def shapes(model: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()]


# The published counts


def published(n_embd: int, n_layer: int, n_head: int, tie_head: bool) -> GPT:
    shape: dict[str, Any] = {"n_embd": n_embd, "n_layer": n_layer, "n_head": n_head, "tie_head": tie_head}
    with torch.device("meta"):
        rest = {"vocab_size": 50257, "context_length": 1024, "init": "torch"}
        return GPT(replace(tiny.MODEL, **shape, **rest))


def counts(model: nn.Module) -> tuple[int, int]:
    return count_parameters(model), count_parameters(model, trainable_only=True)


def test_the_spam_classifier_of_124m_trains_the_books_number_of_parameters() -> None:
    with torch.device("meta"):
        model = Classifier(published(768, 12, 12, tie_head=True), 2, "last")
    assert counts(model) == (124_441_346, 124_441_346)
    freeze(model, "lora")
    assert counts(model) == (124_441_346, 0)
    add_lora(model, BOOK, seed=1)
    assert counts(model) == (124_441_346 + 2_666_528, 2_666_528)
    merge_lora(model)
    assert counts(model) == (124_441_346, 0)


def test_355m_with_a_head_of_its_own_trains_the_books_number_of_parameters() -> None:
    model = published(1024, 24, 16, tie_head=False)
    assert counts(model) == (406_286_336, 406_286_336)
    add_lora(model, BOOK, seed=1)
    assert counts(model) == (406_286_336 + 7_898_384, 7_898_384)


def test_with_one_update_for_c_attn_the_count_would_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "FUSED", ())
    model = published(1024, 24, 16, tie_head=False)
    add_lora(model, BOOK, seed=1)
    assert counts(model)[1] == 7_898_384 - 24 * 2 * 16 * 1024


# Outputs


@pytest.mark.parametrize("make", [gpt, classifier])
@pytest.mark.parametrize("config", [SMALL, LoraConfig(4, 8.0, "alpha")], ids=lambda config: config.scaling)
def test_before_training_the_outputs_are_bitwise_the_same(
    make: Callable[..., Any], config: LoraConfig, model_config: Make
):
    model = make(model_config())
    before = model(IDS)
    add_lora(model, config, seed=1)
    assert torch.equal(model(IDS), before)


@pytest.mark.parametrize(("scaling", "scale"), [("alpha/rank", 2.0), ("alpha", 8.0)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_update_is_the_product_times_the_scale(scaling: Any, scale: float, bias: bool) -> None:
    model = nn.Sequential(nn.Linear(5, 7, bias=bias))
    x, before = torch.randn(2, 3, 5), model[0]
    add_lora(model, LoraConfig(4, 8.0, scaling), seed=1)
    train_a_bit(model)
    (path,) = lora_layers(model)
    torch.testing.assert_close(model(x), before(x) + scale * (x @ path.lora_A[0] @ path.lora_B[0]))


@pytest.mark.parametrize(("part", "name"), enumerate("qkv"))
def test_an_update_of_the_fused_layer_changes_only_its_part(part: int, name: str) -> None:
    model = nn.ModuleDict({"c_attn": nn.Linear(8, 24)})
    x = torch.randn(2, 3, 8)
    before = model["c_attn"](x).chunk(3, dim=-1)
    add_lora(model, SMALL, seed=1)
    path = model["c_attn"]
    with torch.no_grad():
        path.lora_B[part] = torch.randn(4, 8)
    for layer in (path, path.merged()):
        after = layer(x).chunk(3, dim=-1)
        torch.testing.assert_close(after[part], before[part] + 2.0 * x @ path.lora_A[part] @ path.lora_B[part])
        assert [bool(torch.equal(a, b)) for a, b in zip(after, before, strict=True)] == [i != part for i in range(3)]


def test_the_fused_layer_equals_three_layers_with_lora() -> None:
    fused = nn.ModuleDict({"c_attn": nn.Linear(8, 24)})
    apart = nn.ModuleList(nn.Linear(8, 8) for _ in "qkv")
    for layer, weight, bias in zip(apart, fused["c_attn"].weight.chunk(3), fused["c_attn"].bias.chunk(3), strict=True):
        layer.load_state_dict({"weight": weight, "bias": bias})
    add_lora(fused, SMALL, seed=1)
    add_lora(apart, SMALL, seed=1)
    for number, path in enumerate(lora_layers(apart)):
        assert torch.equal(path.lora_A[0], fused["c_attn"].lora_A[number])  # the same draws in the same order
    train_a_bit(fused)
    with torch.no_grad():
        for number, path in enumerate(lora_layers(apart)):
            path.lora_A[0], path.lora_B[0] = fused["c_attn"].lora_A[number], fused["c_attn"].lora_B[number]
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(fused["c_attn"](x), torch.cat([layer(x) for layer in apart], dim=-1))


def test_bf16_outputs_are_close_to_fp32(model_config: Make) -> None:
    model = gpt(model_config(init="torch"))
    add_lora(model, SMALL, seed=1)
    train_a_bit(model)
    with autocast(BF16):
        half = model(IDS)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), model(IDS), atol=0.2, rtol=0.05)


# Initial values


def test_a_starts_uniform_within_the_books_bound_and_b_at_zero(model_config: Make) -> None:
    model = gpt(model_config(n_embd=64))
    add_lora(model, BOOK, seed=1)
    for path in lora_layers(model):
        assert not path.lora_B.any()
        for a in path.lora_A:
            assert 0.95 / math.sqrt(16) < a.abs().max() <= 1 / math.sqrt(16)
            assert a.mean().abs() < 0.03


def test_initial_values_depend_only_on_the_seed(model_config: Make) -> None:
    def start(seed: int, noise: int) -> list[Tensor]:
        model = gpt(model_config())
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        add_lora(model, SMALL, seed)
        assert torch.equal(torch.get_rng_state(), before)
        return [path.lora_A for path in lora_layers(model)]

    one, again, other = start(1, noise=1), start(1, noise=2), start(2, noise=1)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert all(not torch.equal(part, a[0]) for a in one if len(a) == 3 for part in a[1:])


# Training


def test_only_lora_gets_gradients(model_config: Make) -> None:
    model = gpt(model_config())
    add_lora(model, SMALL, seed=1)
    train_a_bit(model)
    model(IDS).square().sum().backward()
    learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    linears = {name.removesuffix(".weight") for name, _ in shapes(gpt(model_config())) if name.endswith(".weight")}
    linears = {name for name in linears if isinstance(model.get_submodule(name), nn.Linear)}
    assert learning == {f"{name}.lora_{letter}" for name in linears for letter in "AB"}
    assert len(linears) == 2 * 4 + 1
    assert all(parameter.grad is None or parameter.grad.any() for parameter in model.parameters())


class Counting:
    """Rows of tokens that count up by three."""

    ids = (torch.arange(24)[:, None] + torch.arange(9) * 3) % 40

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: Any) -> Batch:
        rows = list(indices)
        return Batch(self.ids[rows, :-1], self.ids[rows, 1:])


@pytest.mark.parametrize("frozen", [False, True], ids=["lora trains", "no gradient"])
def test_training_lowers_the_loss_and_keeps_the_base_weights(frozen: bool, model_config: Make) -> None:
    section = load(Path(__file__).parents[3] / "params.yaml")["finetune_instruct"]
    config = parse(FinetuneInstructConfig, section | {"epochs": 5, "lr": 0.02, "schedule": "constant"})
    model = gpt(model_config(n_embd=16, init="torch"))
    add_lora(model, LoraConfig(4, 8.0 if not frozen else 1e-30, "alpha/rank"), seed=1)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items() if "lora" not in name}
    data = Counting()
    evaluations = {"train": SequentialBatches(data, 8), "val": SequentialBatches(data, 8)}
    task = Task(model, losses.next_token, ShuffledBatches(data, 8, 15, 1, "x"), evaluations)
    curve = fit(task, config, FP32, 1).rows
    assert (curve[-1]["train_loss"] < curve[0]["train_loss"] - 0.3) is not frozen
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in base.items())


def test_the_best_lora_weights_are_kept_and_the_base_does_not_change(model_config: Make) -> None:
    section = load(Path(__file__).parents[3] / "params.yaml")["finetune_instruct"]
    jumpy = {"lr": 0.4, "schedule": "constant", "warmup_steps": 0, "eval_every": 1, "keep": "best", "patience": 3}
    config = parse(FinetuneInstructConfig, section | jumpy)
    model = gpt(model_config(n_embd=16, init="torch"))
    add_lora(model, SMALL, seed=1)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items() if "lora" not in name}
    data = Counting()
    evaluations = {"train": SequentialBatches(data, 8), "val": SequentialBatches(data, 8)}
    task = Task(model, losses.next_token, ShuffledBatches(data, 8, 15, 1, "x"), evaluations)
    history = fit(task, config, FP32, 1)
    assert 0 < history.best["step"] == history.step - 3 < history.planned - 3
    assert evaluate(model, losses.next_token, evaluations["val"], FP32)["loss"] == history.best_val_loss
    assert history.last["val_loss"] > history.best_val_loss
    assert all("lora" in name for name in history.best_weights)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in base.items())


# Merging


@pytest.mark.parametrize("make", [gpt, classifier])
@pytest.mark.parametrize("changes", [{}, {"tie_head": False, "qkv_bias": False}, {"attention": "eager"}], ids=str)
def test_merged_weights_give_the_same_outputs(
    make: Callable[..., Any], changes: dict[str, Any], model_config: Make
) -> None:
    model = make(model_config(init="torch", **changes))
    names, before = shapes(model), model(IDS)
    add_lora(model, SMALL, seed=1)
    train_a_bit(model)
    with_lora = model(IDS)
    assert (with_lora - before).abs().max() > 0.1
    merge_lora(model)
    torch.testing.assert_close(model(IDS), with_lora, atol=1e-4, rtol=1e-4)
    assert shapes(model) == names
    assert {type(module) for module in model.modules() if isinstance(module, nn.Linear)} == {nn.Linear}


def test_merging_a_model_without_lora_changes_nothing(model_config: Make) -> None:
    model = gpt(model_config())
    before = model(IDS)
    assert merge_lora(model) == {}
    assert torch.equal(model(IDS), before)
    assert counts(model)[0] == counts(model)[1]


def test_merging_a_tied_head_keeps_the_embedding(model_config: Make) -> None:
    model = gpt(model_config(tie_head=True))
    embedding = model.transformer.wte.weight.clone()
    add_lora(model, SMALL, seed=1)
    train_a_bit(model)
    merge_lora(model)
    assert torch.equal(model.transformer.wte.weight, embedding)
    assert not torch.allclose(model.lm_head.weight, embedding, atol=0.1)


def test_a_merged_head_that_the_config_calls_tied_is_not_saved(
    model_config: Make, vocabulary: Path, tmp_path: Path
) -> None:
    model = gpt(model_config(tie_head=True))
    add_lora(model, SMALL, seed=1)
    merge_lora(model)
    with pytest.raises(AssertionError, match="would be lost"):
        save_model(model, vocabulary, tmp_path / "model")


def test_any_model_with_a_plain_linear_works() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2)))
    add_lora(model, SMALL, seed=1)
    assert len(lora_layers(model)) == 2
    with pytest.raises(AssertionError, match="no plain Linear"):
        add_lora(model, SMALL, seed=1)


# Model folders


@pytest.fixture
def tuned(model_config: Make, vocabulary: Path, tmp_path: Path) -> tuple[GPT, Path]:
    """A fine-tuned model that is not merged yet, and the folder of the merged one."""
    base = gpt(model_config(init="torch"))
    save_model(base, vocabulary, tmp_path / "base")
    model, twin = (load_model(tmp_path / "base").eval() for _ in range(2))
    for one in (model, twin):
        untie_head(one)
        add_lora(one, SMALL, seed=1)
        train_a_bit(one)
    adapter = merge_lora(twin)
    save_model(twin, vocabulary, tmp_path / "tuned")
    save_adapter(adapter, SMALL, str(tmp_path / "base"), tmp_path / "tuned")
    return model, tmp_path / "tuned"


def test_a_saved_model_gives_the_outputs_of_training(tuned: tuple[GPT, Path]) -> None:
    model, folder = tuned
    published = load_model(folder)
    assert published.config.tie_head is False
    torch.testing.assert_close(published(IDS), model(IDS), atol=1e-4, rtol=1e-4)


def test_transformers_opens_a_saved_model(tuned: tuple[GPT, Path]) -> None:
    transformers = pytest.importorskip("transformers")
    model, folder = tuned
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    torch.testing.assert_close(theirs(IDS).logits, model(IDS), atol=1e-4, rtol=1e-4)


def test_base_plus_adapter_is_the_saved_model(tuned: tuple[GPT, Path]) -> None:
    _, folder = tuned
    described = read_json(folder / "adapter.json")
    model = load_model(described.pop("base"))
    untie_head(model)
    add_lora(model, LoraConfig(**described), seed=9)
    missing, unexpected = model.load_state_dict(load_file(folder / "adapter.safetensors"), strict=False)
    assert unexpected == []
    assert not any("lora" in name for name in missing)
    merge_lora(model)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), load_model(folder).parameters(), strict=True))


def test_a_saved_classifier_gives_the_scores_of_training(model_config: Make, vocabulary: Path, tmp_path: Path) -> None:
    model = classifier(model_config(init="torch"))
    add_lora(model, SMALL, seed=1)
    train_a_bit(model)
    expected = model(IDS)
    merge_lora(model)
    save_classifier(model, ["ham", "spam"], vocabulary, tmp_path / "spam")
    torch.testing.assert_close(load_classifier(tmp_path / "spam")[0].eval()(IDS), expected, atol=1e-4, rtol=1e-4)


# Configuration

SECTIONS = load(Path(__file__).parents[3] / "params.yaml")
GIVEN = {"rank": 16, "alpha": 16.0, "scaling": "alpha/rank"}


@pytest.mark.parametrize(
    ("schema", "name"), [(FinetuneSpamConfig, "finetune_spam"), (FinetuneInstructConfig, "finetune_instruct")]
)
@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"trainable": "lora", "lora": GIVEN}, None),
        ({"trainable": "all", "lora": None}, None),
        ({"trainable": "lora", "lora": None}, "lora: null, but trainable is lora"),
        ({"trainable": "all", "lora": GIVEN}, "lora: given, but trainable is all"),
        ({"trainable": "lora", "lora": GIVEN | {"rank": 0}}, "lora.rank: 0 is not above 0"),
        ({"trainable": "lora", "lora": GIVEN | {"alpha": -1}}, "lora.alpha: -1.0 is not above 0"),
        ({"trainable": "lora", "lora": GIVEN | {"scaling": "rank"}}, "lora.scaling: 'rank' is not one of alpha/rank, "),
    ],
)
def test_trainable_and_lora_go_together(schema: type, name: str, changes: dict[str, Any], wrong: str | None) -> None:
    section = SECTIONS[name] | changes
    if wrong is None:
        parse(schema, section)
    else:
        with pytest.raises(UserError, match=wrong):
            parse(schema, section)
