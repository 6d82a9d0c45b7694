"""Download or copy one item of `download`: a local file, a folder, or pinned URLs -> data/raw/<item>."""

from __future__ import annotations

import os
from dataclasses import dataclass

from llm.data.download import fetch
from llm.data.source import Source
from stages.run import WORK, item_of, run_stage, stage


@dataclass(frozen=True)
class Params:
    """All items; dvc.yaml declares only the one of this stage."""

    download: dict[str, Source]


def main(params: Params, item: str) -> None:
    """Download `item`, which dvc.yaml names on the command line."""
    source = item_of(params.download, item, "download")
    with stage(f"download@{item}", {f"download.{item}": source}) as run:
        folder = run.out(f"data/raw/{item}")
        folder.mkdir()
        for file in fetch(item, source, folder, WORK / "blobs", os.environ.get("LLM_MIRROR"), run.received):
            run.say(f"{file['name']}: {file['bytes']:,} bytes, sha256 {file['sha256']}")


if __name__ == "__main__":
    run_stage(main, Params)
