"""How each number of the ledger is measured: a function by name, in the module of its chapter.

`measure` in `common` registers a function under its name in MEASURES. Importing any module of this package runs the
imports below first, so MEASURES is full wherever it is read; a new module of measures is added to them.
"""

from llm.book.measures import appendices, ch02, ch03, ch04, ch05, ch06, ch07, reports

__all__ = ["appendices", "ch02", "ch03", "ch04", "ch05", "ch06", "ch07", "reports"]
