"""Instructions: read and split them, format them as prompts (section 7.2), collate them with the mask (7.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from llm.batches import IGNORED, Batch
from llm.errors import DATA, UserError
from llm.files import read_json
from llm.lora import LoraConfig, check_together
from llm.optim import TrainConfig
from llm.params import Problem, fraction, positive
from llm.tokenizer import Tokenizer

KEYS = ("instruction", "input", "output")
SPLITS = ("train", "test", "validation")  # the order in which the book cuts the file
Entry = dict[str, str]

PromptForm = Literal["alpaca", "phi3"]  # of section 7.2 | of exercise 7.1

PREAMBLE = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
RESPONSE = "\n\n### Response:\n"  # stands between the prompt and the answer
HEADERS: dict[PromptForm, str] = {"alpaca": RESPONSE, "phi3": "\n<|assistant|>:\n"}


@dataclass(frozen=True)
class InstructionsConfig:
    """How the file is cut, in its own order."""

    train_fraction: float
    test_fraction: float  # the rest is the validation split
    empty: Literal["refuse", "skip"]  # entries without an instruction or an output: an error, or left out and counted

    def problems(self) -> Iterator[Problem]:
        """What is wrong with these values together."""
        yield from fraction(self, "train_fraction", "test_fraction", zero=False)
        if self.train_fraction + self.test_fraction >= 1:
            total = self.train_fraction + self.test_fraction
            yield "test_fraction", f"with train_fraction it makes {total:g}", "leave something for the validation"


@dataclass(frozen=True, kw_only=True)
class FinetuneInstructConfig(TrainConfig):
    """What is fine-tuned, and on which targets."""

    init_from: str  # a model folder: shape, tokenizer, and the weights to start from
    weights: Literal["pretrained", "random"]  # random: only its shape and tokenizer are used
    trainable: Literal["all", "lora"]
    lora: LoraConfig | None  # with trainable lora
    prompt: PromptForm
    mask_prompt: bool  # train on the answers alone (exercise 7.2)
    bucket_batches: int | None  # so many batches' examples at a time are sorted by length; null: none are
    dropout: float

    def problems(self) -> Iterator[Problem]:
        """What is wrong with these values together."""
        yield from super().problems()
        yield from positive(self, "bucket_batches")
        yield from fraction(self, "dropout")
        yield from check_together(self.trainable, self.lora)


def read_entries(path: Path, skip_empty: bool = False) -> list[Entry]:
    """Entries of a JSON list of objects with texts under `instruction`, `input`, `output`.

    Raises UserError naming the entry, counted from 1: not a list, a missing or foreign key, a value that is no text,
    and an empty instruction or output unless `skip_empty` leaves such entries out.
    """
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        what = "is an empty list" if entries == [] else f"holds {type(entries).__name__}, not a list of entries"
        raise UserError(str(path), what, "write [{...}, ...]", DATA)
    kept = []
    for number, entry in enumerate(entries, start=1):
        where = f"{path}: entry {number}"
        _check_entry(entry, where)
        empty = [key for key in ("instruction", "output") if not entry[key].strip()]
        if empty and not skip_empty:
            fix = "write it, remove the entry, or set tokenize.instructions.empty to skip"
            raise UserError(where, f"{empty[0]} is empty", fix, DATA)
        if not empty:
            kept.append(entry)
    if not kept:
        raise UserError(str(path), f"all {len(entries)} entries are empty", "bring some that are not", DATA)
    return kept


def split_entries(entries: Sequence[Entry], config: InstructionsConfig) -> dict[str, list[Entry]]:
    """Train, test and validation parts, in file order (section 7.2); raises UserError where one is empty."""
    train = int(len(entries) * config.train_fraction)
    test = train + int(len(entries) * config.test_fraction)
    parts = {"train": list(entries[:train]), "test": list(entries[train:test]), "validation": list(entries[test:])}
    for split, part in parts.items():
        if not part:
            what = f"no entry is left for it of {len(entries)}"
            raise UserError(f"the {split} split", what, "bring more entries, or change tokenize.instructions")
    return parts


def format_prompt(entry: Mapping[str, str], form: PromptForm = "alpaca") -> str:
    """The prompt up to, and without, the header of the answer in HEADERS (section 7.2, exercise 7.1)."""
    if form == "phi3":
        return f"<|user|>\n{entry['instruction']}" + (f"\n{entry['input']}" if entry["input"] else "")
    text = f"{PREAMBLE}\n\n### Instruction:\n{entry['instruction']}"
    return text + f"\n\n### Input:\n{entry['input']}" if entry["input"] else text


def question(entry: Mapping[str, str]) -> str:
    """Instruction and input: what two entries must share to ask for the same."""
    return f"{entry['instruction']}\n{entry['input']}"


def prompt_form(folder: Path | str) -> PromptForm:
    """The form of the prompts that the model in `folder` was taught with: Alpaca's where config.json names none."""
    where = Path(folder) / "config.json"
    form: PromptForm = read_json(where).get("prompt", "alpaca")
    if form not in get_args(PromptForm):
        fix = f"write {' or '.join(get_args(PromptForm))}, or take a folder of finetune_instruct"
        raise UserError(str(where), f"prompt is {form!r:.40}, which is no form of ours", fix, DATA)
    return form


