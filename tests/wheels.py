"""Wheels that hold weights, as a package index has them."""

from __future__ import annotations

import zipfile
from pathlib import Path


def make_wheel(folder: Path, requirement: str, content: bytes, name: str = "model.gguf") -> str:
    """Write a wheel of a package with one data file, and return its requirement, such as `tiny-weights==1.0`."""
    package, version = requirement.split("==")
    module = package.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{module}/{name}", content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return requirement
