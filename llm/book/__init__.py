"""The book's own small steps, chapter by chapter, and the ledger that holds this project to its printed numbers."""
