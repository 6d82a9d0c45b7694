"""Appendix A: tensors, gradients, a small network, data loaders, a training loop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

# Points in the plane and their classes (section A.6).
X_TRAIN = ((-1.2, 3.1), (-0.9, 2.9), (-0.5, 2.6), (2.3, -1.1), (2.7, -1.5))
Y_TRAIN = (0, 0, 0, 1, 1)
X_TEST, Y_TEST = ((-0.8, 2.8), (2.6, -1.6)), (0, 1)


def tensor_steps() -> dict[str, Tensor]:
    """A 2 x 3 matrix, reshaped, transposed, and multiplied by its transpose (section A.2)."""
    matrix = torch.tensor([[1, 2, 3], [4, 5, 6]])
    return {"matrix": matrix, "reshaped": matrix.reshape(3, 2), "transposed": matrix.T, "product": matrix @ matrix.T}


def logistic_example() -> tuple[float, float, float]:
    """Loss of a logistic unit and its gradients for w and b, with x 1.1, w 2.2, b 0, y 1 (sections A.3, A.4)."""
    x, y = torch.tensor([1.1]), torch.tensor([1.0])
    w, b = torch.tensor([2.2], requires_grad=True), torch.tensor([0.0], requires_grad=True)
    loss = F.binary_cross_entropy(torch.sigmoid(x * w + b), y)
    by_w, by_b = torch.autograd.grad(loss, (w, b))
    return loss.item(), by_w.item(), by_b.item()


class NeuralNetwork(nn.Module):
    """Two hidden layers of 30 and 20 units with ReLU (section A.5)."""

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(num_inputs, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, num_outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, num_inputs) -> logits (B, num_outputs)."""
        return self.layers(x)  # type: ignore[no-any-return]


class ToyDataset(Dataset[tuple[Tensor, Tensor]]):
    """Points (2,) and their classes (section A.6)."""

    def __init__(self, X: Tensor | Sequence[Sequence[float]], y: Tensor | Sequence[int]) -> None:
        self.features, self.labels = torch.as_tensor(X), torch.as_tensor(y)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.features[index], self.labels[index]


def toy_loaders() -> tuple[DataLoader[tuple[Tensor, Tensor]], DataLoader[tuple[Tensor, Tensor]]]:
    """Training and test loaders with batches of two; the fifth training point is dropped (section A.6)."""
    return (
        DataLoader(ToyDataset(X_TRAIN, Y_TRAIN), batch_size=2, shuffle=True, drop_last=True),
        DataLoader(ToyDataset(X_TEST, Y_TEST), batch_size=2, shuffle=False),
    )


def train(model: nn.Module, loader: DataLoader[tuple[Tensor, Tensor]], epochs: int, lr: float) -> list[float]:
    """Train with SGD and return the loss of every batch (section A.7)."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(epochs):
        model.train()
        for features, labels in loader:
            loss = F.cross_entropy(model(features), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
    return losses


@torch.no_grad()
def compute_accuracy(model: nn.Module, dataloader: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Share of correctly classified inputs, from 0 to 1 (section A.7)."""
    model.eval()
    correct = [(model(features).argmax(dim=-1) == labels) for features, labels in dataloader]
    return torch.cat(correct).float().mean().item()
