"""The console commands, on tiny models in a folder of their own."""

import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llm.cli import parser
from llm.common import files, params, profiles
from llm.model import packed_weights
from llm.model.classifier import Classifier
from llm.model.gpt import GPT
from llm.runtime import device
from llm.weights import classifier_folder, model_folder
from stages.schema import AllParams
from tests.llm.conversions import Conversions
from tests.ports import reserved_port

ROOT = Path(__file__).parents[3]
ENTRY = {"instruction": "What is the opposite of hot?", "input": "", "output": "It is cold."}


@pytest.fixture
def project(tmp_path, monkeypatch):
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("kernels: portable", "kernels: native"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def this_process_stays_as_it_is(monkeypatch):
    monkeypatch.setattr("llm.runtime.device.keep_pages", lambda: True)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")  # as in an activated environment
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model(project, vocabulary, model_config):
    torch.manual_seed(0)
    model_folder.save_model(GPT(model_config(context_length=256)), vocabulary, project / "models/instruct")
    return "models/instruct"


def refused(capsys, *words, code):
    with pytest.raises(SystemExit) as left:
        parser.main(words)
    assert left.value.code == code
    return capsys.readouterr().err.splitlines()[-1]


def test_use_applies_an_overlay_and_keeps_comments(project, capsys):
    (project / "mine.yaml").write_text("pretrain: {lr: 0.001}\n")
    parser.main(["use", "mine.yaml"])
    text = (project / "params.yaml").read_text()
    assert "  lr: 0.001 # the highest learning rate" in text
    assert params.read(AllParams).pretrain.lr == 0.001


def test_use_says_how_to_go_back_and_that_profiles_add_up(project, capsys):
    (project / "mine.yaml").write_text("pretrain: {lr: 0.001}\n")
    parser.main(["use", "mine.yaml"])
    assert "undo" not in capsys.readouterr().out
    for words in (["init", "-q"], ["add", "params.yaml"]):
        subprocess.run(["git", *words], cwd=project, check=True)
    parser.main(["use", "mine.yaml"])
    assert "add up" not in capsys.readouterr().out
    (project / "other.yaml").write_text("pretrain: {lr: 0.002}\n")
    parser.main(["use", "other.yaml"])
    unedited = capsys.readouterr().out
    assert "add up" not in unedited
    assert "to undo all changes: git checkout params.yaml && python -m llm repro" in unedited
    parser.main(["use", "mine.yaml"])
    assert "git checkout params.yaml && python -m llm use mine.yaml" in capsys.readouterr().out


@pytest.mark.parametrize("profile", sorted(path.name for path in (ROOT / "configs").glob("*.yaml")))
def test_every_profile_is_valid(project, profile, capsys):
    parser.main(["use", str(ROOT / "configs" / profile)])
    params.read(AllParams)


def test_use_refuses_an_unknown_key_and_writes_nothing(project, capsys):
    before = (project / "params.yaml").read_bytes()
    (project / "mine.yaml").write_text("pretrain: {learning_rate: 0.001}\n")
    line = refused(capsys, "use", "mine.yaml", code=2)
    assert line.startswith("error: mine.yaml: pretrain.learning_rate: unknown key")
    assert (project / "params.yaml").read_bytes() == before


def test_use_auto_writes_what_this_machine_has(project, capsys):
    parser.main(["use", "auto"])
    written = params.read(AllParams)
    assert written.runtime == device.detect()
    assert written.model.attention == device.fastest_attention(written.runtime, written.pretrain.context)
    assert written.model.dropout_random == device.fastest_dropout(written.runtime, compiled=False)
    assert f"model: attention {written.model.attention}" in capsys.readouterr().out


def test_use_auto_leaves_the_model_of_mode_book_alone(project, capsys):
    parser.main(["use", str(ROOT / "configs/book-digits.yaml")])
    parser.main(["use", "auto"])
    model = params.read(AllParams).model
    assert (model.attention, model.dropout_random) == ("eager", "each")


def test_pin_has_nothing_to_do_on_the_sample(project, capsys):
    parser.main(["pin"])
    assert capsys.readouterr().out == "all downloads are pinned\n"


def test_pin_writes_what_it_fetched(project, capsys, monkeypatch):
    (project / "mirror").mkdir()
    (project / "mirror/corpus.txt").write_text("some text")
    monkeypatch.setenv("LLM_MIRROR", str(project / "mirror"))
    web = {"source": "data/web", "files": [{"name": "corpus.txt", "url": "https://127.0.0.1:1/corpus.txt"}]}
    profiles.apply([{"download": {"corpus": web}}], AllParams)
    parser.main(["pin"])
    assert "corpus: corpus.txt: 9 bytes, sha256 " in capsys.readouterr().out
    assert params.read(AllParams).download["corpus"].files[0].size == 9


def test_generate_continues_the_prompt_as_given(model, capsys):
    parser.main(["generate", "Every effort", "--model", model, "--max-new-tokens", "3"])
    first = capsys.readouterr().out
    assert first.startswith("Every effort")
    for option in (["--top-k", "1"], ["--top-p", "0.000001"]):
        parser.main(
            ["generate", "Every effort", "--model", model, "--max-new-tokens", "3", "--temperature", "2", *option]
        )
        assert capsys.readouterr().out == first


def test_generate_refuses_more_than_the_context(model, capsys):
    line = refused(capsys, "generate", "Every", "--model", model, "--max-new-tokens", "999", code=2)
    assert "exceed the model's context of 256 | fix: ask for" in line


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_generate_computes_as_the_runtime_section_says(precision, model, capsys, monkeypatch):
    profiles.apply([{"runtime": {"precision": precision}}], AllParams)
    ours, made = packed_weights.pack_for_decoding(model_folder.load_model(model), params.read(AllParams).runtime, 1), []
    monkeypatch.setattr("llm.generate.session.generate", lambda model, *_: made.append(model) or [[]])
    parser.main(["generate", "Every effort", "--model", model])
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.equal(made[0](ids), ours(ids))
        assert torch.equal(made[0](ids), model_folder.load_model(model)(ids)) == (precision == "fp32")


@pytest.mark.parametrize(("precision", "times"), [("fp32", 0), ("bf16", 1)])
def test_classify_computes_as_the_runtime_section_says(precision, times, project, vocabulary, model_config, capsys):
    profiles.apply([{"runtime": {"precision": precision}}], AllParams)
    spam = Classifier(GPT(model_config()), 2, "last_token")
    classifier_folder.save_classifier(spam, ["ham", "spam"], vocabulary, project / "models/spam")
    with Conversions() as seen:
        parser.main(["classify", "hello there", "win now", "see you"])
    blocks = spam.transformer.h
    assert seen.shapes.count(tuple(blocks[0].mlp.c_fc.weight.shape)) == times * len(blocks)


@pytest.mark.parametrize("command", ["generate", "classify"])
def test_a_wrong_runtime_is_named(command, model, capsys):
    params_file = Path("params.yaml")
    params_file.write_text(params_file.read_text().replace("  device: cpu", "  device: tpu"))
    assert refused(capsys, command, "a", code=2).startswith("error: params.yaml: runtime.device: 'tpu' ")


def test_generate_needs_no_project(model, capsys):
    parser.main(["generate", "Every effort", "--model", model, "--max-new-tokens", "3"])
    inside = capsys.readouterr().out
    Path("params.yaml").unlink()
    parser.main(["generate", "Every effort", "--model", model, "--max-new-tokens", "3"])
    assert capsys.readouterr().out == inside


def test_classify_says_one_line_a_message(project, vocabulary, model_config, capsys, monkeypatch):
    torch.manual_seed(0)
    spam = Classifier(GPT(model_config()), 2, "last_token")
    classifier_folder.save_classifier(spam, ["ham", "spam"], vocabulary, project / "models/spam")
    parser.main(["classify", "hello there", "win now"])
    given = capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO("hello there\nwin now\n"))
    parser.main(["classify"])
    assert capsys.readouterr().out == given
    assert [line.split("\t")[3] for line in given.splitlines()] == ["hello there", "win now"]
    assert all(line.split("\t")[0] in ("ham", "spam") for line in given.splitlines())


