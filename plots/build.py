"""Write plots/page.html, the page of `dvc plots`: Vega's scripts from npm inside plots/template.html.

`python plots/build.py` needs npm and its registry. The packages are checked against the hashes below, so the page is
the same everywhere. To update: change versions and hashes (`npm view vega@5 dist.integrity`), run it, look at a page.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = {  # name and version, sha512 of npm's archive in base64, script
    "vega@5.33.1": (
        "1fArfVDUqVbb5z8n+/nVQb+VNBzx8svY6CrsyTK4Ujm4yrd9I1auoKxBAPXLCavY1LcrbHUskQbGUP8gXOzyQw==",
        "build/vega.min.js",
    ),
    "vega-lite@5.23.0": (
        "l4J6+AWE3DIjvovEoHl2LdtCUkfm4zs8Xxx7INwZEAv+XVb6kR6vIN1gt3t2gN2gs/y4DYTs/RPoTeYAuEg6mA==",
        "build/vega-lite.min.js",
    ),
    "vega-embed@6.29.0": (
        "PmlshTLtLFLgWtF/b23T1OwX53AugJ9RZ3qPE2c01VFAbgt3/GSNI/etzA/GzdrkceXFma+FDHNXUppKuM0U6Q==",
        "build/vega-embed.min.js",
    ),
}
INSIDE = {  # what these scripts contain of others: only for the licences
    "d3-array@3.2.4": "tdQAmyA18i4J7wprpYq8ClcxZy3SC31QMeByyCFyRt7BVHdREQZ5lpzoe5mFEYZUWe+oq8HBvk9JjpibyEV4Jg==",
    "d3-delaunay@6.0.4": "mdjtIZ1XLAM8bm/hx3WwjfHt6Sggek7qH043O8KEjDXN40xi3vx/6pYSVTwLjEgiXQTbvaouWKynLBiUZ6SK6A==",
    "topojson-client@3.1.0": "605uxS6bcYxGXw9qi62XyrV6Q3xwbndjachmNxu8HWTtVPxZfEJN9fd/SZS1Q54Sn2y0TMyMxFj/cJINqGHrKw==",
    "fast-json-patch@3.1.1": "vf6IHUX2SBcA+5/+4883dsIjpBTqmfBjmYiWK1savxQmFk4JfBMLa7ynTYOs1Rolp/T1betJxHiGD3g1Mn8lUQ==",
    "json-stringify-pretty-compact@4.0.0": (
        "3CNZ2DnrpByG9Nqj6Xo8vqbjT4F6N+tb4Gb28ESAZjYZ5yqvmc56J+/kuIwkaAMOyblTQhUW7PxMkUb8Q36N3Q=="
    ),
    "semver@7.6.3": "oVekP1cKtI+CTDvHWYFUcMtsK/00wmAEfyqKfNdARm8u1wNVhSgaX7A8d4UuIlUI5e84iEwOhs7ZPYRmzU9U6A==",
}


def main() -> None:
    """Download, check, and write the page and the licences."""
    scripts, licences = [], []
    for package, (sha512, script) in PACKAGES.items():
        files = unpack(package, sha512)
        code = "".join(line for line in files[script].splitlines(True) if not line.startswith("//# sourceMappingURL"))
        if "</script" in code.lower() or "\r" in code:
            sys.exit(f"error: {package}: cannot stand in a page | fix: look at its build")
        scripts.append(f"/* {package}, see plots/LICENSES.txt */\n{code.strip()}\n")
        licences.append(licence(package, files))
    licences += [licence(package, unpack(package, sha512)) for package, sha512 in INSIDE.items()]
    scripts.append((HERE / "show.js").read_text("utf-8"))
    page = (HERE / "template.html").read_text("utf-8")
    page = page.replace("SCRIPT_HASHES", " ".join(map(csp_hash, scripts)))
    page = page.replace("SCRIPTS", "\n".join(f"<script>{script}</script>" for script in scripts))
    (HERE / "page.html").write_text(page, "utf-8")
    (HERE / "LICENSES.txt").write_text(("\n" + "-" * 80 + "\n\n").join(licences), "utf-8")


def licence(package: str, files: dict[str, str]) -> str:
    """The licence file of a package, or what its package.json says if it has none."""
    text = next((text for path, text in files.items() if path.startswith("LICENSE")), None)
    if text is None:
        facts = json.loads(files["package.json"])
        text = f"{facts['license']}, {facts['author']} (its archive has no licence file)"
    return f"{package}\n\n{text.strip()}\n"


def unpack(package: str, sha512: str) -> dict[str, str]:
    """The text files of an npm package by path. Exits if its archive has another hash."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(folder).glob("*.tgz")
        found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if found != sha512:
            sys.exit(f"error: {package}: has sha512 {found}, not {sha512} | fix: check what npm delivers")
        with tarfile.open(archive) as tar:
            text = (".min.js", "LICENSE", "LICENSE.txt", "package.json")
            wanted = [member for member in tar.getmembers() if member.isfile() and member.name.endswith(text)]
            opened = {member.name.removeprefix("package/"): tar.extractfile(member) for member in wanted}
            return {name: file.read().decode() for name, file in opened.items() if file}


def csp_hash(script: str) -> str:
    """The source expression that allows exactly this script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


if __name__ == "__main__":
    main()
