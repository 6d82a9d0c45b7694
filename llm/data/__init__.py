"""Downloads, tokenizer, splits, datasets and batches (chapter 2 and sections 6.2, 6.3, 7.2, 7.3)."""
