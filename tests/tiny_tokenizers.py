"""Small tokenizers with the structure of published ones: patterns, special tokens, missing bytes, chat templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.hard_texts import hard_texts

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST
QWEN = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + REST

CHATML = """{%- for message in messages %}
{%- if loop.first and message.role != 'system' %}{{ '<|im_start|>system\nYou answer briefly.<|im_end|>\n' }}{% endif %}
{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

HEADERS = """{{- bos_token }}
{%- if not date_string is defined %}{% set date_string = "1 Jan 2020" %}{% endif %}
{%- if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}{% set messages = messages[1:] %}
{%- else %}{% set system = '' %}{% endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\nToday is ' + date_string + '\n\n' + system + '<|eot_id|>' }}
{%- for message in messages %}
{%- if message.role not in ['user', 'assistant'] %}{{ raise_exception('no role ' ~ message.role) }}{% endif %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

THINK = """{%- set ns = namespace(last=-1) %}
{%- for message in messages %}
{%- if message.role == 'user' and not message.content.startswith('<tool_call>') %}
    {%- set ns.last = loop.index0 %}
{%- endif %}
{%- endfor %}
{%- for message in messages %}
{%- if message.role == 'assistant' %}
    {%- set content = message.content %}
    {%- set thoughts = '' %}
    {%- if '</think>' in content %}
        {%- set thoughts = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {{- '<|im_start|>assistant\n' }}
    {%- if loop.index0 > ns.last and (loop.last or thoughts) %}
        {{- '<think>\n' + thoughts.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
    {%- else %}
        {{- content }}
    {%- endif %}
    {{- '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}
{%- endif %}"""

FAMILIES = ("smollm2", "llama3", "qwen3")


def make(family: str, folder: Path) -> Path:
    """Write the files of a small tokenizer to `folder`."""
    {"smollm2": _smollm2, "llama3": _llama3, "qwen3": _qwen3}[family](folder)
    return folder


def ordinary(folder: Path) -> Tokenizer:
    """Hugging Face's encoder of a folder, without its added tokens."""
    published = json.loads((folder / "tokenizer.json").read_text())
    return Tokenizer.from_str(json.dumps(published | {"added_tokens": []}))


def _smollm2(folder: Path) -> None:
    """Digits one by one, special tokens first, and no tokens for bytes that the training texts lack."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    steps = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"]
    bpe = _trained(steps, 700, special, alphabet=[])
    bpe.add_special_tokens(special)
    _write(folder, bpe, CHATML, bos="<|im_start|>", eos="<|im_end|>", ends=2)


def _llama3(folder: Path) -> None:
    """Digits in threes, every split of a token as a merge, a token without merges, special tokens last, BOS."""
    bpe = _trained(_split(LLAMA3), 700)
    published = json.loads(bpe.to_str())
    vocab = published["model"]["vocab"]
    vocab["Ġxyzzy"] = len(vocab)
    merges = [
        [token[:cut], token[cut:]]
        for token in sorted(vocab, key=vocab.__getitem__)
        for cut in sorted(range(1, len(token)), key=lambda cut: (vocab.get(token[:cut], 0), vocab.get(token[cut:], 0)))
        if token[:cut] in vocab and token[cut:] in vocab and token != "Ġxyzzy"
    ]
    published["model"] |= {"merges": merges, "ignore_merges": True}
    bpe = Tokenizer.from_str(json.dumps(published))
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    bpe.add_special_tokens(special)
    first = bpe.token_to_id(special[0])
    bos = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="$A $B", special_tokens=[(special[0], first)]
    )
    bpe.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), bos])
    _write(folder, bpe, HEADERS, bos=special[0], eos=special[4], ends=[first + 1, first + 4])


def _qwen3(folder: Path) -> None:
    """NFC, single digits, added tokens that are not special, such as <think>."""
    bpe = _trained(_split(QWEN), 700)
    bpe.normalizer = normalizers.NFC()
    bpe.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    bpe.add_tokens([AddedToken(t, normalized=False) for t in ("<tool_call>", "</tool_call>", "<think>", "</think>")])
    end = bpe.token_to_id("<|endoftext|>")
    _write(folder, bpe, THINK, bos=None, eos="<|im_end|>", ends=[end + 2, end])


def _split(pattern: str) -> Any:
    split = pre_tokenizers.Split(Regex(pattern), "isolated", invert=False)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _trained(steps: Any, size: int, special: list[str] | None = None, alphabet: list[str] | None = None) -> Tokenizer:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = steps, decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet()) if alphabet is None else alphabet
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special or [], initial_alphabet=alphabet, show_progress=False
    )
    texts = [text for text in hard_texts(400, seed=1) if not any("\x00" <= c < "\x09" for c in text)]
    bpe.train_from_iterator(texts * 2 + ["the user asks, the assistant answers " * 5], trainer)
    return bpe


def _write(folder: Path, bpe: Tokenizer, template: str, bos: str | None, eos: str, ends: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    bpe.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos, "pad_token": eos}
    config |= {"chat_template": template} | ({"bos_token": bos} if bos else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
