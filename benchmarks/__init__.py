"""Measurements: the sample's results against simple baselines, and the speed against other implementations."""
