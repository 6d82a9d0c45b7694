"""Accuracy (section 6.6), the judge (section 7.8) and statistics."""
