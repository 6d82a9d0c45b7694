"""Make or read preference pairs: `preferences.source` -> data/preferences, reports/preferences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llm.common import files
from llm.common.errors import DATA, UserError
from llm.data.instructions import read_entries
from llm.preference.pairs import PREFERENCES, SPLITS, PreferencesConfig, make_pairs
from llm.preference.published import read_published
from stages.run import run_stage, stage

INSTRUCTIONS = Path("data/instructions")
NAMED = 10  # keys that the stage names


@dataclass(frozen=True)
class Params:
    """The sections of params.yaml that this stage reads."""

    seed: int
    preferences: PreferencesConfig


def main(params: Params) -> None:
    """Write a JSON file of pairs in normal form for each split, and count them."""
    config = params.preferences
    with stage("preferences", params) as run:
        source = Path(config.source)
        doubts: dict[str, int]
        if source == INSTRUCTIONS:
            entries = {split: read_entries(source / f"{split}.json") for split in SPLITS}
            pairs, doubts = make_pairs(entries, config, params.seed), {}
        else:
            found = read_published(_only_file(source), config)
            pairs, doubts = found.splits, {"alike": len(found.alike), "repeated": len(found.repeated)}
            if found.other_keys:
                keys = ", ".join(f"{key} {count:,}" for key, count in found.other_keys.most_common(NAMED))
                run.say(f"keys that are not read, with the number of pairs: {keys}")
        counts = {split: len(part) for split, part in pairs.items()} | doubts
        folder = run.out(str(PREFERENCES))
        folder.mkdir()
        for split, part in pairs.items():
            files.write_json(folder / f"{split}.json", part)
        run.say(", ".join(f"{name} {count:,}" for name, count in counts.items()))
        run.write_metrics(counts)


def _only_file(source: Path) -> Path:
    """The source, or the one file in it if it is a folder, such as data/raw/preferences."""
    if not source.is_dir():
        return source
    found = sorted(path for path in source.iterdir() if not path.name.startswith("."))
    if len(found) != 1:
        what = f"{str(source)!r} is a folder with {len(found)} files"
        raise UserError("params.yaml: preferences.source", what, "name one file", DATA)
    return found[0]


if __name__ == "__main__":
    run_stage(main, Params)
