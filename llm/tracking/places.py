"""Where the artifacts of a database lie: beside it, also after the project was moved or copied.

MLflow writes their absolute places into the database when an experiment and a run are made.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

FOLDER = "mlartifacts"
COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)


def beside(root: Path, uri: str) -> Path | None:
    """The folder of the artifacts of a database in a file; None for a server."""
    scheme, _, database = uri.partition(":///")
    return (root / database).resolve().with_name(FOLDER) if scheme == "sqlite" else None


def follow(root: Path, uri: str) -> None:
    """Let the database of a project that was moved or copied name the artifacts that are beside it now.

    A place that somebody chose stays: it is there, and nothing is beside the database.
    """
    folder, database = beside(root, uri), Path(root, uri.partition(":///")[2])
    if folder is None or not database.is_file():
        return
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if "experiments" not in tables:
            return
        for (old,) in connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall():
            parts = urlsplit(str(old))
            place = Path(unquote(parts.path))
            if parts.scheme != "file" or place.name != FOLDER or place == folder:
                continue
            if place.is_dir() and not folder.is_dir():
                continue
            for table, column in COLUMNS:
                if table in tables:
                    told = f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    told += f"WHERE {column} = ? OR substr({column}, 1, ?) = ?"
                    values = (folder.as_uri(), len(old) + 1, old, len(old) + 1, f"{old}/")
                    connection.execute(told, values)
