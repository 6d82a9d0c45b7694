"""The tiny configs of the tests; a test changes them with `dataclasses.replace`."""

from dataclasses import replace
from typing import Any

from llm.data.spam import SpamConfig
from llm.model.config import ModelConfig
from llm.model.parts import FAMILIES, Family
from llm.reason.config import RolloutConfig
from llm.runtime.device import RuntimeConfig
from llm.train.config import TrainConfig

FP32 = RuntimeConfig(precision="fp32", device="cpu", threads=1, keep_pages=False, fused_loss=True)
BF16 = replace(FP32, precision="bf16")

MODEL = ModelConfig(
    family="gpt2",
    vocab_size=300,
    context_length=16,
    n_layer=2,
    n_head=2,
    n_kv_head=None,
    n_embd=8,
    dropout=0.0,
    dropout_embedding=None,
    dropout_attention=None,
    qkv_bias=True,
    tie_head=True,
    init="gpt2",
    attention="sdpa",
    dropout_random="each",
)


def of_family(family: Family, **changes: Any) -> ModelConfig:
    """A tiny model of another family, with heads of keys and values for two queries each."""
    shape: dict[str, Any] = {"n_embd": 24, "n_head": 4, "n_kv_head": 2, "n_layer": 3, "qkv_bias": family == "qwen2"}
    return replace(MODEL, family=family, parts=FAMILIES[family], **(shape | changes))


TRAIN = TrainConfig(
    epochs=2,
    batch_size=6,
    micro_batch_size=None,
    eval_every=3,
    eval_batches=None,
    save_every=None,
    keep="last",
    patience=None,
    lr=0.01,
    schedule="cosine",
    warmup_steps=2,
    warmup_from=0.0,
    decay_to=0.1,
    weight_decay=0.1,
    weight_decay_on="matrices",
    beta2=0.95,
    clip_norm=1.0,
)

REWARDS = RolloutConfig(
    advantage="std",
    average="tokens",
    updates=1,
    clip=(0.2, 0.2),
    kl=0.0,
    group=4,
    problems_at_once=2,
    temperature=1.0,
    max_new_tokens=4,
    format_reward=0.0,
)

MESSAGES = SpamConfig(  # everything is guessed
    format="guess",
    reading="strict",
    delimiter=None,
    header=None,
    text_column=None,
    label_column=None,
    encoding=None,
    labels=None,
    balance="undersample",
    order="file",
    train_fraction=0.5,
    validation_fraction=0.25,
)
