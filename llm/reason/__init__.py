"""Appendix F: problems whose answers can be checked, and what a model does with them."""
