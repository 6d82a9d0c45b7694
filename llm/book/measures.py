"""How each number of the ledger is measured: functions by name, each a list of numbers or a text."""

from __future__ import annotations

import copy
import csv
import hashlib
import io
import math
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader

from llm import checkpoint, files
from llm.batches import steps_per_epoch
from llm.book import attention, basics, demos, text
from llm.book.runs import MADE, Run
from llm.book_mode import fit_as_the_book
from llm.classifier import Classifier
from llm.errors import DATA, UserError
from llm.generate import DecodingConfig, generate
from llm.instructions import Entry, InstructionDataset, InstructionsConfig, read_entries, split_entries
from llm.lora import LoraConfig, add_lora
from llm.losses import next_token
from llm.model import GPT, Block, count_parameters
from llm.optim import TrainConfig
from llm.resume import GoesOn
from llm.runtime import RuntimeConfig
from llm.spam import LABELS, SpamConfig, SpamDataset, balanced_splits, read_messages
from llm.tokenizer import Tokenizer
from llm.tokens import Pins, TokenWindows, encode_documents, split_documents, write_shards
from llm.train import Silent

PINS = "configs/book-offline.yaml"  # names, addresses and hashes of the book's files
FETCH = f"set LLM_MIRROR to a folder with the book's files, or `python -m llm use {PINS} && dvc repro`"
SPAM = SpamConfig(reading="book", order="shuffled", train_fraction=0.7, validation_fraction=0.1)
INSTRUCTIONS = InstructionsConfig(train_fraction=0.85, test_fraction=0.1, empty="refuse")
LORA = LoraConfig(rank=16, alpha=16, scaling="alpha/rank")

# Section 5.2's settings, for one epoch.
ONE_EPOCH = TrainConfig(
    epochs=1,
    batch_size=2,
    micro_batch_size=None,
    eval_every=5,
    eval_batches=5,
    save_every=None,
    lr=0.0004,
    schedule="constant",
    warmup_steps=0,
    warmup_from=0.0,
    decay_to=0.0,
    weight_decay=0.1,
    weight_decay_on="all",
    beta2=0.999,
    clip_norm=None,
    keep="last",
    patience=None,
)

Measured = list[float] | str
MEASURES: dict[str, Callable[..., Measured]] = {}


def measure(function: Callable[..., Measured]) -> Callable[..., Measured]:
    """Register a measure under its name; it takes the sources and the row's `args`, all texts."""
    MEASURES[function.__name__] = function
    return function


