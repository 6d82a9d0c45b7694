"""Classifiers of every family: the head has no bias, and nothing changes in a round trip."""

from pathlib import Path

import pytest
import torch

from llm.model.classifier import Classifier
from llm.weights.classifier_folder import load_classifier, save_classifier
from llm.weights.model_folder import load_model
from tests.llm.tiny_models import MODELS, theirs

IDS = torch.randint(300, (3, 20), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", MODELS)
def test_a_classifier_of_each_family_survives_a_round_trip(name: str, tmp_path: Path, vocabulary: Path) -> None:
    theirs(name, tmp_path / "theirs")
    model = Classifier(load_model(tmp_path / "theirs"), 2, "last_token").eval()
    save_classifier(model, ["ham", "spam"], vocabulary, tmp_path / "spam")
    again, labels = load_classifier(tmp_path / "spam")
    assert labels == ["ham", "spam"]
    assert again.score.bias is None
    assert torch.equal(again.eval()(IDS), model(IDS))
