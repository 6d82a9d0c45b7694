"""The page of `python -m benchmarks`, from invented results."""

from __future__ import annotations

import subprocess

import matplotlib.pyplot  # noqa: F401 - the first import builds the font cache, and says so on stderr if that is slow
import pytest

from benchmarks import pipeline, results
from benchmarks.__main__ import main, measure
from benchmarks.machine import kind
from benchmarks.page import BELOW, section, utilisation, write
from benchmarks.results import ratios
from benchmarks.work import SHAPES, WORK
from llm.common import files, params


def rounds(*rates: float) -> list[dict[str, float]]:
    return [{"rate": rate, "peak_mib": 100 + rate} for rate in rates]


def page(rounds):
    return list(section("AVX2", "a CPU", "torch 1", rounds))


TRAIN = {"ours": rounds(40, 60, 50), "book": rounds(10, 10, 5)}


def test_a_ratio_is_taken_within_a_round():
    assert ratios(TRAIN, "book") == [4, 6, 10]


def test_an_implementation_that_fails_in_a_later_round_is_left_out(monkeypatch, capsys):
    made = {"ours": iter("012"), "book": iter("0")}  # the book's package fails in the second round

    def run(_, name):
        found = next(made[name], None)
        out, err = ("", "no memory") if found is None else (f'{{"rate": 1.0, "peak_mib": {found}}}\n', "")
        return subprocess.CompletedProcess([], int(found is None), out, err)

    monkeypatch.setattr("benchmarks.__main__.run", run)
    monkeypatch.setitem(WORK, "train-13M", {"ours": None, "book": None})
    found = measure("train-13M", 3)
    assert [round["peak_mib"] for round in found["ours"]] == [0, 1, 2]
    assert set(found) == {"ours"}
    assert "train-13M: book left out: no memory" in capsys.readouterr().err
    assert any(line.startswith("| train-13M | 3 |") for line in page({"train-13M": found}))