class Sources:
    """Where measures read: the book's files, finished runs, models, and GPT-2 before training."""

    def __init__(self, root: Path, runs: dict[str, Run]) -> None:
        self.home, self.root, self.runs = root, root, runs  # root: below which reports and models are read

    def missing(self, need: str) -> str | None:
        """Why a row with this need cannot be measured here, and what to do; None where it can."""
        kind, _, name = need.partition(" ")
        if kind == "mirror":
            absent = [file for file in ("the-verdict.txt", "vocab.json", "merges.txt") if self._find(file) is None]
            absent += [f for f in ("SMSSpamCollection", "instruction-data.json") if self._find(f) is None]
            return f"{absent[0]} is not here; {FETCH}" if absent else None
        if kind == "run":
            reason = self.runs[name].missing(self.root, self.home)
            made = reason and self.runs[name].missing(self.home / MADE / name, self.home) is None
            return f"{reason}; `python -m llm verify --run {name}`" if reason and not made else None
        if kind == "model":
            there = (self.root / "models" / name / "model.safetensors").is_file()
            return None if there else f"models/{name} is not here; {_get_model(name)}"
        assert need == "nothing", need
        return None

    def of_run(self, name: str) -> Sources:
        """The same with the reports and models of a run: the project's own, or those of the copy that made it."""
        made = self.home / MADE / name
        if self.runs[name].missing(self.root, self.home) is None or self.runs[name].missing(made, self.home):
            return self
        sources = copy.copy(self)
        sources.root = made
        return sources

    def file(self, name: str) -> bytes:
        """The bytes of one of the book's files, with the pinned hash."""
        found = self._find(name)
        if found is None:
            raise UserError(name, "is not here, or is another file than the book's", FETCH, DATA)
        return found

    @cached_property
    def verdict(self) -> str:
        """The Verdict."""
        return self.file("the-verdict.txt").decode("utf-8")

    @cached_property
    def gpt2(self) -> Tokenizer:
        """GPT-2's tokenizer."""
        with tempfile.TemporaryDirectory() as folder:
            for name in ("vocab.json", "merges.txt"):
                (Path(folder) / name).write_bytes(self.file(name))
            return Tokenizer.load(folder)

    @cached_property
    def spam(self) -> dict[str, Any]:
        """The SMS file as the book reads it, and its three splits."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "SMSSpamCollection"
            path.write_bytes(self.file(path.name))
            frame = read_messages(path, "book")
        return {"all": frame, **balanced_splits(frame, SPAM, seed=123)}

    @cached_property
    def entries(self) -> list[Entry]:
        """The 1,100 instructions."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "instruction-data.json"
            path.write_bytes(self.file(path.name))
            return read_entries(path)

    @lru_cache(maxsize=1)  # noqa: B019 - one Sources lives for one command
    def untrained(self, context_length: int) -> GPT:
        """GPT-2 124M at seed 123, before training."""
        torch.manual_seed(123)
        return demos.book_gpt("124M", context_length).eval()

    @lru_cache(maxsize=1)  # noqa: B019
    def model(self, name: str) -> GPT:
        """A model folder below models/."""
        return checkpoint.load_model(self.root / "models" / name).eval()

    def _find(self, name: str) -> bytes | None:
        if name not in self._found:
            self._found[name] = self._look_for(name)
        return self._found[name]

    @cached_property
    def _found(self) -> dict[str, bytes | None]:
        return {}

    def _look_for(self, name: str) -> bytes | None:
        """A file from LLM_MIRROR or data/raw; one with another hash, such as the sample's, is not it."""
        downloads = yaml.safe_load(files.read_text(self.home / PINS))["download"]
        item, pin = next((i, f) for i, section in downloads.items() for f in section["files"] if f["name"] == name)
        candidates: list[Path] = [self.root / "data/raw" / item / name]
        if "LLM_MIRROR" in os.environ:
            candidates.insert(0, Path(os.environ["LLM_MIRROR"]) / pin["url"].rsplit("/", 1)[-1])
        for path in candidates:
            if not path.is_file():
                continue
            data: bytes = path.read_bytes()
            if path.suffix == ".zip":
                with zipfile.ZipFile(io.BytesIO(data)) as archive:
                    data = archive.read(str(pin["member"]))
            if hashlib.sha256(data).hexdigest() == pin["sha256"]:
                return data
        return None


def _get_model(name: str) -> str:
    profiles = {"355M": "gpt2-medium", "774M": "gpt2-large", "1558M": "gpt2-xl"}
    profile = profiles.get(name.removeprefix("gpt2-"), "book")
    return f"`python -m llm use configs/{profile}.yaml && python -m llm pin && dvc repro import_gpt2@{name}`"


# --- chapter 2 ---


@measure
def verdict_length(sources: Sources) -> Measured:
    """Characters and GPT-2 tokens of The Verdict."""
    return [len(sources.verdict), len(sources.gpt2.encode(sources.verdict))]


@measure
def verdict_words(sources: Sources) -> Measured:
    """Tokens of the regex tokenizer, its vocabulary, and that with two special tokens."""
    tokens = text.words(sources.verdict)
    extended = text.vocabulary(tokens, [text.END_OF_TEXT, text.UNKNOWN])
    return [len(tokens), len(text.vocabulary(tokens)), len(extended)]


