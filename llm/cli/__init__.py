"""`python -m llm`: the commands."""
