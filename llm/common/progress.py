"""Progress bars on stderr, drawn on terminals only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


class Bars:
    """One progress bar for each name. Close them before printing anything else."""

    def __init__(self) -> None:
        self._bars: dict[str, tqdm[Any]] = {}

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def show(self, name: str, done: int, total: int | None, unit: str, note: str = "") -> None:
        """Set the bar `name` to `done` of `total` units; `note` is text after the bar."""
        if name not in self._bars:
            scale = unit == "B"
            bar = tqdm(total=total, desc=name, unit=unit, unit_scale=scale, disable=None, mininterval=0.5)
            self._bars[name] = bar
        bar = self._bars[name]
        if note:
            bar.set_postfix_str(note, refresh=False)
        bar.update(done - bar.n)

    def received(self, name: str, done: int, total: int | None) -> None:
        """Set the bar of a download, in bytes."""
        self.show(name, done, total, "B")

    def each(self, items: Sequence[T], name: str) -> Iterator[T]:
        """Yield the items and count them with the bar `name`."""
        for number, item in enumerate(items, start=1):
            yield item
            self.show(name, number, len(items), "item")

    def close(self) -> None:
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()
