"""The sections of params.yaml that belong to one stage each. They load no torch, so that `check` starts quickly."""
