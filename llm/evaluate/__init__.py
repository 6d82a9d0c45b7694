"""Sections 6.6 and 7.8: accuracy, the judge, statistics."""
