"""The stages are named in the order of dvc.yaml; a file without stages is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm.common import dvc_yaml
from llm.common.errors import USAGE, UserError

ROOT = Path(__file__).parents[3]


def test_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "dvc.yaml"
    path.write_text("stages:\n  b: {cmd: one}\n  a: {foreach: [1, 2], do: {cmd: two}}\n")
    assert dvc_yaml.stage_names(path) == ["b", "a"]
    ours = dvc_yaml.stage_names(ROOT / "dvc.yaml")
    assert ours.index("download") < ours.index("pretrain") < ours.index("evaluate_with_judge")


@pytest.mark.parametrize("text", ["stages: 3\n", "stages:\n", "plots: []\n"])
def test_no_stages(text: str, tmp_path: Path) -> None:
    path = tmp_path / "dvc.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="is not a section") as caught:
        dvc_yaml.stage_names(path)
    assert caught.value.where == f"{path}: stages"
    assert caught.value.code == USAGE
