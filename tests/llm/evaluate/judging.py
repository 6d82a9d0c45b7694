"""A judge's settings and answers, for the tests of the judge."""

from __future__ import annotations

from collections.abc import Mapping

from llm.evaluate.judge_config import JudgeConfig

CONFIG = JudgeConfig(
    backend="ollama",
    prompt="book",
    reply="strict",
    structured=False,
    think=None,
    reasoning_effort=None,
    model="llama3",
    url="http://127.0.0.1:11434",
    seed=123,
    temperature=0.0,
    num_ctx=2048,
    timeout_seconds=30.0,
    retries=1,
    max_failed=1000,
    min_coverage=0.9,
)
ENTRY = {
    "instruction": "Rewrite the sentence using a simile.",
    "input": "The car is very fast.",
    "output": "The car is as fast as lightning.",
    "model_response": "The car is as fast as a bullet.",
}


def alpaca(entry: Mapping[str, str]) -> str:
    text = f"\n\n### Input:\n{entry['input']}" if entry["input"] else ""
    return f"Below is an instruction.\n\n### Instruction:\n{entry['instruction']}{text}"


def entries(n: int) -> list[dict[str, str]]:
    return [{**ENTRY, "model_response": f"Answer number {i}."} for i in range(n)]
