"""`python -m llm`: see cli.py."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch loads; stages/__init__.py says why

from llm.cli import main

main()
