"""`python -m llm`: see cli.py."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # before torch loads; stages/__init__.py says why

from llm.cli.parser import main

main()
