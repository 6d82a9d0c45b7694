"""Errors, files and parameters, used by all other packages. This package does not import torch."""