def test_classify_says_that_it_reads_the_start_of_a_long_message_only(project, vocabulary, model_config, capsys):
    spam = Classifier(GPT(model_config(context_length=8)), 2, "last_token")
    classifier_folder.save_classifier(spam, ["ham", "spam\nor so"], vocabulary, project / "models/spam")
    parser.main(["classify", "hi", "hello there " * 9])
    found = capsys.readouterr()
    assert len(found.out.splitlines()) == 2
    assert "message 2 has" in found.err
    assert "tokens; only the first 8 are read" in found.err
    assert "message 1" not in found.err


@pytest.mark.parametrize("labels", [["spam", "ham"], ["good", "bad", "a b"], ["0", "1", "2", "win"]])
def test_classify_gives_the_probability_of_every_label_of_the_folder(labels, project, vocabulary, model_config, capsys):
    torch.manual_seed(0)
    model = Classifier(GPT(model_config()), len(labels), "last_token").eval()
    model.score.bias.data[1] += 20
    classifier_folder.save_classifier(model, labels, vocabulary, project / "models/spam")
    parser.main(["classify", "win now"])
    label, *probabilities, message = capsys.readouterr().out.rstrip("\n").split("\t")
    assert (label, message) == (labels[1], "win now")
    assert probabilities == [f"{name}={'1.0000' if name == labels[1] else '0.0000'}" for name in labels]


