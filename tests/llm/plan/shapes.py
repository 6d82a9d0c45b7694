"""The small model whose tensors and messages are measured."""

from dataclasses import replace

from tests import tiny

SHAPE = replace(tiny.MODEL, vocab_size=512, context_length=64, n_layer=4, n_head=4, n_embd=64)
ROWS, LENGTH = 4, 64
