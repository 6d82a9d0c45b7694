"""Chapter 7: the instructions and their splits, and the loss of 355M before training."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader

from llm.book.measures.common import Measured, loss_of, measure
from llm.book.measures.sources import Sources
from llm.data.instruction_dataset import InstructionDataset
from llm.data.instructions import InstructionsConfig, split_entries

INSTRUCTIONS = InstructionsConfig(train_fraction=0.85, test_fraction=0.1, empty="refuse")


@measure
def instruction_counts(sources: Sources) -> Measured:
    """Training, test and validation entries, and how many of all have no input."""
    entries = sources.entries
    parts = split_entries(entries, INSTRUCTIONS)
    return [*(len(parts[split]) for split in ("train", "test", "validation")), sum(not e["input"] for e in entries)]


@measure
def instruct_before(sources: Sources) -> Measured:
    """Loss of GPT-2 355M on five training and five validation batches of 8, before training (section 7.6)."""
    model, parts, losses = sources.model("gpt2-355M"), split_entries(sources.entries, INSTRUCTIONS), []
    torch.manual_seed(123)
    for split in ("train", "validation"):
        data, training = InstructionDataset(parts[split], sources.gpt2, 1024, mask_prompt=False), split == "train"
        loader: DataLoader[Any] = DataLoader(
            range(len(data)),  # type: ignore[arg-type]
            batch_size=8,
            shuffle=training,
            drop_last=training,
            collate_fn=data.batch,
        )
        with torch.no_grad():
            found = [float(loss_of(model, b.inputs, b.targets)) for b, _ in zip(loader, range(5), strict=False)]
        losses.append(sum(found) / len(found))
    return losses
