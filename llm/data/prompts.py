"""Prompt formats: Alpaca (section 7.2) and Phi-3 (exercise 7.1)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from llm.common.errors import DATA, UserError
from llm.common.files import read_json

PromptForm = Literal["alpaca", "phi3"]
PREAMBLE = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
RESPONSE = "\n\n### Response:\n"
# The text between prompt and answer.
HEADERS: dict[PromptForm, str] = {"alpaca": RESPONSE, "phi3": "\n<|assistant|>:\n"}


def format_prompt(entry: Mapping[str, str], form: PromptForm = "alpaca") -> str:
    """Return the prompt without the header of the answer (section 7.2, exercise 7.1)."""
    if form == "phi3":
        return f"<|user|>\n{entry['instruction']}" + (f"\n{entry['input']}" if entry["input"] else "")
    text = f"{PREAMBLE}\n\n### Instruction:\n{entry['instruction']}"
    return text + f"\n\n### Input:\n{entry['input']}" if entry["input"] else text


def question(entry: Mapping[str, str]) -> str:
    """Return instruction and input, the part of an entry that is compared between splits."""
    return f"{entry['instruction']}\n{entry['input']}"


def prompt_form(folder: Path | str) -> PromptForm:
    """Return the prompt format in config.json of a model; `alpaca` if there is none."""
    where = Path(folder) / "config.json"
    form: PromptForm = read_json(where).get("prompt", "alpaca")
    if form not in get_args(PromptForm):
        fix = f"write {' or '.join(get_args(PromptForm))}, or use a model of finetune_instruct"
        raise UserError(str(where), f"prompt is {form!r:.40}, not a known prompt format", fix, DATA)
    return form


def extract_answer(generated: str, form: PromptForm = "alpaca") -> str:
    """Return the answer in a generated text, without its header and surrounding white space."""
    return generated.replace(HEADERS[form].strip(), "").strip()
