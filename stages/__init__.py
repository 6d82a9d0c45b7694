"""The stages of the pipeline, a module each; `run.py` is their engine.

`sections/` holds the parameters of each, `schema.py` all of params.yaml.

Importing this package sets what has to be set before torch is loaded.
"""

import os
import sys

from llm.common.errors import exit_on_signals
from llm.runtime import kernels

# Threads that wait for each other must soon give up their core. By default OpenMP's hold it for milliseconds, and
# beside any other busy program a training step then takes several times as long.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
if sys.argv[0] == "-m":  # so it is while `python -m stages.NAME` imports, which takes seconds
    exit_on_signals()
    kernels.pin()