def test_a_benchmark_in_which_ours_fails_keeps_its_figures_and_is_reported(monkeypatch, capsys, tmp_path):
    here = {kind(): {"machine": "a CPU", "packages": "torch 1", "rounds": {"train-13M": TRAIN}}}
    files.write_json(tmp_path / "benchmarks.json", here)

    def run(_, name):
        return subprocess.CompletedProcess([], int(name == "ours"), '{"rate": 1.0}\n', "no memory")

    monkeypatch.setattr("benchmarks.__main__.run", run)
    monkeypatch.setattr("benchmarks.results.DOCS", tmp_path)
    monkeypatch.setattr("benchmarks.page.DOCS", tmp_path)
    monkeypatch.setattr("sys.argv", ["benchmarks", "train-13M"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    assert files.read_json(tmp_path / "benchmarks.json") == here
    assert "| train-13M | 3 | 50.0 |" in (tmp_path / "benchmarks.md").read_text()
    assert capsys.readouterr().err.splitlines() == [
        "train-13M: ours left out: no memory",
        "error: train-13M: our implementation failed | fix: see the errors above; the earlier figures are kept",
    ]


def test_a_row_has_medians_the_range_and_the_peaks():
    (line,) = [line for line in page({"train-13M": TRAIN}) if line.startswith("| train-13M")]
    assert line == "| train-13M | 3 | 50.0 | 10.0 | - | 6.00 (4.00 to 10.00) | - | - | - | 160 / 110 |"


def test_flops_of_gpt2_by_hand():
    # 12 layers of 12 x 768^2 weights, a head of 50257 x 768; 12 x 12 x 768 x 256 for attention
    assert SHAPES["124M"].flops_per_token(256) == 6 * (84_934_656 + 38_597_376) + 28_311_552


def test_utilisation_is_the_share_of_the_measured_rate():
    machine = {"bf16 matrix product, GFLOP/s": rounds(500)}
    flops = SHAPES["13M"].flops_per_token(256) * 50 / 1e9
    (line,) = utilisation({"machine": machine, "train-13M": TRAIN})
    assert line.endswith(f"{flops:.0f} GFLOP/s, {flops / 500:.2f} of the bf16 rate.")


def test_utilisation_is_that_of_the_precision_in_use():
    machine = {"bf16 matrix product, GFLOP/s": rounds(50), "fp32 matrix product, GFLOP/s": rounds(200)}
    ours = [one | {"precision": "fp32"} for one in rounds(50)]
    (line,) = utilisation({"machine": machine, "train-13M-compiled": {"ours": ours}})
    assert line.startswith("train-13M-compiled ")
    assert line.endswith(f"{SHAPES['13M'].flops_per_token(256) * 50 / 200e9:.2f} of the fp32 rate.")


def test_classes_of_machines_stand_beside_each_other(monkeypatch, tmp_path):
    monkeypatch.setattr("benchmarks.results.DOCS", tmp_path)
    monkeypatch.setattr("benchmarks.page.DOCS", tmp_path)
    for name, rate in (("AVX2", 10), ("AVX512", 30)):
        monkeypatch.setattr("benchmarks.results.kind", lambda name=name: name)
        results.keep("decode-1", {"ours": rounds(rate), "transformers": rounds(5)})
    text = write()
    assert text.index("## AVX2") < text.index("| decode-1 | 1 | 10.0 |") < text.index("## AVX512")
    assert "| decode-1 | 1 | 30.0 | - | 5.0 | - | - | 6.00 (6.00 to 6.00) |" in text
    assert (tmp_path / "benchmarks.png").stat().st_size > 0


def test_the_ratio_by_cpu_time_needs_it_on_both_sides():
    ours, theirs = ([one | {"cpu_rate": rate} for one in rounds(1)] for rate in (8, 2))
    assert ratios({"ours": ours, "book": theirs}, "book", "cpu_rate") == [4]
    assert ratios({"ours": ours, "book": rounds(1)}, "book", "cpu_rate") == []


@pytest.mark.parametrize("work", [work for work in WORK if work not in BELOW])
def test_every_benchmark_has_ours_and_another_implementation(work):
    assert "ours" in WORK[work]
    assert len(WORK[work]) > 1


def test_compiling_saves_time_after_its_cost_over_the_seconds_saved_per_step():
    compiled = [{"rate": 2048.0, "peak_mib": 1.0, "first_step": 10.0}]  # 8 x 256 tokens a step: 1 s, and 4 s without
    text = "\n".join(page({"train-13M": {"ours": rounds(512)}, "train-13M-compiled": {"ours": compiled}}))
    assert "train-13M: `pretrain.compile` takes 10 s and saves time after 3 steps." in text
    slower = "\n".join(page({"train-13M": {"ours": rounds(4096)}, "train-13M-compiled": {"ours": compiled}}))
    assert "`pretrain.compile` takes 10 s and saves no time." in slower


@pytest.mark.parametrize(("work", "rate"), [("chapter-6", " 10.0 messages per second;"), ("chapter-6-fp32", "")])
def test_predictions_with_and_without_the_prefix_are_counted(work, rate):
    ours, whole = ({"rate": 10.0, "peak_mib": 1.0, "predictions": found} for found in ("0110", "0010"))
    text = "\n".join(page({work: {"ours": [ours], "whole": [whole], "book": rounds(1)}}))
    assert f"{work} without `frozen_prefix`:{rate} 1 of 4 test predictions differ." in text


def test_the_pipeline_is_below_the_table():
    found = {"rate": 0.01, "peak_mib": 1.0, "seconds": 100.0, "compute": 80.0, "no_op": 0.9, "no_op_ratio": 1.25}
    text = "\n".join(page({"pipeline": {"ours": [found]}}))
    assert "100 s, 20% of it not computing." in text
    assert "nothing to do: 0.90 s, 1.25 times that of a pipeline of empty stages" in text
    assert "| pipeline" not in text


def test_the_empty_pipeline_has_the_stages_and_dependencies_asked_for(tmp_path):
    pipeline.write_empty(tmp_path, [1, 3, 2])
    files.write_text(tmp_path / ".dvc/config.local", "[core]\n    no_scm = true\n")
    pipeline.run(tmp_path, "dvc", "repro")
    stages = params.load(tmp_path / "dvc.lock")["stages"].values()
    assert [len(stage["deps"]) for stage in stages] == [1, 3, 2]
