"""What every stage shares: the error contract, a lock, a tracked run, and outputs that appear whole at the end.

llm/common/errors.py handles Ctrl-C; in a training, llm/train/resume.py saves its state first.
"""

from __future__ import annotations

import inspect
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from tqdm import tqdm

from llm.common import files, params, publishing
from llm.common.errors import DATA, USAGE, UserError, error_contract, problems_of, raise_all
from llm.common.progress import Bars
from llm.common.ranks import is_first
from llm.tracking import record, spool
from llm.tracking.config import TrackingConfig
from llm.tracking.state import CHECK, numbers
from llm.tracking.tracker import NullTracker, Tracker, start_tracking
from stages import launch
from stages.launch import LaunchConfig, Ranked

WORK, RAW = Path(".work"), Path("data/raw")
Part = Literal["start_up", "data", "compute", "save"]  # starting the process, reading, computing, writing
P = TypeVar("P")
T = TypeVar("T")


def run_stage(
    main: Callable[..., None], schema: type[P], read: Callable[[type[P]], P] = params.read, ranked: bool = False
) -> None:
    """The `if __name__ == "__main__"` of a stage: params in, `main(params, *words)`, exit code out.

    A stage that is `ranked` can work on several ranks: `main` runs in as many processes as its `runtime.ranks`.
    """
    with launch.rank_contract() if launch.is_launched() else error_contract():
        launch.end_with_parent()
        files.project_root()
        words = sys.argv[1:]
        takes = list(inspect.signature(main).parameters)[1:]
        if len(words) != len(takes):
            what = f"{len(words)} words, not {len(takes)}"
            raise UserError("command line", what, f"name the {' and '.join(takes) or 'module only'}", USAGE)
        config = read(schema)
        runtime: Ranked | None = config.runtime if ranked else None  # type: ignore[attr-defined]
        ranks = runtime.ranks if runtime else 1
        how = params.read_section(LaunchConfig, "launch") if ranks > 1 else None
        if launch.must_start(ranks, how) and runtime and how:
            name = sys.modules["__main__"].__spec__.name  # type: ignore[union-attr]
            folder = WORK / "@".join([name.removeprefix("stages."), *words]) / "ranks"
            launch.start(runtime, how, [name, *words], folder)
        else:
            main(config, *words)


def item_of(section: Mapping[str, T], item: str, name: str) -> T:
    """The entry `item` of a section; raises UserError where there is none."""
    if item not in section:
        raise UserError("command line", f"{item!r} is not in {name}", f"name one of {', '.join(section)}", USAGE)
    return section[item]


def from_section(section: str, also: Mapping[str, str] | None = None) -> Callable[[type[P]], P]:
    """A reader for a stage that uses some keys of one section: fields of its schema are keys there, or sections.

    `also` gives the key of params.yaml, such as `model.context_length`, for further fields.
    """

    def read(schema: type[P]) -> P:
        sections = params.load()
        inner = sections.get(section)
        values = sections | (dict(inner) if isinstance(inner, Mapping) else {})
        for name, key in (also or {}).items():
            above, _, last = key.partition(".")
            if isinstance(holder := sections.get(above), Mapping) and last in holder:
                values[name] = holder[last]
        names = [field.name for field in fields(schema)]  # type: ignore[arg-type]
        return params.parse(schema, {name: values[name] for name in names if name in values})

    return read


