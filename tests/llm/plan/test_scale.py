"""The plan for several GPUs against the tensors and messages of a small model, and against published figures."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llm.cli.parser import main
from llm.model import memory
from llm.model.gpt import GPT
from llm.plan import scale
from llm.plan.gpus import GPUS
from llm.plan.work import BOTH, forward
from llm.runtime.device import autocast
from llm.train import losses
from tests import tiny
from tests.llm.plan.shapes import LENGTH, ROWS, SHAPE
from tests.ranks import run_ranks

GIVEN = scale.Assumptions(1024, 512, 0.4, 50e9, 2.0, None)


def measured(how: str, ranks: int, folder: Path) -> list[dict[str, int]]:
    """What each rank measured."""
    run_ranks(["tests.llm.plan.two_ranks", how, str(folder)], ranks, 300)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


@pytest.mark.parametrize(("how", "ranks"), [("ddp", 1), ("ddp", 2), ("fsdp", 2)])
@pytest.mark.slow
def test_tensors_and_messages_of_ranks_are_as_planned(how, ranks, tmp_path):
    planned = scale.rank_bytes(SHAPE, how, ranks, ROWS, LENGTH)
    sent = scale.sent_bytes(SHAPE, how, ranks)
    for found in measured(how, ranks, tmp_path):
        for kind in ("weights", "gradients", "moments"):
            assert found[kind] == pytest.approx(getattr(planned, kind), rel=0.01), kind
        assert found["messages"] * (ranks - 1) / ranks == pytest.approx(sent, rel=0.01)


@pytest.mark.parametrize("rows", [2, 8])
def test_activations_are_as_planned(rows):
    """The tensors that autograd keeps for the backward pass, without weights."""
    shape = replace(SHAPE, n_layer=8)
    model = GPT(shape)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(shape.vocab_size, (rows, LENGTH))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(tiny.BF16):
        hidden = model.transformer(ids)
    casts = 2 * memory.matrix_parameters(shape) * shape.n_layer  # autocast's copies of weights count as weights
    planned = scale.activation_bytes(shape, rows, LENGTH) - 2 * rows * LENGTH * shape.vocab_size  # and of no logits
    assert 0.6 < planned / (sum(kept.values()) - casts) < 1.4
    losses.next_token(model, tiny_batch(ids))["loss"].backward()
    assert hidden.shape[-1] == shape.n_embd


def tiny_batch(ids):
    from llm.data.batches import Batch

    return Batch(ids, ids)


def test_operations_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    model = GPT(replace(SHAPE, attention="eager"))
    ids = torch.randint(SHAPE.vocab_size, (ROWS, LENGTH))
    with FlopCounterMode(display=False) as counter:
        losses.next_token(model, tiny_batch(ids))["loss"].backward()
    assert counter.get_total_flops() == pytest.approx(BOTH * forward(SHAPE, LENGTH) * ROWS * LENGTH, rel=0.02)


def test_published_sizes():
    sizes = {name: memory.parameters(scale.model(name, 1024)) for name in scale.MODELS}
    assert sizes == {
        "124M": 124_439_808,
        "355M": 354_823_168,
        "774M": 774_030_080,
        "1558M": 1_557_611_200,
        "7B": 6_738_415_616,  # Llama 2
    }


def test_more_ranks_share_the_state_and_shorten_the_step():
    config = scale.model("7B", 1024)
    alone, eight, many = (scale.plan(config, "fsdp", ranks, GPUS["h100"], GIVEN) for ranks in (1, 8, 64))
    assert not alone.fits
    assert eight.memory.state == pytest.approx(16 * memory.parameters(config) / 8, rel=1e-6)
    assert many.step < eight.step
    assert many.busy < eight.busy  # messages between machines are slower
    assert eight.hours * 8 < many.hours * 64


def test_an_update_has_at_least_a_row_for_each_rank():
    assert not scale.plan(scale.model("124M", 1024), "fsdp", 1024, GPUS["h100"], GIVEN).fits


@pytest.mark.parametrize("gpu", GPUS)
def test_every_row_fits_into_100_columns(gpu, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    main(["plan", "--ranks", "1", "512", "--gpu", gpu])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert all(f"\n{name} " in out for name in scale.MODELS)
    assert f"{GPUS[gpu].memory / 1e9:.0f} GB" in out


def test_unknown_names_are_all_told(capsys):
    with pytest.raises(SystemExit) as end:
        main(["plan", "--ranks", "8", "--gpu", "h1000", "--model", "124", "7B"])
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert "did you mean 124M?" in err
    assert "did you mean h100?" in err