@measure
def verdict_batches(sources: Sources) -> Measured:
    """Tokens in batches of 2 x 256 for training and validation, and how many batches (the core's windows)."""
    with _verdict_windows(sources) as windows:
        batches = [steps_per_epoch(len(windows[split]), 2) for split in ("train", "val")]
    return [*(512 * count for count in batches), *batches]


@measure
def encode(sources: Sources, prompt: str) -> Measured:
    """Ids of a text, `<|endoftext|>` in it as one token."""
    ids: list[float] = []
    for number, part in enumerate(prompt.split(text.END_OF_TEXT)):
        ids += ([sources.gpt2.eot] if number else []) + sources.gpt2.encode(part)
    return ids


@measure
def windows(sources: Sources, length: str, stride: str, rows: str, of: str) -> Measured:
    """The first rows of the unshuffled loader, one after the other: of inputs, or of inputs and then targets."""
    ids = sources.gpt2.encode(sources.verdict)
    loader = text.window_loader(ids, 1, int(length), int(stride), shuffle=False)
    batches = [dict(zip(("inputs", "targets"), b, strict=True)) for b, _ in zip(loader, range(int(rows)), strict=False)]
    return [number for part in of.split() for batch in batches for number in batch[part][0].tolist()]


# --- chapter 3 ---


@measure
def simple_attention(_sources: Sources) -> Measured:
    """Scores, weights and context of the second word."""
    parts = attention.simple_attention(torch.tensor(attention.INPUTS))
    return [value for part in parts for value in part[1].tolist()]


@measure
def attention_rows(_sources: Sources, step: str, seed: str) -> Measured:
    """All outputs of one step of the ladder for the six words, row after row."""
    x = torch.tensor(attention.INPUTS)
    torch.manual_seed(int(seed))
    steps: dict[str, Callable[[], nn.Module]] = {
        "v1": lambda: attention.SelfAttentionV1(3, 2),
        "v2": lambda: attention.SelfAttentionV2(3, 2),
        "causal": lambda: attention.CausalAttention(3, 2),
        "wrapper": lambda: attention.MultiHeadWrapper(3, 2, 2),
        "heads": lambda: attention.MultiHeadAttention(3, 2, 2),
    }
    out: Tensor = steps[step]()(x if step in ("v1", "v2") else torch.stack([x, x]))
    return out.flatten(0, -2)[:6].flatten().tolist()


# --- chapter 4 ---


@measure
def parameters(_sources: Sources, size: str, head: str) -> Measured:
    """Parameters of a GPT-2 size: head untied (no QKV bias), tied (with it), or none (untied, without the head)."""
    with torch.device("meta"):
        model = demos.book_gpt(size, qkv_bias=head == "tied", tie_head=head == "tied")
    return [count_parameters(model) - (model.lm_head.weight.numel() if head == "none" else 0)]


@measure
def mebibytes(_sources: Sources, size: str) -> Measured:
    """MiB of the weights in fp32, head untied."""
    with torch.device("meta"):
        model = demos.book_gpt(size)
    return [sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20]


@measure
def block_parameters(_sources: Sources) -> Measured:
    """Feed forward and attention of one block of 124M."""
    with torch.device("meta"):
        block: Block = demos.book_gpt("124M").transformer.h[0]  # type: ignore[assignment]
    return [count_parameters(block.mlp), count_parameters(block.attn)]


@measure
def flops(_sources: Sources, size: str) -> Measured:
    """Operations of a forward pass of 2 x 1024 tokens, as printed: two digits."""
    return f"{demos.forward_flops(size):.1e}"


@measure
def layer_norm(_sources: Sources) -> Measured:
    """Means and variances of two rows before the norm, then after it."""
    return [v for part in demos.layer_norm_demo() for v in (*part.mean(dim=-1).tolist(), *part.var(dim=-1).tolist())]


