"""A GPT built from scratch: data, model, training, fine-tuning, judging. See docs/architecture.md for the map."""
