"""The import of folders that others made: another family, shards, half precision, and a padded vocabulary."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from llm.common import files, params, profiles
from llm.common.errors import UserError
from llm.data import tokenizer
from llm.data.tokenizer import Tokenizer
from llm.weights import gguf_export, model_folder
from stages import import_gpt2
from stages.schema import AllParams
from tests.llm.tiny_models import theirs

ROOT = Path(__file__).parents[2]
IDS = torch.randint(300, (2, 30), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def run(tmp_path, vocabulary, monkeypatch):
    """Import the folder `source` as `mine`; returns the report."""
    monkeypatch.chdir(tmp_path)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(ROOT / name, name)

    def imported(untie_head: bool = False) -> dict:
        item = {"source": "source", "tokenizer": str(vocabulary), "untie_head": untie_head}
        changes = {"import_gpt2": {"mine": item}, "tracking": {"enabled": False}}
        profiles.apply([changes | {"runtime": {"threads": 1, "keep_pages": False, "kernels": "native"}}], AllParams)
        import_gpt2.main(params.read(import_gpt2.Params), "mine")
        return files.read_json(Path("reports/import_gpt2/mine.json"))

    return imported


def padded_gpt2(folder: Path) -> GPT2LMHeadModel:
    """A GPT-2 whose rows above the tokenizer's win."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_positions=64, n_embd=8, n_layer=2, n_head=2)).eval()
    with torch.no_grad():
        model.transformer.wte.weight[300:] = 3 * model.transformer.wte.weight[:20]
    model.save_pretrained(folder)
    return model


def check_import(model: torch.nn.Module, vocabulary: Path) -> None:
    """The imported folder has the logits of `model` for the tokens of the tokenizer, and opens in transformers."""
    ours, opened = (
        model_folder.load_model(Path("models/mine")).eval(),
        AutoModelForCausalLM.from_pretrained("models/mine"),
    )
    tokens = Tokenizer.load(vocabulary).vocab_size
    with torch.no_grad():
        expected = model(IDS).logits.float()[..., :tokens]
        torch.testing.assert_close(ours(IDS), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(opened(IDS).logits, expected, atol=1e-5, rtol=0)
    assert ours.config.vocab_size == tokens


def test_rows_above_the_tokenizers_are_dropped_and_counted(run, vocabulary, capsys):
    model = padded_gpt2(Path("source"))
    with torch.no_grad():
        assert (model(IDS).logits.argmax(-1) >= 300).any()  # control
    report = run()
    assert report == {"family": "gpt2", "parameters": 300 * 8 + 64 * 8 + 2 * 872 + 16, "dropped_rows": 20}
    assert "dropped 20 rows of the embedding, above the 300 tokens" in capsys.readouterr().err
    check_import(model, vocabulary)


@pytest.mark.parametrize("untie", [True, False])
def test_another_family_in_shards_of_bf16_is_imported(run, vocabulary, untie):
    theirs("smollm2", vocab_size=320).bfloat16().save_pretrained("source", max_shard_size="40KB")
    model = AutoModelForCausalLM.from_pretrained("source", dtype=torch.float32).eval()
    report = run(untie)
    assert (report["family"], report["dropped_rows"]) == ("llama", 20)
    check_import(model, vocabulary)
    assert model_folder.read_config(Path("models/mine")).tie_head != untie


@pytest.mark.parametrize("stored", ["gguf", "folder"])
def test_an_error_names_the_file_and_its_own_names(run, vocabulary, stored):
    theirs("llama", Path("made"))
    tokenizer.copy(vocabulary, Path("made"))
    tensors = load_file("made/model.safetensors")
    Path("source").mkdir()
    if stored == "gguf":
        gguf_export.export(Path("made"), Path("source/a.gguf"), "f32")
        raw = Path("source/a.gguf").read_bytes()
        at = raw.index(b"attention.head_count_kv") + len("attention.head_count_kv") + 4
        assert raw[at] == 2
        Path("source/a.gguf").write_bytes(raw[:at] + b"\x03" + raw[at + 1 :])
        expected = r"source/a\.gguf: blk\.0\.attn_k\.weight has .* from llama\.attention\.head_count_kv and"
    else:
        shutil.copytree("made", "source", dirs_exist_ok=True)
        tensors["model.layers.0.self_attn.k_proj.weight"] = torch.ones(24, 48)
        save_file(tensors, "source/model.safetensors", metadata={"format": "pt"})
        expected = r"source/model\.safetensors: model\.layers\.0\.self_attn\.k_proj\.weight has .* num_key_value_heads"
    with pytest.raises(UserError) as caught:
        run()
    assert re.match(expected, str(getattr(caught.value, "problems", [caught.value])[0]))


def test_fewer_rows_than_tokens_are_refused(run):
    theirs("llama", Path("source"), vocab_size=299)
    with pytest.raises(UserError, match="source: has a vocabulary of 299 tokens, but the tokenizer of 300"):
        run()
    assert not Path("models/mine").exists()