@measure
def gradients(_sources: Sources, shortcuts: str) -> Measured:
    """Mean gradients of five layers."""
    return list(demos.mean_gradients(shortcuts == "yes"))


@measure
def untrained_text(sources: Sources, prompt: str, tokens: str, context: str) -> Measured:
    """Greedy continuation by the untrained 124M."""
    return _continue(sources.untrained(int(context)), sources.gpt2, prompt, int(tokens), 0.0, None)


# --- chapter 5 ---


@measure
def toy_loss(sources: Sources) -> Measured:
    """Cross-entropy of six tokens and its perplexity."""
    _, loss = demos.toy_loss(sources.untrained(256))
    return [loss, math.exp(loss)]


@measure
def toy_probabilities(sources: Sources) -> Measured:
    """Log probabilities of the six target tokens."""
    return [math.log(p) for p in demos.toy_loss(sources.untrained(256))[0]]


@measure
def verdict_losses(sources: Sources, model: str) -> Measured:
    """Loss on the training and validation windows of The Verdict; `model` untrained or a folder below models/."""
    gpt = sources.untrained(256) if model == "untrained" else sources.model(model)
    torch.manual_seed(123)
    cut = int(0.9 * len(sources.verdict))
    losses = []
    for part, training in ((sources.verdict[:cut], True), (sources.verdict[cut:], False)):
        ids = sources.gpt2.encode(part)
        losses.append(_mean_loss(gpt, text.window_loader(ids, 2, 256, 256, shuffle=training, drop_last=training)))
    return losses


@measure
def another_epoch(sources: Sources) -> Measured:
    """Losses of an epoch after those of chapter 5, from model and optimizer as they were saved (exercise 5.4)."""
    folder = sources.root / "models/pretrain"
    model = demos.book_gpt("124M", 256)
    model.load_state_dict(checkpoint.load_model(folder).state_dict())
    with _verdict_windows(sources) as windows:
        torch.manual_seed(123)
        runtime = RuntimeConfig("fp32", "cpu", threads=torch.get_num_threads(), keep_pages=False)
        data = (windows["train"], windows["val"], ONE_EPOCH, runtime, 123, Silent())
        start = GoesOn(folder / "optimizer.safetensors")
        history, _ = fit_as_the_book(model, next_token, *data, sample=str, states=start)
    rows = {row["step"]: row for row in history.rows}
    return [rows[step][column] for step in (0, 5) for column in ("train_loss", "val_loss")]


@measure
def draws(_sources: Sources, temperature: str) -> Measured:
    """How often each of nine words comes in 1000 draws."""
    return [*demos.draw_counts(float(temperature))]


@measure
def pizza(_sources: Sources, temperature: str) -> Measured:
    """Draws of "pizza" in 1000 (exercise 5.1)."""
    return [demos.draw_counts(float(temperature))[demos.WORDS.index("pizza")]]


@measure
def pizza_probability(_sources: Sources, temperature: str) -> Measured:
    """The exact probability of "pizza" (exercise 5.1)."""
    probabilities = demos.with_temperature(torch.tensor(demos.LOGITS), float(temperature))
    return [float(probabilities[demos.WORDS.index("pizza")])]


@measure
def continuation(sources: Sources, model: str, prompt: str, tokens: str, temperature: str, top_k: str) -> Measured:
    """A model's continuation of a prompt; temperature 0 is greedy, else at seed 123."""
    gpt = sources.model(model)
    k = int(top_k) if top_k != "none" else None
    return _continue(gpt, sources.gpt2, prompt, int(tokens), float(temperature), k)


# --- reports of runs ---


@measure
def curve(sources: Sources, file: str, column: str, steps: str) -> Measured:
    """A column of a report at these steps; `last` is the last row, `best` the lowest value of all rows."""
    rows = list(csv.DictReader(io.StringIO(files.read_text(sources.root / "reports" / file))))
    at = {row["step"]: float(row[column]) for row in rows}
    at["last"], at["best"] = float(rows[-1][column]), min(at.values())
    absent = [step for step in steps.split() if step not in at]
    if absent:
        raise UserError(f"reports/{file}", f"has no row of step {absent[0]}", "set eval_every as the book", DATA)
    return [at[step] for step in steps.split()]