def extract_answer(generated: str, form: PromptForm = "alpaca") -> str:
    """The answer in a generated text: without its header and the white space around it."""
    return generated.replace(HEADERS[form].strip(), "").strip()


class InstructionDataset:
    """Prompts with their answers, as next-token targets.

    An answer ends with <|endoftext|>; rows of a batch are padded with it to the longest. Padding does not count,
    nor does the prompt where `mask_prompt` is set (exercise 7.2). Rows are cut at `limit` tokens; raises
    UserError, naming the entry of `name`, where that leaves nothing of an answer.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        tokenizer: Tokenizer,
        limit: int,
        mask_prompt: bool,
        form: PromptForm = "alpaca",
        name: str = "instructions",
    ) -> None:
        self.pad, self.limit = tokenizer.eot, limit
        prompts = [format_prompt(entry, form) + HEADERS[form] for entry in entries]
        self.ids = tokenizer.encode_all([p + e["output"] for p, e in zip(prompts, entries, strict=True)])
        starts = [len(ids) for ids in tokenizer.encode_all(prompts)]
        for number, start in enumerate(starts):
            if start > limit:
                text = entries[number]["instruction"]
                what = f"its prompt alone takes {start} tokens of a context of {limit}: {text!r:.60}"
                where = f"{name}: entry {number + 1}"
                raise UserError(where, what, "shorten it, or take a model with a longer context", DATA)
        self.masked = [start - 1 if mask_prompt else 0 for start in starts]  # targets are one token on

    def __len__(self) -> int:
        """How many entries there are."""
        return len(self.ids)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row without padding: a batch is as wide as the longest of its own."""
        return [min(len(ids), self.limit) for ids in self.ids]

    @property
    def longest(self) -> int:
        """Tokens of the widest row there can be."""
        return max(self.lengths, default=0)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The entries of these numbers as (B, T) inputs and targets."""
        width = max(len(self.ids[i]) for i in indices) + 1
        inputs = torch.full((len(indices), width), self.pad)
        targets = torch.full((len(indices), width), IGNORED)
        for row, i in enumerate(indices):
            ids = torch.tensor([*self.ids[i], self.pad])
            inputs[row, : len(ids)] = ids
            targets[row, : len(ids) - 1] = ids[1:]
            targets[row, : self.masked[i]] = IGNORED
        width = min(width - 1, self.limit)
        return Batch(inputs[:, :width].contiguous(), targets[:, :width].contiguous())


def _check_entry(entry: Any, where: str) -> None:
    fix = f"give each entry the keys {', '.join(KEYS)}"
    if not isinstance(entry, Mapping):
        raise UserError(where, f"is {entry!r:.40}, not an object", fix, DATA)
    for key in KEYS:
        if key not in entry:
            raise UserError(where, f"missing {key!r}", fix, DATA)
        if not isinstance(entry[key], str):
            raise UserError(where, f"{key} is {entry[key]!r:.40}, not a text", "write a text in quotes", DATA)
        if any("\ud800" <= letter <= "\udfff" for letter in entry[key]):
            raise UserError(where, f"{key} holds a lone surrogate", "write the character itself", DATA)
    foreign = sorted(set(entry) - set(KEYS))
    if foreign:
        raise UserError(where, f"unknown key {foreign[0]!r}", fix, DATA)