def full_keys(config: Any, also: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a stage's parameters by their keys of params.yaml; `also` is that of `from_section`."""
    return {also.get(field.name, field.name): getattr(config, field.name) for field in fields(config)}


def only_file(item: str) -> Path:
    """The one file that `download` put into data/raw/<item>; raises UserError if it is not one."""
    return one_file(RAW / item, f"download.{item}.source")


def one_file(folder: Path, key: str) -> Path:
    """The one file in a folder that the `key` of params.yaml names; raises UserError if it is not one."""
    found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if len(found) != 1:
        what = f"{str(folder)!r} holds {len(found)} files, not one"
        raise UserError(f"params.yaml: {key}", what, "name one file", DATA)
    return found[0]


@contextmanager
def point_to_source() -> Iterator[None]:
    """Add to errors about a file below data/raw what it is a copy of: an edit of the copy would be overwritten."""
    try:
        yield
    except UserError as error:
        raise_all([_at_the_source(problem) for problem in problems_of(error)])


def _at_the_source(problem: UserError) -> UserError:
    *folders, item = Path(problem.where).parts[:3] or [""]
    if folders != list(RAW.parts):
        return problem
    fix = f"{problem.fix} (this is a copy of what download.{item}.source names)"
    return UserError(problem.where, problem.what, fix, problem.code)


class Run:
    """One run of a stage: where it builds its outputs, and whom it tells about progress."""

    def __init__(self, name: str, settings: Any, work: Path, tracker: Tracker) -> None:
        self.name, self.settings, self._tracker = name, settings, tracker
        self._reports = f"reports/{name.replace('@', '/')}"
        self._build = work / "outputs"
        shutil.rmtree(self._build, ignore_errors=True)  # of a run that was killed
        self.work = work
        self.states = work / "states"  # of a training that may be stopped; there until the outputs are published
        self._outputs: list[Path] = []
        self._bars = Bars()
        self.received = self._bars.received  # of a download
        self._speeds: list[float] = []
        self._inputs: dict[str, str] = {}  # path and md5
        self._seconds: dict[Part, float] = {"start_up": spool.age(), "data": 0.0, "compute": 0.0, "save": 0.0}
        self._part: Part = "data"
        self._since = time.monotonic()

    def turn_to(self, part: Part) -> None:
        """What follows counts for `part` of the seconds of the stage."""
        now = time.monotonic()
        self._seconds[self._part] += now - self._since
        self._part, self._since = part, now

    def reads(self, path: Path | str) -> None:
        """Name a data set that this stage learns from; MLflow gets the md5 that DVC knows it by."""
        self._inputs[str(path)] = md5 = files.dvc_md5(path)
        self._tracker.dataset(Path(path), md5)

    def inputs(self, *more: Path) -> dict[str, str]:
        """The data that this stage has named, and `more` inputs, with the md5s that DVC knows them by."""
        return self._inputs | {str(path): files.dvc_md5(path) for path in more}

    def out(self, path: str) -> Path:
        """Where to build the output `path` (a file or a folder) until the stage has ended well."""
        self._outputs.append(Path(path))
        built = self._build / path
        built.parent.mkdir(parents=True, exist_ok=True)
        return built

    def write_metrics(self, values: Mapping[str, Any], headline: Sequence[str] = (), path: str | None = None) -> None:
        """Write the stage's metrics report; MLflow shows the `headline` ones in the row of the whole `dvc repro`."""
        files.write_json(self.out(path or f"{self._reports}/metrics.json"), values)
        single = {k: v for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        self._tracker.headline({key: single[key] for key in headline if key in single})
        self._tracker.metrics({k: v for k, v in single.items() if k not in headline}, 0)

    def write_table(self, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Write a CSV report of the stage."""
        files.write_csv(self.out(f"{self._reports}/{name}.csv"), header, rows)

    def progress(self, step: int, steps: int, loss: float, tokens_per_second: float) -> None:
        """Move the progress bar. The speed is 0 until something was measured: a GPU is not read at every update."""
        known = tokens_per_second > 0
        self._bars.show(self.name, step, steps, "step", f"loss {loss:.3f}, {tokens_per_second:,.0f} tokens/s" * known)
        self._speeds += [tokens_per_second] * known

    def each(self, items: Sequence[T]) -> Iterable[T]:
        return self._bars.each(items, self.name)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """A point of every curve in `values` (`loss/train`, ...): one line on the screen, and MLflow."""
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.say(f"step {step}: {shown}")
        if self._speeds:
            values = {**values, "tokens_per_second": statistics.median(self._speeds)}
            self._speeds = []
        self._tracker.metrics(values, step)

    def say(self, text: str) -> None:
        """One line on the screen."""
        tqdm.write(f"{self.name}: {text}", file=sys.stderr)

    def publish(self) -> None:
        """Move the outputs into place, reports last, and show them in MLflow."""
        self.turn_to("save")
        for path in sorted(self._outputs, key=lambda path: path.parts[0] == "reports"):
            publishing.publish(self._build / path, path)
        for path in self._outputs:
            self._tracker.output(path, md5 := files.dvc_md5(path))
            if path.parts[0] == "reports":
                self._tracker.artifact(path)
                if path.suffix == ".json":
                    self._show(path.stem, files.read_json(path))
            elif path.parts[0] == "models":
                self._tracker.model(path, md5)
        self.turn_to("save")
        self._tracker.metrics({f"seconds/{part}": spent for part, spent in self._seconds.items()}, 0)
        self._tracker.metrics(self._remember(), 0)

    def _show(self, name: str, report: Any) -> None:
        if isinstance(report, list) and report:
            self._tracker.table(f"{name}_table", list(report[0]), [list(row.values()) for row in report])
        else:
            self._tracker.figures(numbers(report))

    def _remember(self) -> dict[str, float]:
        """Add what the run took to this machine's record; return it with what `llm plan` expected, for MLflow."""
        root = spool.main_root(Path.cwd())
        seconds, peak = sum(self._seconds.values()), record.peak_memory()
        read = {str(path): record.size(Path(path)) for path in self._inputs}
        record.add(root, self.name, record.Past(time.time(), params.load(), seconds, peak, read))
        took = {"took/seconds": seconds, "took/megabytes": peak / record.MEGABYTE}
        if (estimate := record.expected(root).get(self.name)) is None:
            return took
        took["expected/seconds"] = estimate.seconds
        return took if estimate.memory is None else took | {"expected/megabytes": estimate.memory / record.MEGABYTE}

    def close(self) -> None:
        """Finish the progress bars, and drop what was built and not published."""
        self._bars.close()
        shutil.rmtree(self._build, ignore_errors=True)


class Follower(Run):
    """The run of any rank but the first: nobody sees it, and it publishes nothing."""

    def __init__(self, name: str, settings: Any, work: Path) -> None:
        super().__init__(name, settings, work / "ranks" / os.environ["RANK"], NullTracker())
        self.states = work / "states"
        self.work.mkdir(parents=True, exist_ok=True)

    def progress(self, *_: Any) -> None:
        """Nothing is shown."""

    def say(self, text: str) -> None:
        """Nothing is shown."""


@contextmanager
def stage(name: str, settings: Any) -> Iterator[Run]:
    """Run a stage with these parameters: locked, tracked, its outputs published only when the block ends well.

    Raises UserError (code 7) while another process runs the same stage. Of several ranks, only the first one is seen.
    """
    work = WORK / name
    if not is_first():
        yield Follower(name, settings, work)
        return
    with files.lock(work / "lock"):
        tracker = start_tracking(name, settings, Path.cwd(), params.read_section(TrackingConfig, "tracking"))
        run = Run(name, settings, work, tracker)
        if said := record.left(record.expected(spool.main_root(Path.cwd())), name):
            run.say(said)
        try:
            yield run
            run.publish()
            shutil.rmtree(run.states, ignore_errors=True)
        except BaseException as error:
            tracker.close(str(error) or type(error).__name__)
            raise
        else:
            tracker.close(None, wait=name != CHECK)  # it runs at every edit; the import of MLflow takes longer
        finally:
            run.close()
