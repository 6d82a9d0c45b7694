"""Continuous batching, `llm serve` and the conversation of `llm chat`."""
