"""Free memory: the minimum over the machine and its cgroups."""

from pathlib import Path

import pytest

from llm.runtime import machine


def cgroup(root: Path, line: str, files: dict[str, str]) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(line)
    (root / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    for name, text in files.items():
        path = root / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


V2 = {
    "a/memory.max": "5000000\n",
    "a/memory.current": "4000000\n",
    "a/memory.stat": "anon 1\ninactive_file 500000\n",
    "a/b/memory.max": "max\n",
    "a/b/memory.current": "1\n",
    "a/b/memory.stat": "inactive_file 0\n",
}
V1 = {
    "memory/a/memory.limit_in_bytes": "3000000\n",
    "memory/a/memory.usage_in_bytes": "1000000\n",
    "memory/a/memory.stat": "total_inactive_file 7\n",
}


@pytest.mark.parametrize(
    ("line", "files", "free"),
    [
        ("0::/a/b\n", V2, 1_500_000),  # the limit is set on the parent group
        ("0::/a/b\n", V2 | {"a/memory.max": "max\n"}, 8_192_000),
        ("0::/\n", {}, 8_192_000),
        ("5:cpu:/x\n4:memory:/a\n0::/\n", V1, 2_000_007),
        ("4:memory:/a\n", V1 | {"memory/a/memory.limit_in_bytes": "9223372036854771712\n"}, 8_192_000),
    ],
)
def test_available_is_the_minimum_of_machine_and_cgroups(monkeypatch, tmp_path, line, files, free):
    cgroup(tmp_path, line, files)
    monkeypatch.setattr(machine, "PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    assert machine.available("cpu") == free


def test_unknown_systems_are_not_checked(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "PROC", tmp_path)
    assert machine.available("cpu") is None
    assert machine.available("mps") is None


def test_memory_that_pytorch_keeps_for_reuse_is_free(monkeypatch):
    for name, value in (("mem_get_info", (1000, 9000)), ("memory_reserved", 700), ("memory_allocated", 500)):
        monkeypatch.setattr(machine.torch.cuda, name, lambda value=value: value)
    assert machine.available("cuda") == 1200
