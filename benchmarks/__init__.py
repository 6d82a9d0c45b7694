"""Measurements: what the sample's figures are worth beside cheap baselines."""
