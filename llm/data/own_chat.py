"""The chat template and the generation settings of models that this project teaches to answer.

With them, `apply_chat_template` of transformers, and tools that use it, write the prompts of the training.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm.common.files import write_json
from llm.data.chat_template import Segment
from llm.data.prompts import TemplateFrame, from_json, template_frame
from llm.data.special_tokens import TOKENIZER_CONFIG, read_object
from llm.data.tokenizer import Tokenizer

CONTENT = "message['content']"


def template(frame: TemplateFrame) -> str:
    """The Jinja template of a frame."""
    system, user, assistant = (_expression(frame.turn(role, CONTENT)) for role in ("system", "user", "assistant"))
    begin = f"{{{{ {_literal(frame.begin)} }}}}\n" if frame.begin else ""
    preamble = "".join(segment.text for segment in frame.turn("system", frame.preamble)) if frame.preamble else ""
    start = f"{{%- if messages[0]['role'] != 'system' %}}{{{{ {_literal(preamble)} }}}}{{% endif %}}\n" * bool(preamble)
    return (
        f"{begin}{start}"
        "{%- for message in messages %}\n"
        f"{{%- if message['role'] == 'system' %}}{{{{ {system} }}}}\n"
        f"{{%- elif message['role'] == 'user' %}}{{{{ {user} }}}}\n"
        f"{{%- elif message['role'] == 'assistant' %}}{{{{ {assistant} }}}}\n"
        "{%- else %}{{ raise_exception('a role is system, user or assistant, not ' ~ message['role']) }}\n"
        "{%- endif %}\n"
        "{%- endfor %}\n"
        f"{{%- if add_generation_prompt %}}{{{{ {_literal(frame.header)} }}}}{{% endif %}}"
    )


def write(folder: Path, prompt: Any) -> None:
    """Write the chat template of a frame, and generation_config.json, into a model folder.

    `prompt` is the frame as in config.json. With `chat`, or None, the folder keeps its own template and settings.
    """
    if prompt in (None, "chat"):
        return
    tokenizer = Tokenizer.load(folder)
    frame = template_frame(from_json(prompt, "prompt"), tokenizer)
    config = read_object(folder / TOKENIZER_CONFIG)
    write_json(folder / TOKENIZER_CONFIG, config | {"chat_template": template(frame)})
    (folder / "chat_template.jinja").unlink(missing_ok=True)  # it would go first
    begin = tokenizer.eot if tokenizer.bos is None else tokenizer.bos
    settings = {"bos_token_id": begin, "eos_token_id": tokenizer.eot, "pad_token_id": tokenizer.eot}
    write_json(folder / "generation_config.json", settings)


def _expression(segments: Sequence[Segment]) -> str:
    """The Jinja expression for the segments of a message, whose text is CONTENT."""
    return " + ".join(_literal(segment.text) if segment.special else CONTENT for segment in segments)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # Jinja reads JSON's escapes, except for pairs of surrogates
