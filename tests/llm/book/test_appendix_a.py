"""Appendix A: gradients, the small network and its training give the printed numbers."""

import math

import pytest
import torch

from llm.book.appendix_a import (
    NeuralNetwork,
    ToyDataset,
    compute_accuracy,
    logistic_example,
    tensor_steps,
    toy_loaders,
    train,
)
from llm.model.gpt import count_parameters


def test_tensor_steps_as_printed():
    steps = {name: tensor.tolist() for name, tensor in tensor_steps().items()}
    assert steps["reshaped"] == [[1, 2], [3, 4], [5, 6]]
    assert steps["transposed"] == [[1, 4], [2, 5], [3, 6]]
    assert steps["product"] == [[1 + 4 + 9, 4 + 10 + 18], [4 + 10 + 18, 16 + 25 + 36]]


def test_logistic_example_by_hand():
    loss, by_w, by_b = logistic_example()
    assert (round(loss, 4), round(by_w, 4), round(by_b, 4)) == (0.0852, -0.0898, -0.0817)
    p = 1 / (1 + math.exp(-1.1 * 2.2))
    assert (loss, by_w, by_b) == pytest.approx((-math.log(p), (p - 1) * 1.1, p - 1), rel=1e-5)


@pytest.mark.parametrize(("inputs", "outputs", "count"), [(50, 3, 2213), (2, 2, 752)])
def test_parameter_counts(inputs, outputs, count):
    assert count_parameters(NeuralNetwork(inputs, outputs)) == count


def test_outputs_of_the_untrained_network():
    torch.manual_seed(123)
    model = NeuralNetwork(50, 3)
    torch.manual_seed(123)
    out = model(torch.rand(1, 50)).detach()[0]
    assert [round(v, 4) for v in out.tolist()] == [-0.1262, 0.1080, -0.1792]
    assert [round(v, 4) for v in out.softmax(dim=-1).tolist()] == [0.3113, 0.3934, 0.2952]


def test_toy_training_reaches_every_point():
    torch.manual_seed(123)
    train_loader, test_loader = toy_loaders()
    model = NeuralNetwork(2, 2)
    assert compute_accuracy(model, train_loader) < 1  # before training
    losses = train(model, train_loader, epochs=3, lr=0.5)
    assert len(losses) == 6  # the fifth point is dropped
    assert losses[-1] < 0.05
    assert compute_accuracy(model, train_loader) == compute_accuracy(model, test_loader) == 1.0


def test_points_may_be_tensors(recwarn):
    points, classes = torch.tensor([[1.0, 2.0]]), torch.tensor([1])
    assert torch.equal(ToyDataset(points, classes)[0][0], points[0])
    assert not recwarn.list
