"""Sections 5.4 and 5.5: model folders, and GPT-2's published checkpoint layouts."""
