"""Compares two states of the project, lists experiments, and writes a run's report as an HTML page."""
