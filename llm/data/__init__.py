"""Chapter 2 and sections 6.2, 6.3, 7.2, 7.3: raw files, tokenizer, splits, datasets and batches."""
