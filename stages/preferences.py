"""Make or read preference pairs: `preferences.source` -> data/preferences, reports/preferences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llm.common import files
from llm.data.instructions import read_entries
from llm.preference.pairs import PREFERENCES, SPLITS, PreferencesConfig, make_pairs
from llm.preference.published import read_published
from stages.run import one_file, run_stage, stage

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
            file = one_file(source, "preferences.source") if source.is_dir() else source  # such as data/raw/preferences
            found = read_published(file, config)
            pairs, doubts = found.splits, {"alike": len(found.alike), "repeated": len(found.repeated)}
            if found.other_keys:
                keys = ", ".join(f"{key} {count:,}" for key, count in found.other_keys.most_common(NAMED))
                run.say(f"keys that are not read, with the number of pairs: {keys}")
        counts = {split: len(part) for split, part in pairs.items()} | doubts
        folder = run.out(str(PREFERENCES))
        for split, part in pairs.items():
            files.write_json(folder / f"{split}.json", part)
        run.say(", ".join(f"{name} {count:,}" for name, count in counts.items()))
        run.write_metrics(counts)


if __name__ == "__main__":
    run_stage(main, Params)