def test_classify_refuses_a_folder_without_a_classifier(model, capsys):
    line = refused(capsys, "classify", "hello", "--model", model, code=3)
    assert "name a folder written by finetune_spam" in line


def test_chat_answers_a_line_each(model, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Say hello.\n\nSay goodbye.\n"))
    parser.main(["chat", "--max-new-tokens", "4"])
    assert len(capsys.readouterr().out.split("\n")) >= 3


def test_chat_goes_on_after_a_line_that_is_too_long(model, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Say hello.\n" + "hello " * 300 + "\n/reset\nSay hello.\n"))
    parser.main(["chat", "--max-new-tokens", "4"])
    shown = capsys.readouterr()
    first, second, end = shown.out.split("\n")
    assert (first, end) == (second, "")
    line, forgotten = shown.err.splitlines()
    assert line.startswith("error: instruction: ")
    assert line.endswith("the context has room for 252 | fix: shorten it")
    assert forgotten == "the conversation is forgotten"


def test_chat_ends_at_a_line_without_an_end(model, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("a" * (1 << 21)))
    line = refused(capsys, "chat", "--max-new-tokens", "4", code=3)
    assert line.startswith("error: standard input: more than 1,048,576 characters")


@pytest.mark.parametrize(
    ("file", "name"), [("x y.gguf", "x-y"), ("é.gguf", "model"), ("a b/c;d.gguf", "c-d"), ("m.gguf", "m")]
)
def test_export_prints_commands_that_a_shell_can_run(file, name, project, capsys, monkeypatch):
    monkeypatch.setattr("llm.weights.ollama.modelfile", lambda *_: "FROM x")
    monkeypatch.setattr("llm.weights.gguf_export.export", lambda _, path, __: path.touch())
    parser.main(["export", "models/instruct", "--gguf", file])
    _, ollama, llama = (line.partition(": ")[2] for line in capsys.readouterr().out.splitlines())
    recipe = str(Path(file).with_suffix(".Modelfile"))
    assert shlex.split(ollama) == ["ollama", "create", name, "-f", recipe, "&&", "ollama", "run", name]
    assert shlex.split(llama) == ["llama-server", "-m", file]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("command", "hint"), [("generate", "type the text"), ("classify", "one message per line")])
def test_a_terminal_is_told_that_it_is_read(command, hint, project, vocabulary, model_config, capsys, monkeypatch):
    gpt = GPT(model_config(context_length=256))
    model_folder.save_model(gpt, vocabulary, project / "models/pretrain")
    classifier_folder.save_classifier(
        Classifier(gpt, 2, "last_token"), ["ham", "spam"], vocabulary, project / "models/spam"
    )
    for stdin, said in (Terminal("hello\n"), True), (io.StringIO("hello\n"), False):
        monkeypatch.setattr("sys.stdin", stdin)
        parser.main([command])
        assert (hint in capsys.readouterr().err) == said


def test_judge_scores_any_file_of_the_form(project, capsys):
    entries = [{**ENTRY, "model_response": "It is cold."}, {**ENTRY, "model_response": ""}]
    (project / "answers.json").write_text(json.dumps(entries))
    parser.main(["judge", "answers.json", "--backend", "reference", "--out", "scores.json"])
    assert capsys.readouterr().out.startswith("mean score 50.00 (reference), 2 of 2 answers scored, 0 unparsed")
    assert [record["score"] for record in json.loads((project / "scores.json").read_text())] == [100, 0]


def test_judge_asks_nobody_if_its_output_cannot_be_written(project, capsys, monkeypatch):
    (project / "answers.json").write_text(json.dumps([{**ENTRY, "model_response": "It is cold."}]))
    monkeypatch.setattr("llm.evaluate.judge.judge", lambda *_: 1 / 0)
    line = refused(capsys, "judge", "answers.json", "--out", ".", code=3)
    assert line.startswith("error: .: Is a directory | fix: ")


def test_judge_compares_two_files(project, capsys):
    entry = {**ENTRY, "instruction": "What is cold?"}
    for name, texts in (("a.json", ["It is cold.", "big"]), ("b.json", ["big", "small"])):
        (project / name).write_text(json.dumps([{**entry, "model_response": text} for text in texts]))
    parser.main(["judge", "a.json", "--against", "b.json", "--backend", "reference", "--out", "pairs.json"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "a.json against b.json (reference), 2 of 2 pairs judged"
    assert printed[1:4] == ["wins       1", "ties       1", "losses     0"]
    assert [record["outcome"] for record in json.loads((project / "pairs.json").read_text())] == ["win", "tie"]
    (project / "b.json").write_text(json.dumps([{**entry, "model_response": "big"}]))
    assert "1 answers, but a.json has 2" in refused(capsys, "judge", "a.json", "--against", "b.json", code=3)


def test_judge_says_in_one_line_that_the_server_is_down(project, capsys):
    (project / "answers.json").write_text(json.dumps([{**ENTRY, "model_response": "Cold."}]))
    with reserved_port() as port:
        url = f"http://127.0.0.1:{port}"
        line = refused(capsys, "judge", "answers.json", "--backend", "ollama", "--url", url, code=4)
    assert url in line
    assert "ollama serve" in line


def test_report_has_a_row_for_what_has_run_only(project, capsys):
    parser.main(["report"])
    assert "python -m llm ui" in capsys.readouterr().out
    (project / "reports/pretrain").mkdir(parents=True)
    metrics = {"train_loss": 1.0, "val_loss": 2.0, "val_bits_per_byte": 3.0}
    (project / "reports/pretrain/metrics.json").write_text(json.dumps(metrics))
    parser.main(["report"])
    assert "1.000 / 2.000" in capsys.readouterr().out


def test_a_command_outside_the_project_says_where_to_go(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "no params.yaml here | fix: change to the project folder" in refused(capsys, "report", code=2)


def test_fsck_names_an_output_that_changed_or_is_gone(project, capsys):
    (project / "models/spam").mkdir(parents=True)
    (project / "models/spam/config.json").write_text("{}")
    (project / "a.json").write_text("1")
    outs = [{"path": path, "md5": files.dvc_md5(path)} for path in ("models/spam", "a.json")]
    (project / "dvc.lock").write_text(json.dumps({"stages": {"one": {"outs": outs}}}))
    parser.main(["fsck"])
    assert capsys.readouterr().out == "2 outputs match dvc.lock\n"
    (project / "models/spam/config.json").write_text("[]")  # one byte of two, as a disk may turn it
    (project / "a.json").unlink()
    with pytest.raises(SystemExit) as left:
        parser.main(["fsck"])
    assert left.value.code == 3
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1] for line in errors] == [" models/spam", " a.json"]


def test_fsck_leaves_out_the_stages_beyond_the_chapters_that_ran_elsewhere(project, capsys):
    (project / ".dvc").mkdir()
    (project / ".dvc/config").write_text("[core]\nno_scm = true\n")
    (project / "reports").mkdir()
    (project / "reports/a.json").write_text("1")
    outs = [{"path": "models/dpo", "md5": "0" * 32 + ".dir"}]
    outs += [{"path": "reports/a.json", "md5": files.dvc_md5("reports/a.json")}]
    stages = {"finetune_dpo": {"outs": outs}, "download": {"outs": outs[1:]}}
    (project / "dvc.lock").write_text(json.dumps({"stages": stages}))
    parser.main(["fsck"])
    assert capsys.readouterr().out == "not run here, so not checked: finetune_dpo\n1 outputs match dvc.lock\n"
    (project / "models/dpo").mkdir(parents=True)
    (project / "models/dpo/config.json").write_text("{}")
    assert "error: models/dpo: has md5 " in refused(capsys, "fsck", code=3)


def test_report_shows_a_single_score_without_an_interval(project, capsys):
    (project / "reports/evaluate_with_judge").mkdir(parents=True)
    metrics = {"backend": "reference", "score_mean": 80.0, "n_scored": 1, "n_items": 1}
    metrics |= {"score_ci95_low": None, "score_ci95_high": None}
    (project / "reports/evaluate_with_judge/metrics.json").write_text(json.dumps(metrics))
    parser.main(["report"])
    assert "reference score of 1 of 1 answers          80.0 of 100\n" in capsys.readouterr().out


def test_ablation_wants_to_know_what_to_do(project, capsys):
    line = refused(capsys, "ablation", code=2)
    assert line.startswith("error: command line: one of the arguments --queue --table is required | fix: ")


@pytest.mark.parametrize("seed", [str(2**32), "-1", "two"])
def test_a_seed_that_is_none_is_refused(model, capsys, seed):
    line = refused(capsys, "generate", "a", "--model", model, "--seed", seed, code=2)
    assert line.startswith("error: command line: argument --seed: ")


def test_a_model_whose_configuration_is_none_is_the_users_to_mend(model, capsys, project):
    (project / model / "config.json").write_text("[1]")
    line = refused(capsys, "chat", "--model", model, code=3)
    assert line.startswith(f"error: {model}/config.json: ")


def test_fsck_tells_the_stages_that_a_lock_lacks(project, capsys):
    (project / "dvc.yaml").write_text("stages: {one: {cmd: a}, two: {cmd: b}}\n")
    (project / "dvc.lock").write_text("schema: '2.0'\n")
    line = refused(capsys, "fsck", code=3)
    assert line.startswith("error: dvc.lock: records no output of the 2 stages in dvc.yaml | fix: run `")
    (project / "a.json").write_text("1")
    outs = [{"path": "a.json", "md5": files.dvc_md5("a.json")}]
    (project / "dvc.lock").write_text(json.dumps({"stages": {"one@item": {"outs": outs}}}))
    parser.main(["fsck"])
    assert capsys.readouterr().out == "not in dvc.lock, so not checked: two\n1 outputs match dvc.lock\n"


@pytest.mark.parametrize("command", [["report"], ["report", "--html", "a.html"], ["baseline"], ["fsck"], ["plan"]])
def test_a_broken_lock_is_named(project, capsys, command):
    (project / "dvc.lock").write_text("stages: [1]\n")
    (project / "dvc.yaml").write_text("stages: {}\n")
    (project / ".dvc").mkdir()
    (project / ".dvc/config").write_text("[core]\nno_scm = true\n")
    assert refused(capsys, *command, code=2).startswith("error: dvc.lock: stages: [1] is not a section | fix: ")


def test_a_baseline_needs_git(project, capsys):
    line = refused(capsys, "baseline", code=2)
    assert line == "error: git: the project is not in a git repository | fix: `git init`, `git add .`, `git commit`"


@pytest.mark.parametrize("command", ["plan", "repro"])
def test_a_broken_params_file_is_named_with_its_line(project, capsys, command):
    (project / "params.yaml").write_text("seed: 1\nmodel: {\n")
    (project / "dvc.yaml").write_text("stages: {}\n")
    (project / ".dvc").mkdir()
    (project / ".dvc/config").write_text("[core]\nno_scm = true\n")
    assert refused(capsys, command, code=2).startswith("error: params.yaml:3: not plain YAML: ")


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("pretrain/samples.csv", "step,text\n", "Next:"),
        ("pretrain/samples.csv", "step\n1\n", "Next:"),
        ("pretrain/metrics.json", '{"train_loss": 1}', "1.000 / –"),
        ("evaluate_with_judge/metrics.json", '{"score_mean": 1}', "1.0 of 100"),
    ],
)
def test_report_copes_with_a_report_of_another_version(project, capsys, path, text, said):
    files.write_text(project / "reports" / path, text)
    parser.main(["report"])
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("text", ["[1]", "{"])
def test_a_report_that_is_no_object_is_named(project, capsys, text):
    files.write_text(project / "reports/pretrain/metrics.json", text)
    assert refused(capsys, "report", code=3).startswith("error: reports/pretrain/metrics.json: ")


def test_a_message_of_several_lines_is_one_line(project, vocabulary, model_config, capsys):
    torch.manual_seed(0)
    classifier = Classifier(GPT(model_config(context_length=64)), 2, "last_token")
    classifier_folder.save_classifier(classifier, ["ham", "spam"], vocabulary, project / "models/spam")
    parser.main(["classify", "see you\nat\tnoon"])
    assert capsys.readouterr().out.split("\t")[3:] == ["see you at noon\n"]
