"""The judge protocol with a real server: llama.cpp, with a tiny random model that a grammar keeps to the schema."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.llama_cpp import LlamaCpp
from llm.evaluate.judge import judge
from llm.weights import gguf_export
from tests.llm.evaluate.judging import CONFIG, alpaca, entries
from tests.llm.weights.test_gguf import make_folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> LlamaCpp:
    """A running llama.cpp server."""
    pytest.importorskip("xllamacpp", reason="pip install .[llamacpp]")
    work: Path = tmp_path_factory.mktemp("served")
    gguf_export.export(make_folder(work / "model", "llama3"), work / "model.gguf", "f32")
    return LlamaCpp(work / "model.gguf", 2048)


def test_llama_cpp_judges_by_a_schema(server: LlamaCpp) -> None:
    url = server.server.listening_address
    config = replace(CONFIG, backend="openai", url=url, structured=True, prompt="guarded", timeout_seconds=60.0)
    verdicts = judge(entries(3), config, alpaca)
    assert len(verdicts) == 3
    for verdict in verdicts:
        assert verdict.score is not None
        assert 0 <= verdict.score <= 100
