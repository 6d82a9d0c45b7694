"""Appendices: PyTorch (A), the updates of the schedule (D), LoRA's parameters (E)."""

from __future__ import annotations

import torch
from torch import nn

from llm.book import appendix_a, ch04
from llm.book.measures.ch05 import verdict_batches
from llm.book.measures.common import Measured, measure
from llm.book.measures.sources import Sources
from llm.model.classifier import Classifier
from llm.model.gpt import count_parameters
from llm.model.lora import add_lora
from llm.model.meta import on_meta_device
from llm.model.trainable import LoraConfig

LORA = LoraConfig(rank=16, alpha=16, scaling="alpha/rank")


@measure
def tensor_product(_sources: Sources) -> Measured:
    """The matrix of A.2 times its transpose, row by row."""
    return [float(value) for value in appendix_a.tensor_steps()["product"].flatten()]


@measure
def logistic(_sources: Sources) -> Measured:
    """The loss, and the gradients of the weight and the bias."""
    return list(appendix_a.logistic_example())


@measure
def network_parameters(_sources: Sources, inputs: str, outputs: str) -> Measured:
    """Parameters of the small network."""
    return [count_parameters(appendix_a.NeuralNetwork(int(inputs), int(outputs)))]


@measure
def network_outputs(_sources: Sources) -> Measured:
    """Logits, then probabilities, for one random input."""
    torch.manual_seed(123)
    model = appendix_a.NeuralNetwork(50, 3)
    torch.manual_seed(123)
    with torch.no_grad():
        out = model(torch.rand(1, 50))[0]
    return [*out.tolist(), *out.softmax(dim=-1).tolist()]


@measure
def toy_training(_sources: Sources) -> Measured:
    """Losses of six batches, then the accuracy on both loaders."""
    torch.manual_seed(123)
    train_loader, test_loader = appendix_a.toy_loaders()
    model = appendix_a.NeuralNetwork(2, 2)
    losses = appendix_a.train(model, train_loader, epochs=3, lr=0.5)
    return [*losses, *(appendix_a.compute_accuracy(model, loader) for loader in (train_loader, test_loader))]


@measure
def schedule(sources: Sources) -> Measured:
    """Updates in 15 epochs on The Verdict, and the fifth of them that is the warm-up."""
    steps = 15 * int(verdict_batches(sources)[2])
    return [steps, int(0.2 * steps)]


@measure
def lora_counts(_sources: Sources, of: str) -> Measured:
    """Trainable parameters before freezing, after it, and with LoRA; `of` is spam (the classifier on 124M) or 355M."""
    with on_meta_device():
        if of == "spam":
            openai = ch04.GPTModel(ch04.CONFIGS["124M"] | {"qkv_bias": True}, tie_head=True)
            model: nn.Module = Classifier(openai, 2, "last")
        else:
            model = ch04.GPTModel(ch04.CONFIGS["355M"] | {"qkv_bias": True})
    before = count_parameters(model, trainable_only=True)
    frozen = count_parameters(model.requires_grad_(False), trainable_only=True)
    add_lora(model, LORA, seed=123)
    return [before, frozen, count_parameters(model, trainable_only=True)]
