"""Distillation on the teacher's distributions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llm.data.batches import IGNORED, Batch
from llm.model.gpt import GPT
from llm.reason.soft_targets import soft_targets
from tests import tiny


def model(seed: int, width: int = 8) -> GPT:
    torch.manual_seed(seed)
    return GPT(replace(tiny.MODEL, init="width", n_embd=width))


@pytest.fixture
def batch() -> Batch:
    inputs = torch.randint(300, (3, 7), generator=torch.Generator().manual_seed(1))
    targets = inputs.roll(-1, 1)
    targets[:, :3] = IGNORED
    return Batch(inputs, targets)


def test_loss_is_the_divergence_summed_over_the_targets(batch: Batch) -> None:
    teacher, student = model(1), model(2, 16)
    p, q = (torch.softmax(one(batch.inputs), -1)[:, 3:] for one in (teacher, student))
    expected = (p * (p.log() - q.log())).sum()
    torch.testing.assert_close(soft_targets(teacher)(student, batch)["loss"], expected)
    assert expected > 0.1


def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient(batch: Batch) -> None:
    teacher, student = model(1), model(1)
    loss = soft_targets(teacher)(student, batch)["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-4)
    assert all(p.grad.abs().max() < 1e-4 for p in student.parameters() if p.grad is not None)


def test_the_teacher_is_not_trained(batch: Batch) -> None:
    teacher, student = model(1), model(2)
    soft_targets(teacher)(student, batch)["loss"].backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert any(p.grad is not None for p in student.parameters())
