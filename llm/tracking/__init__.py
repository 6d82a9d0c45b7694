"""Records runs in MLflow, and opens its UI."""
