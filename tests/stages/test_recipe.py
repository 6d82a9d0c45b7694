"""What all trainings share."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm.common.errors import RESOURCES, UserError
from llm.model.memory import Training
from llm.runtime import machine
from llm.tracking.tracker import NullTracker
from stages.recipe import Recipe
from stages.run import Run
from tests.llm.tiny_run import MODEL, TRAIN
from tests.tiny import FP32


def test_a_lack_of_memory_names_the_section_of_the_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "available", lambda _device: 1)
    recipe = Recipe(Run("finetune_dpo", None, tmp_path, NullTracker()), "finetune_dpo", TRAIN, FP32, 1)
    with pytest.raises(UserError, match=r"params\.yaml: finetune_dpo\.micro_batch_size: training needs") as error:
        recipe.check_room(Training(MODEL, FP32, 4, 8), 10)
    assert error.value.code == RESOURCES
