"""`python -m llm`: see cli.py."""

from llm.cli import main

main()
