"""Chapter 7: the instructions, their splits, and the loss of 355M before training."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader

from llm.book import ch05
from llm.book.measures.common import Measured, measure
from llm.book.measures.sources import Sources
from llm.data.instruction_dataset import InstructionDataset
from llm.data.instructions import split_entries

TRAIN, TEST = 0.85, 0.1  # fractions of the entries


@measure
def instruction_counts(sources: Sources) -> Measured:
    """Entries for training, test and validation, and entries without an input."""
    entries = sources.entries
    parts = split_entries(entries, TRAIN, TEST)
    return [*(len(parts[split]) for split in ("train", "test", "validation")), sum(not e["input"] for e in entries)]


@measure
def instruct_before(sources: Sources) -> Measured:
    """Loss of GPT-2 355M on 5 training and 5 validation batches of 8, before training (section 7.6)."""
    model, parts, losses = sources.model("gpt2-355M"), split_entries(sources.entries, TRAIN, TEST), []
    torch.manual_seed(123)
    for split in ("train", "validation"):
        data, training = InstructionDataset(parts[split], sources.gpt2, 1024, mask_prompt=False), split == "train"
        numbers: Any = range(len(data))
        loader: DataLoader[Any] = DataLoader(numbers, 8, training, drop_last=training, collate_fn=data.batch)
        with torch.no_grad():
            losses.append(ch05.calc_loss_loader(((b.inputs, b.targets) for b in loader), model, num_batches=5))
    return losses
