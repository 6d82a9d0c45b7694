"""The sections of params.yaml that belong to one stage each. They load neither torch nor pandas."""
