"""The answers are asked for in the form of the prompts that the model was taught with."""

import shutil
from pathlib import Path

import pytest
import torch

from llm.common import files, params, profiles
from llm.data.prompts import format_prompt
from llm.data.tokenizer import Tokenizer
from llm.evaluate.judge_prompts import book_prompt
from llm.generate.decoding import generate
from llm.model.gpt import GPT
from llm.weights import model_folder
from stages import respond
from stages.schema import AllParams

ROOT = Path(__file__).parents[2]
ENTRY = {"instruction": "Name a colour.", "input": "A warm one.", "output": "Red.\n"}


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
    profiles.apply([changes | {"runtime": {"threads": 1, "keep_pages": False, "kernels": "native"}}], AllParams)
    torch.manual_seed(0)
    model_folder.save_model(GPT(model_config(context_length=256)), vocabulary, Path("models/instruct"), form)
    files.write_json(Path("data/instructions/test.json"), [ENTRY])
    asked = []

    def answer(model, prompts, *_):
        asked.extend(prompts)
        return [Tokenizer.load(vocabulary).encode("<|assistant|>:\nRed.")]

    monkeypatch.setattr(respond, "generate", answer)
    respond.main(params.read(respond.Params))
    assert [Tokenizer.load(vocabulary).decode(ids) for ids in asked] == [prompt]
    (response,) = files.read_json(Path("reports/respond/responses.json"))
    assert files.read_json(Path("reports/respond/metrics.json"))["n_exact"] == (form == "phi3")
    assert response["model_response"] == ("Red." if form == "phi3" else "<|assistant|>:\nRed.")
    assert book_prompt(response, format_prompt(response), 0).startswith("Given the input `Below is an instruction")


@pytest.mark.parametrize("wanted", [1, 256])
def test_new_tokens_are_capped_at_what_the_context_leaves_and_counted(
    wanted, tmp_path, vocabulary, model_config, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(ROOT / "params.yaml", "params.yaml")
    shutil.copyfile(ROOT / "dvc.yaml", "dvc.yaml")
    changes = {"respond": {"decoding": {"max_new_tokens": wanted}}, "tracking": {"enabled": False}}
    profiles.apply([changes | {"runtime": {"threads": 1, "keep_pages": False, "kernels": "native"}}], AllParams)
    model_folder.save_model(GPT(model_config(context_length=256)), vocabulary, Path("models/instruct"))
    files.write_json(Path("data/instructions/test.json"), [ENTRY, ENTRY])
    given = []

    def answer(model, prompts, config, stop, seeds, limits):
        given.extend((len(prompt), limit) for prompt, limit in zip(prompts, limits, strict=True))
        return [[] for _ in prompts]

    monkeypatch.setattr(respond, "generate", answer)
    respond.main(params.read(respond.Params))
    assert given == [(length, min(wanted, 256 - length)) for length, _ in given]
    assert files.read_json(Path("reports/respond/metrics.json"))["n_capped"] == (0 if wanted == 1 else 2)


def test_prompts_are_answered_by_length_and_reported_in_order(tmp_path, vocabulary, model_config, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(ROOT / "params.yaml", "params.yaml")
    shutil.copyfile(ROOT / "dvc.yaml", "dvc.yaml")
    decoding = {"max_new_tokens": 6, "temperature": 1.0}
    changes = {"respond": {"batch_size": 2, "decoding": decoding}, "tracking": {"enabled": False}}
    profiles.apply([changes | {"runtime": {"threads": 1, "keep_pages": False, "kernels": "native"}}], AllParams)
    torch.manual_seed(0)
    model_folder.save_model(GPT(model_config(context_length=256)), vocabulary, Path("models/instruct"))
    entries = [{"instruction": "word " * n, "input": "", "output": "Red."} for n in (3, 9, 1, 7, 2)]
    files.write_json(Path("data/instructions/test.json"), entries)
    batches, alone = [], []

    def answer(model, prompts, config, stops, seeds, limits):
        batches.append([len(prompt) for prompt in prompts])
        alone.extend(
            (len(prompt), generate(model, [prompt], config, stops, [seed], [limit])[0])
            for prompt, seed, limit in zip(prompts, seeds, limits, strict=True)
        )
        return generate(model, prompts, config, stops, seeds, limits)

    monkeypatch.setattr(respond, "generate", answer)
    respond.main(params.read(respond.Params))
    lengths = [length for batch in batches for length in batch]
    assert lengths == sorted(lengths, reverse=True)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    longest_first = sorted(range(5), key=lambda number: len(entries[number]["instruction"]), reverse=True)
    expected = dict(zip(longest_first, (ids for _, ids in alone), strict=True))
    tokenizer = Tokenizer.load(vocabulary)
    assert files.read_json(Path("data/responses/raw.json")) == [tokenizer.decode(expected[n]) for n in range(5)]
    assert len({tuple(ids) for ids in expected.values()}) > 1