@measure
def metric(sources: Sources, file: str, keys: str, times: str) -> Measured:
    """Figures of a metrics file, multiplied."""
    values = files.read_json(sources.root / "reports" / file)
    return [float(values[key]) * float(times) for key in keys.split()]


@measure
def first_answers(sources: Sources, number: str) -> Measured:
    """One of the first answers of the fine-tuned model."""
    return str(files.read_json(sources.root / "reports/respond/responses.json")[int(number)]["model_response"])


# --- chapter 6, appendix E ---


@measure
def spam_counts(sources: Sources) -> Measured:
    """Rows, ham, spam; training, validation, test; batches of 8; tokens of the longest training message."""
    frame = sources.spam["all"]
    parts = [sources.spam[split] for split in ("train", "validation", "test")]
    classes = [int((frame["Label"] == label).sum()) for label in LABELS]
    batches = [len(parts[0]) // 8, *(math.ceil(len(part) / 8) for part in parts[1:])]
    longest = max(len(sources.gpt2.encode(message)) for message in parts[0]["Text"])
    return [len(frame), *classes, *(len(part) for part in parts), *batches, longest]


@measure
def spam_first_rows(sources: Sources) -> Measured:
    """Row numbers of the first five messages of the balanced sample, before it is shuffled: ham as pandas draws it."""
    frame = sources.spam["all"]
    ham = frame[frame["Label"] == "ham"].sample(int((frame["Label"] == "spam").sum()), random_state=123)
    kept = {row for split in ("train", "validation", "test") for row in sources.spam[split].index}
    assert set(ham.index) <= kept  # these are the rows that our splits hold
    return [int(row) for row in ham.index[:5]]


@measure
def lora_counts(_sources: Sources, of: str) -> Measured:
    """Trainable parameters before, when frozen, and with LoRA: of the spam classifier on 124M, or of 355M untied."""
    with torch.device("meta"):
        if of == "spam":
            model: nn.Module = Classifier(demos.book_gpt("124M", qkv_bias=True, tie_head=True), 2, "last")
        else:
            model = demos.book_gpt("355M", qkv_bias=True)
    before = count_parameters(model, trainable_only=True)
    frozen = count_parameters(model.requires_grad_(False), trainable_only=True)
    add_lora(model, LORA, seed=123)
    return [before, frozen, count_parameters(model, trainable_only=True)]


@measure
def untrained_head(sources: Sources) -> Measured:
    """Logits of the new head at the last token of "Do you have time"."""
    model = _spam_classifier(sources)
    with torch.no_grad():
        return model(torch.tensor([sources.gpt2.encode("Do you have time")]))[0].tolist()  # type: ignore[no-any-return]


@measure
def spam_before(sources: Sources) -> Measured:
    """Accuracy (%) on 10 batches of each split, then the loss on 5, before training (sections 6.6 and 6.7)."""
    model, pad, width = _spam_classifier(sources), sources.gpt2.eot, 0
    loaders: list[DataLoader[Any]] = []
    for split in ("train", "validation", "test"):
        part = sources.spam[split]
        data = SpamDataset([LABELS.index(label) for label in part["Label"]], list(part["Text"]), sources.gpt2, 1024)
        width = width or data.longest
        rows = [(torch.tensor((i + [pad] * width)[:width]), c) for i, c in zip(data.ids, data.labels, strict=True)]
        training = split == "train"
        loaders.append(DataLoader(rows, batch_size=8, shuffle=training, drop_last=training))  # type: ignore[arg-type]
    found: list[float] = []
    torch.manual_seed(123)
    with torch.no_grad():
        for loader in loaders:
            pairs = [(model(x).argmax(-1), y) for (x, y), _ in zip(loader, range(10), strict=False)]
            found.append(
                100 * float((torch.cat([p for p, _ in pairs]) == torch.cat([y for _, y in pairs])).float().mean())
            )
        for loader in loaders:
            losses = [float(F.cross_entropy(model(x), y)) for (x, y), _ in zip(loader, range(5), strict=False)]
            found.append(sum(losses) / len(losses))
    return found


# --- chapter 7, appendices A and D ---


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
            found = [float(_loss(model, b.inputs, b.targets)) for b, _ in zip(loader, range(5), strict=False)]
        losses.append(sum(found) / len(found))
    return losses


@measure
def schedule(sources: Sources) -> Measured:
    """Updates of 15 epochs over The Verdict, and a fifth of them for the warm-up."""
    steps = 15 * int(verdict_batches(sources)[2])
    return [steps, int(0.2 * steps)]


@measure
def tensor_product(_sources: Sources) -> Measured:
    """The matrix of A.2 times itself turned over, row by row."""
    return [float(value) for value in basics.tensor_steps()["product"].flatten()]


@measure
def logistic(_sources: Sources) -> Measured:
    """Loss, gradient of the weight, gradient of the bias."""
    return list(basics.logistic_example())


@measure
def network_parameters(_sources: Sources, inputs: str, outputs: str) -> Measured:
    """Parameters of the network with hidden layers of 30 and 20."""
    return [count_parameters(basics.NeuralNetwork(int(inputs), int(outputs)))]


@measure
def network_outputs(_sources: Sources) -> Measured:
    """Logits, then probabilities, of one random row."""
    torch.manual_seed(123)
    model = basics.NeuralNetwork(50, 3)
    torch.manual_seed(123)
    with torch.no_grad():
        out = model(torch.rand(1, 50))[0]
    return [*out.tolist(), *out.softmax(dim=-1).tolist()]


@measure
def toy_training(_sources: Sources) -> Measured:
    """Losses of six batches, then accuracy on both loaders."""
    torch.manual_seed(123)
    loader, held_out = basics.toy_loaders()
    model = basics.NeuralNetwork(2, 2)
    losses = basics.train(model, loader, epochs=3, lr=0.5)
    return [*losses, basics.accuracy(model, loader), basics.accuracy(model, held_out)]


def _continue(model: GPT, gpt2: Tokenizer, prompt: str, tokens: int, temperature: float, top_k: int | None) -> str:
    ids = gpt2.encode(prompt)
    config = DecodingConfig(max_new_tokens=tokens, temperature=temperature, top_k=top_k, top_p=None)
    return gpt2.decode(ids + generate(model, [ids], config, None, [123])[0])


@torch.no_grad()
def _mean_loss(model: GPT, loader: DataLoader[tuple[Tensor, Tensor]]) -> float:
    losses = [float(_loss(model, x, y)) for x, y in loader]
    return sum(losses) / len(losses)


def _loss(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


@contextmanager
def _verdict_windows(sources: Sources) -> Iterator[dict[str, TokenWindows]]:
    """The windows of 256 tokens that chapter 5 trains and validates on."""
    (train,), (val,) = split_documents([sources.verdict], 0.9)
    with tempfile.TemporaryDirectory() as folder:
        for split, part in (("train", train), ("val", val)):
            ids = encode_documents([part], sources.gpt2)
            write_shards(Path(folder), split, ids, 0, Pins(50257, "gpt2"), 10**9)
        yield {split: TokenWindows(Path(folder), split, 256, 256, 50257) for split in ("train", "val")}


def _spam_classifier(sources: Sources) -> Classifier:
    """GPT-2 124M with the new head of seed 123 (section 6.5)."""
    gpt = sources.model("gpt2-124M")
    torch.manual_seed(123)
    return Classifier(gpt, len(LABELS), "last").eval()
