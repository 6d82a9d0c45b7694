"""Model cards: the Hub's own reader reads them, and they hold what is known, and nothing of this machine."""

from __future__ import annotations

import hashlib

import pytest
import yaml
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM

from llm.data.source import Source, WebFile
from llm.model.gpt import GPT
from llm.weights import gguf_export, known, model_card, model_folder
from llm.weights.model_card import Card

VERDICT = "b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f"
CARD = Card(
    "spam",
    "text-classification",
    "A classifier.",
    {"data/spam": "0123.dir"},
    {"lr": 0.1, "save_every": 5, "text": "a: b | c"},
    {
        "accuracy": 0.5,
        "accuracy_ci95_low": 0.4,
        "accuracy_ci95_high": 0.6,
        "n": 10,
        "per_class": {"ham": 1},
        "ok": True,
    },
    "the test split",
    Source("/home/someone/own.tsv"),
    ("It is small.",),
)
FACTS = {"license": "apache-2.0", "language": "en", "base_model": "openai-community/gpt2"}


@pytest.fixture
def text(tmp_path):
    model_card.write(tmp_path, CARD, FACTS)
    return (tmp_path / model_card.README).read_text()


def test_the_hub_reads_the_metadata(text):
    data = ModelCard(text).data
    assert (data.license, data.language, data.base_model) == ("apache-2.0", "en", "openai-community/gpt2")
    assert (data.library_name, data.pipeline_tag, data.model_name) == ("transformers", "text-classification", "spam")
    found = {one.metric_type: one.metric_value for one in data.eval_results}
    assert found == {"accuracy": 0.5, "n": 10}
    assert {one.dataset_name for one in data.eval_results} == {"the test split"}


def test_the_text_has_intervals_data_and_parameters(text):
    assert "| accuracy | 0.5 | 0.4 to 0.6 |" in text
    assert "| data/spam | 0123.dir |" in text
    parameters = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    assert parameters == {"lr": 0.1, "text": "a: b | c"}  # how often a state is saved decides nothing
    for heading in ("Intended use", "Known weaknesses", "Licences"):
        assert f"\n## {heading}\n" in text
    assert "- It is small." in text


def test_no_path_of_this_machine_is_in_it(text):
    assert "| own.tsv |  | own data | not known |" in text
    assert "/home" not in text


def test_an_unknown_licence_is_said_to_be(tmp_path):
    model_card.write(tmp_path, CARD, {})
    data = ModelCard.load(tmp_path / model_card.README).data
    assert (data.license, data.language, data.base_model) == ("unknown", None, None)
    assert "The weights: not stated." in (tmp_path / model_card.README).read_text()


def test_a_fine_tuned_model_inherits_what_its_base_says(tmp_path, text):
    assert model_card.read(tmp_path) == FACTS
    assert model_card.read(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("# no metadata", {}),
        ("---\nlicense: mit\n", {}),  # it does not end
        ("---\n- a\n---\n", {}),
        ("---\nlicense: [\n---\n", {}),
        ("---\nlicense: mit\ndate: 2024-02-30\n---\n", {}),  # no such day
        (
            "---\r\nlicense: mit\r\nlanguage:\r\n- en\r\n- de\r\n---\r\ntext",
            {"license": "mit", "language": ["en", "de"]},
        ),
        ("---\nlicense: {a: b}\nlanguage: 5\nother: x\n---\n", {}),
    ],
)
def test_cards_of_others(tmp_path, text, found):
    (tmp_path / model_card.README).write_bytes(text.encode())
    assert model_card.read(tmp_path) == found


def test_known_data_and_weights(tmp_path, monkeypatch):
    assert model_card.of_source(Source("data/sample/spam.tsv")) == {"license": "mit", "language": "en"}
    assert model_card.of_source(Source("own.tsv")) == {}
    file = WebFile("the-verdict.txt", "https://example.org/a", sha256=VERDICT, size=20479)
    assert model_card.of_source(Source("data/web", (file,))) == {"license": "other", "language": "en"}
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    assert model_card.of_weights(path) == {}
    monkeypatch.setitem(known.FILES, hashlib.sha256(b"weights").hexdigest(), known.GPT2)
    assert model_card.of_weights(path)["base_model"] == "openai-community/gpt2"


def test_a_folder_with_a_card_is_opened_and_exported(tmp_path, vocabulary, model_config):
    folder = tmp_path / "model"
    model_folder.save_model(GPT(model_config()), vocabulary, folder)
    model_card.write(folder, CARD, FACTS)
    AutoModelForCausalLM.from_pretrained(folder)
    model_folder.load_model(folder)
    gguf_export.export(folder, tmp_path / "model.gguf", "f16")
    again = tmp_path / "again"
    model_folder.save_model(model_folder.load_model(folder), folder, again)
    assert not (again / model_card.README).exists()  # each model has its own card
