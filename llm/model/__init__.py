"""Chapters 3 and 4, section 6.5, appendix E: attention, GPT, classifier, LoRA."""
