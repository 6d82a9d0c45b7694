"""Sections 4.7 and 5.3: decoding."""
