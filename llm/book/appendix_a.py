"""Appendix A: tensors, a gradient by hand and by autograd, a small network, data loaders, a training loop."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

# Two classes of points in the plane (section A.6).
TRAIN_X = ((-1.2, 3.1), (-0.9, 2.9), (-0.5, 2.6), (2.3, -1.1), (2.7, -1.5))
TRAIN_Y = (0, 0, 0, 1, 1)
TEST_X, TEST_Y = ((-0.8, 2.8), (2.6, -1.6)), (0, 1)


def tensor_steps() -> dict[str, Tensor]:
    """A matrix of Python's numbers, in another shape, turned over, and times what it is turned over (section A.2)."""
    matrix = torch.tensor([[1, 2, 3], [4, 5, 6]])
    return {"matrix": matrix, "reshaped": matrix.reshape(3, 2), "turned": matrix.T, "product": matrix @ matrix.T}


def logistic_example() -> tuple[float, float, float]:
    """Loss and its gradients for weight and bias of one logistic unit: x 1.1, w 2.2, b 0, y 1 (sections A.3, A.4)."""
    x, y = torch.tensor([1.1]), torch.tensor([1.0])
    w, b = torch.tensor([2.2], requires_grad=True), torch.tensor([0.0], requires_grad=True)
    loss = F.binary_cross_entropy(torch.sigmoid(x * w + b), y)
    by_w, by_b = torch.autograd.grad(loss, (w, b))
    return loss.item(), by_w.item(), by_b.item()


class NeuralNetwork(nn.Module):
    """Two hidden layers of 30 and 20 units with ReLU (section A.5)."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_inputs, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, n_outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_inputs) -> logits (B, n_outputs)."""
        return self.layers(x)  # type: ignore[no-any-return]


class ToyDataset(Dataset[tuple[Tensor, Tensor]]):
    """Points with their classes (section A.6)."""

    def __init__(self, points: tuple[tuple[float, float], ...], classes: tuple[int, ...]) -> None:
        self.points, self.classes = torch.tensor(points), torch.tensor(classes)

    def __len__(self) -> int:
        """How many points there are."""
        return len(self.classes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """One point (2,) and its class."""
        return self.points[index], self.classes[index]


def toy_loaders() -> tuple[DataLoader[tuple[Tensor, Tensor]], DataLoader[tuple[Tensor, Tensor]]]:
    """Training and test loaders, two points a batch; the odd training point is dropped (section A.6)."""
    return (
        DataLoader(ToyDataset(TRAIN_X, TRAIN_Y), batch_size=2, shuffle=True, drop_last=True),
        DataLoader(ToyDataset(TEST_X, TEST_Y), batch_size=2, shuffle=False),
    )


def train(model: nn.Module, loader: DataLoader[tuple[Tensor, Tensor]], epochs: int, lr: float) -> list[float]:
    """Train with SGD; returns the loss of every batch (section A.7)."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(epochs):
        model.train()
        for points, classes in loader:
            loss = F.cross_entropy(model(points), classes)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
    return losses


@torch.no_grad()
def accuracy(model: nn.Module, loader: DataLoader[tuple[Tensor, Tensor]]) -> float:
    """The share of points classed right, 0 to 1 (section A.7)."""
    model.eval()
    right = [(model(points).argmax(dim=-1) == classes) for points, classes in loader]
    return torch.cat(right).float().mean().item()
