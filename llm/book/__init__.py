"""Small code of the book, chapter by chapter, and the ledger that checks the book's printed numbers."""
