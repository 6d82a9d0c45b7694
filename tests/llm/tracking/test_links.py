"""Who made an input, and which stages are out of step, by one dvc.lock alone."""

from __future__ import annotations

from typing import Any

from llm.tracking.links import Links, stale


def entry(deps: dict[str, str], outs: dict[str, str]) -> dict[str, Any]:
    listed = {"deps": deps, "outs": outs}
    return {part: [{"path": path, "md5": md5} for path, md5 in found.items()] for part, found in listed.items()}


def stages(read: str = "m1") -> dict[str, Any]:
    return {
        "check": entry({"llm": "c"}, {".check": "c"}),
        "train": entry({"source.txt": "s"}, {"models/m": "m1"}),
        "tune": entry({".check/tune": "t", "models/m": read}, {"models/t": "t1", "reports/tune.json": "r"}),
        "answer@a": entry({"models/t": "t1"}, {"answers/a": "a1"}),
        "answer@b": entry({"models/m": "m1"}, {"answers/b": "b1"}),
        "score": entry({"answers": "all"}, {"reports/score.json": "j"}),
        "aside": entry({"models/m": "m1"}, {"reports/aside.json": "k"}),
    }


def test_an_input_is_an_output_or_holds_some_or_is_within_one():
    links = Links(stages())
    assert links.makers("models/m") == ["train"]
    assert links.makers("answers") == ["answer@a", "answer@b"]
    assert links.makers("models/m/config.json") == ["train"]
    assert links.makers("source.txt") == links.makers("answers/c") == links.makers("answ") == []


def test_nothing_is_stale_after_a_whole_run():
    assert stale(stages()) == {}


def test_an_input_that_was_made_anew_makes_its_readers_stale_and_all_after_them():
    assert stale(stages("m0")) == {"tune": ["models/m"], "answer@a": [], "score": []}


def test_a_stage_that_is_no_more_but_in_the_lock_makes_nothing_stale():
    assert stale(stages() | {"old": entry({}, {"models/m": "m0"})}) == {}
