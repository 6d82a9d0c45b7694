"""Prompts: the Alpaca form of section 7.2, the Phi-3 form of exercise 7.1."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from llm.common.errors import DATA, UserError
from llm.common.files import read_json

PromptForm = Literal["alpaca", "phi3"]  # of section 7.2 | of exercise 7.1


PREAMBLE = "Below is an instruction that describes a task. Write a response that appropriately completes the request."


RESPONSE = "\n\n### Response:\n"  # stands between the prompt and the answer


HEADERS: dict[PromptForm, str] = {"alpaca": RESPONSE, "phi3": "\n<|assistant|>:\n"}


def format_prompt(entry: Mapping[str, str], form: PromptForm = "alpaca") -> str:
    """The prompt up to, and without, the header of the answer in HEADERS (section 7.2, exercise 7.1)."""
    if form == "phi3":
        return f"<|user|>\n{entry['instruction']}" + (f"\n{entry['input']}" if entry["input"] else "")
    text = f"{PREAMBLE}\n\n### Instruction:\n{entry['instruction']}"
    return text + f"\n\n### Input:\n{entry['input']}" if entry["input"] else text


def question(entry: Mapping[str, str]) -> str:
    """Instruction and input: what two entries must share to ask for the same."""
    return f"{entry['instruction']}\n{entry['input']}"


def prompt_form(folder: Path | str) -> PromptForm:
    """The form of the prompts that the model in `folder` was taught with: Alpaca's where config.json names none."""
    where = Path(folder) / "config.json"
    form: PromptForm = read_json(where).get("prompt", "alpaca")
    if form not in get_args(PromptForm):
        fix = f"write {' or '.join(get_args(PromptForm))}, or take a folder of finetune_instruct"
        raise UserError(str(where), f"prompt is {form!r:.40}, which is no form of ours", fix, DATA)
    return form


def extract_answer(generated: str, form: PromptForm = "alpaca") -> str:
    """The answer in a generated text: without its header and the white space around it."""
    return generated.replace(HEADERS[form].strip(), "").strip()
