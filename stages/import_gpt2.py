"""Import a checkpoint in a published layout, strictly: `import_gpt2.<item>.source` -> models/<item>.

The folder holds Hugging Face's files (config.json, model.safetensors) of GPT-2, Llama, SmolLM2, SmolLM3, Qwen2 or
Qwen3, or one GGUF file of these (llama.cpp, Ollama), or OpenAI's own of GPT-2 (a TensorFlow checkpoint).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llm.common import files
from llm.common.errors import DATA, UserError
from llm.data.tokenizer import Tokenizer
from llm.model.gpt import count_parameters
from llm.runtime import machine
from llm.weights import families, gguf_import, model_card, model_folder, openai_checkpoint
from llm.weights.families import Checkpoint
from llm.weights.model_card import Card
from llm.weights.tensors import INDEX, WEIGHTS
from stages.run import item_of, run_stage, stage
from stages.sections.import_gpt2 import ImportSource

FP32 = 4  # bytes


@dataclass(frozen=True)
class Params:
    """All items; dvc.yaml declares only the one of this stage."""

    import_gpt2: dict[str, ImportSource]


def main(params: Params, item: str) -> None:
    """Import `item`, which dvc.yaml names on the command line."""
    source = item_of(params.import_gpt2, item, "import_gpt2")
    with stage(f"import_gpt2@{item}", {f"import_gpt2.{item}": source}) as run:
        folder, vocabulary, stored = unpacked(source, run.work)
        gguf = _gguf(Path(source.source))
        names = partial(gguf_import.as_stored, gguf, folder) if gguf else nullcontext
        with names():
            checkpoint, tokenizer = read(folder), Tokenizer.load(vocabulary, folder)
        config, weights = checkpoint.config, sum(FP32 * tensor.numel() for tensor in checkpoint.tensors.values())
        where = f"params.yaml: import_gpt2.{item}.source"
        size = 22 * weights // 10  # tensors, copies for the file, and memory that the allocator keeps (measured)
        machine.check_memory(where, "the import", size, "cpu", "import a smaller model, or free some memory")
        for disk in (run.work, Path("models")):  # perhaps on different disks
            machine.check_disk(disk, weights)
        with names():
            model = checkpoint.model()
        if dropped := families.trim_vocabulary(model, tokenizer.vocab_size, source.source):
            run.say(f"dropped {dropped} rows of the embedding, above the {tokenizer.vocab_size} tokens")
        if source.untie_head:
            families.untie_head(model)
        model_folder.save_model(model, vocabulary, out := run.out(f"models/{item}"), source=folder)
        metrics = {"family": config.family, "parameters": count_parameters(model), "dropped_rows": dropped} | stored
        run.write_metrics(metrics, path=f"reports/import_gpt2/{item}.json")
        summary = f"A language model of the family {config.family} with {metrics['parameters']:,} parameters, imported"
        card = Card(
            item,
            "text-generation",
            f"{summary} from {source.source} into fp32.",
            {path: files.dvc_md5(path) for path in sorted({source.source, source.tokenizer})},
            {f"import_gpt2.{item}": source},
            {},
            "no data",
            weaknesses=("Nothing was measured here. See the card of its source.",),
        )
        model_card.write(out, card, facts(Path(source.source)))


def facts(source: Path) -> dict[str, Any]:
    """Licence, language and base model of a checkpoint: by its content, else by the card in its folder."""
    names = (*openai_checkpoint.FILES, WEIGHTS)
    weights = [source] if source.is_file() else [*sorted(source.glob("*.gguf")), *(source / name for name in names)]
    found = [known for path in weights if (known := model_card.of_weights(path))]
    return found[0] if found else model_card.read(source)


def unpacked(source: ImportSource, work: Path) -> tuple[Path, Path, dict[str, Any]]:
    """The folders of weights and tokenizer, and how a GGUF file, unpacked below `work`, stores its tensors."""
    if (file := _gguf(Path(source.source))) is None:
        return Path(source.source), Path(source.tokenizer), {}
    folder = work / "gguf"
    stored = gguf_import.unpack(file, folder)
    return folder, folder if source.tokenizer == source.source else Path(source.tokenizer), {"stored_types": stored}


def _gguf(path: Path) -> Path | None:
    """The GGUF file at `path`, or in it if it is a folder without other weights; None if there is none."""
    found = [path] if path.is_file() else sorted(path.glob("*.gguf"))
    if len(found) > 1:
        what = f"holds {len(found)} GGUF files: {', '.join(file.name for file in found)}"
        raise UserError(str(path), what, "keep one of them", DATA)
    return None if any((path / name).exists() for name in (WEIGHTS, INDEX)) else next(iter(found), None)


def read(folder: Path) -> Checkpoint:
    """Read a folder in either format; raises UserError if it holds both, since they may differ."""
    openai = [name for name in openai_checkpoint.FILES if (folder / name).exists()]
    hugging_face = [name for name in (model_folder.CONFIG, WEIGHTS, INDEX) if (folder / name).exists()]
    if openai and hugging_face:
        what = f"holds two formats: {', '.join(openai)} and {', '.join(hugging_face)}"
        raise UserError(str(folder), what, "keep the files of one format", DATA)
    return openai_checkpoint.read(folder) if openai else model_folder.read(folder)


if __name__ == "__main__":
    run_stage(main, Params)
