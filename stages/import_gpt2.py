"""Import a GPT-2 checkpoint in a published layout, strictly: `import_gpt2.<item>.source` -> models/<item>.

The folder holds Hugging Face's files (config.json, model.safetensors) or OpenAI's own (a TensorFlow checkpoint).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llm.common.errors import DATA, UserError
from llm.model.gpt import GPT, count_parameters
from llm.runtime import machine
from llm.weights import gpt2, model_folder, openai_checkpoint
from stages.run import item_of, run_stage, stage


@dataclass(frozen=True)
class ImportSource:
    """A checkpoint to import."""

    source: str  # a folder in Hugging Face's layout (config.json, model.safetensors), or in OpenAI's
    tokenizer: str  # a folder with the vocabulary that the checkpoint was trained on
    untie_head: bool  # give the head a matrix of its own, as the book does before fine-tuning


@dataclass(frozen=True)
class Params:
    """All items; dvc.yaml declares only the one of this stage."""

    import_gpt2: dict[str, ImportSource]


def main(params: Params, item: str) -> None:
    """Import `item`, which dvc.yaml names on the command line."""
    source = item_of(params.import_gpt2, item, "import_gpt2")
    with stage(f"import_gpt2@{item}", {f"import_gpt2.{item}": source}) as run:
        weights = max((path.stat().st_size for path in Path(source.source).glob("*") if path.is_file()), default=0)
        where = f"params.yaml: import_gpt2.{item}.source"
        size = (
            22 * weights // 10
        )  # the tensors, their copies for the file, and memory that the allocator keeps (measured)
        machine.check_memory(where, "the import", size, "cpu", "import a smaller model, or free some memory")
        machine.check_disk(run.work, weights)
        model = load(Path(source.source))
        if source.untie_head:
            gpt2.untie_head(model)
        model_folder.save_model(model, Path(source.tokenizer), run.out(f"models/{item}"))
        run.write_metrics({"parameters": count_parameters(model)}, path=f"reports/import_gpt2/{item}.json")


def load(folder: Path) -> GPT:
    """Read a folder in either format; raises UserError if it holds both, since they may differ."""
    openai = [name for name in openai_checkpoint.FILES if (folder / name).exists()]
    hugging_face = [name for name in (model_folder.CONFIG, model_folder.WEIGHTS) if (folder / name).exists()]
    if openai and hugging_face:
        what = f"holds two formats: {', '.join(openai)} and {', '.join(hugging_face)}"
        raise UserError(str(folder), what, "keep the files of one format", DATA)
    return openai_checkpoint.load_model(folder) if openai else model_folder.load_model(folder)


if __name__ == "__main__":
    run_stage(main, Params)
