"""Import a GPT-2 checkpoint in its published layout, strictly: `import_gpt2.<item>.source` -> models/<item>."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llm import checkpoint, gpt2
from llm.gpt2 import ImportSource
from llm.model import count_parameters
from stages import item_of, run_stage, stage


@dataclass(frozen=True)
class Params:
    """The items; DVC declares this one only."""

    import_gpt2: dict[str, ImportSource]


def main(params: Params, item: str) -> None:
    """Import `item`, named on the command line by dvc.yaml."""
    source = item_of(params.import_gpt2, item, "import_gpt2")
    with stage(f"import_gpt2@{item}", source) as run:
        model = checkpoint.load_model(source.source)
        if source.untie_head:
            model = gpt2.untie_head(model)
        checkpoint.save_model(model, Path(source.tokenizer), run.out(f"models/{item}"))
        run.write_metrics({"parameters": count_parameters(model)}, path=f"reports/import_gpt2/{item}.json")


if __name__ == "__main__":
    run_stage(main, Params)
