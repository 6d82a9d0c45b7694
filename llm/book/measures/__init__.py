"""How each number of the ledger is measured: one function per measure, in the module of its chapter.

`common.measure` registers a function in MEASURES under its name. Importing any module of this package runs the imports
below first, so MEASURES is complete wherever it is read. Add new modules to these imports.
"""

from llm.book.measures import appendices, ch02, ch03, ch04, ch05, ch06, ch07, reports

__all__ = ["appendices", "ch02", "ch03", "ch04", "ch05", "ch06", "ch07", "reports"]
