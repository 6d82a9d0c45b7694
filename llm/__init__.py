"""A large language model from scratch. A line for each package, in the order of the book:

data        chapter 2, sections 6.2, 6.3, 7.2, 7.3: downloads, tokenizer, splits, datasets, batches
model       chapters 3 and 4, section 6.5, appendix E: attention, GPT, classifier, LoRA, key-value cache
train       chapter 5, appendix D: the training loop, losses, AdamW, resuming
preference  the bonus of chapter 7: pairs of answers, of which one is preferred (DPO)
generate    sections 4.7, 5.3: decoding
reason      appendix F: problems with a verifier, inference-time scaling
serve       continuous batching, `llm serve`, the conversation of `llm chat`
weights     sections 5.4, 5.5: model folders, published checkpoints of GPT-2, Llama, SmolLM and Qwen
evaluate    sections 6.6, 7.8: accuracy, the judge, statistics
book        the book's small steps under its own names, and the ledger of its printed numbers
runtime     device, precision, threads, free memory
tracking    runs in MLflow
common      errors, files, parameters: what all others stand on
compare     two states of the project next to each other, experiments, a run's report as a page
plan        what a run would do and take: stages, minutes, memory, GPUs
cli         `python -m llm`

A package imports from lower layers only; docs/architecture.md lists the layers.
"""
