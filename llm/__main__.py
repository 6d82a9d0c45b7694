"""`python -m llm`: see llm/cli/parser.py."""

from llm.cli.parser import main

main()
