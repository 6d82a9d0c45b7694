"""The answers are asked for in the form of the prompts that the model was taught with."""

import shutil
from pathlib import Path

import pytest
import torch

from llm import checkpoint, files, params
from llm.instructions import format_prompt
from llm.judge import _book_prompt
from llm.model import GPT
from llm.tokenizer import Tokenizer
from stages import respond
from stages.check import AllParams

ROOT = Path(__file__).parents[2]
ENTRY = {"instruction": "Name a colour.", "input": "A warm one.", "output": "Red."}


@pytest.mark.parametrize(
    ("form", "header", "prompt"),
    [
        ("phi3", "given", "<|user|>\nName a colour.\nA warm one.\n<|assistant|>:\n"),
        ("phi3", "generated", "<|user|>\nName a colour.\nA warm one."),
        ("alpaca", "given", format_prompt(ENTRY) + "\n\n### Response:\n"),
        (None, "given", format_prompt(ENTRY) + "\n\n### Response:\n"),
    ],
)
def test_the_prompt_is_in_the_models_form(form, header, prompt, tmp_path, vocabulary, model_config, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(ROOT / "params.yaml", "params.yaml")
    shutil.copyfile(ROOT / "dvc.yaml", "dvc.yaml")
    changes = {"respond": {"response_header": header}, "tracking": {"enabled": False}}
    params.apply([changes | {"runtime": {"threads": 1, "keep_pages": False}}], AllParams)
    torch.manual_seed(0)
    checkpoint.save_model(GPT(model_config(context_length=256)), vocabulary, Path("models/instruct"), form)
    files.write_json(Path("data/instructions/test.json"), [ENTRY])
    asked = []

    def answer(model, prompts, *_):
        asked.extend(prompts)
        return [Tokenizer.load(vocabulary).encode("<|assistant|>:\nRed.")]

    monkeypatch.setattr(respond, "generate", answer)
    respond.main(params.read(respond.Params))
    assert [Tokenizer.load(vocabulary).decode(ids) for ids in asked] == [prompt]
    (response,) = files.read_json(Path("reports/respond/responses.json"))
    assert response["model_response"] == ("Red." if form == "phi3" else "<|assistant|>:\nRed.")
    assert _book_prompt(response, format_prompt(response), 0).startswith("Given the input `Below is an instruction")
