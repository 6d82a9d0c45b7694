"""Direct preference optimisation (the book's bonus to chapter 7): pairs of answers, of which one is preferred."""
