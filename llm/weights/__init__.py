"""Sections 5.4 and 5.5: model folders, and published checkpoints of GPT-2, Llama, SmolLM and Qwen."""
