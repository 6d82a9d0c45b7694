"""A copy of the project in a folder of its own, without git."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.book.runs import with_python
from llm.cli.repro import chapters
from llm.common import code, files, params, profiles
from llm.common.errors import UserError
from stages.check import STAGES
from stages.schema import AllParams
from tests.forks import warm

ROOT = Path(__file__).parents[2]
COPIED = ("llm", "stages", "configs", "data/sample", ".dvc/config", "dvc.yaml", "params.yaml", ".dvcignore")
NOT_OURS = (".work", "__pycache__")  # what may appear beside the declared outputs


@dataclass(frozen=True)
class Project:
    folder: Path

    @classmethod
    def create(cls, folder: Path) -> Project:
        folder.mkdir()
        for name in COPIED:
            copy: Any = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            copy(ROOT / name, folder / name)
        (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
        code.closures([f"stages.{name}" for name in STAGES], folder)
        code.remember(folder / code.KNOWN)  # as a project has it that was checked before
        return cls(folder)

    @classmethod
    def small(cls, folder: Path, **changes: object) -> Project:
        """The smoke profile on a part of the sample, all of its text trained on; without MLflow, on one thread."""
        made = cls.create(folder)
        profiles.use(ROOT / "configs/smoke.yaml", AllParams, made.folder / "params.yaml")
        made.set(
            tracking={"enabled": False},
            runtime={"threads": 1, "kernels": "native"},
            pretrain={"context": 96, "stride": 96},
        )
        made.set(**changes)
        corpus, instructions = (folder / "data/sample" / name for name in ("corpus.txt", "instructions.json"))
        corpus.write_bytes(corpus.read_bytes()[:100_000])
        files.write_json(instructions, files.read_json(instructions)[:200])
        return made

    def copy(self, folder: Path) -> Project:
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns(".work"))
        return Project(folder)

    def start(self, module: str, *words: str, **options: Any) -> subprocess.Popen[str]:
        """Start `python -m MODULE` there, as a user does whose environment is activated."""
        environment = {**with_python(), "DVC_NO_ANALYTICS": "1"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        environment |= options.pop("env", {})
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(
            [sys.executable, "-m", module, *words], cwd=self.folder, env=environment, **{**piped, **options}
        )

    def run(
        self, module: str, *words: str, ok: bool = True, cold: bool | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run `python -m MODULE` there to its end: `cold`, in an interpreter of its own, or else in a fork.

        By default, in a fork where that makes no difference: a fork is no child of DVC, which a recorder looks for.
        """
        python = None if "preexec_fn" in options else self._stand_in(cold)
        if python:
            path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
            options |= {"executable": python, "env": {"PATH": path, **options.get("env", {})}}
        with self.start(module, *words, **options) as process:
            out, err = process.communicate()
        assert not ok or process.returncode == 0, out + err
        return subprocess.CompletedProcess([module, *words], process.returncode, out, err)

    def _stand_in(self, cold: bool | None) -> Path | None:
        """The `python` of forks, with the kernels of params.yaml; None for the real one."""
        try:
            values = params.load(self.folder / "params.yaml")
            tracked, kernels = values["tracking"]["enabled"], values["runtime"]["kernels"]
        except (UserError, KeyError):
            return None
        return None if (tracked if cold is None else cold) else warm(kernels == "portable")

    def repro(self, *words: str) -> list[str]:
        """Run `dvc repro`, without words for the stages that `llm repro` runs; return those that ran."""
        output = self.run("dvc", "repro", *(words or chapters(self.folder / "dvc.yaml"))).stdout
        return sorted(line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage"))

    def set(self, **changes: object) -> None:
        profiles.apply([changes], AllParams, self.folder / "params.yaml")

    def metrics(self, stage: str) -> dict[str, Any]:
        return dict(json.loads((self.folder / "reports" / stage / "metrics.json").read_text()))

    def bytes(self, *within: str) -> dict[str, bytes]:
        """Every file by name, or those within the named files and folders."""
        roots = [self.folder / name for name in within] or [self.folder]
        paths = [path for root in roots for path in [root, *root.rglob("*")] if path.is_file()]
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in paths
            if not set(path.relative_to(self.folder).parts) & set(NOT_OURS)
        }
