"""A release of TensorRT-LLM as Python source: its documentation's pages with highlighted code, or its .py files.

The folder that is read is one of
- `1.2.1/` of the repository's branch gh-pages: `_modules/`, `_sources/llm-api/reference.rst.txt`, `examples/`;
- an unpacked wheel, or a checkout: `tensorrt_llm/**.py`;
- a transcript: the first layout, with .py files that hold only headers and fields in the place of the pages.

`origin.json` in it is optional: {"transcript": true, "neighbours": {"tensorrt_llm/inputs/data.py": COMMIT}}. A
neighbour is a .py file of another commit of the repository, for what the pages don't show.
"""

from __future__ import annotations

import ast
import hashlib
import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

REPOSITORY = "NVIDIA/TensorRT-LLM"
PAGES_COMMIT = "58fb435eacc402f3bd177e60f592c955d2b0719d"
"""Of gh-pages, where the pages of 1.2.1 were read."""
SOURCE_COMMIT = "376f7e1bd8ed543f75014309e3fd4b237e9b0e73"
"""Of the source that those pages were made from, by their footer and links."""
RELEASE = "1.2.1"

DOCUMENTED = "_sources/llm-api/reference.rst.txt"
"""One autoclass for each name that tensorrt_llm.llmapi exports."""

_BLOCK_START = re.compile(r'<div class="viewcode-block"[^>]*>\n<a class="viewcode-back"[^>]*>\[docs\]</a>\n')
_BLOCK_END = "</div>\n"
_LINE_NUMBER = re.compile(r'<span class="linenos">[^<]*</span>')
_TAG = re.compile(r"<[^>]+>")


def page_source(page: str) -> str:
    """The code of a page, line for line as in the file it was made from. Raises ValueError without such code.

    viewcode puts two lines before each documented block and a closing tag with a line break after it: they go.
    """
    found = re.search(r'<div class="highlight"><pre>\n?(.*?)</pre></div>', page, re.DOTALL)
    if found is None:
        raise ValueError("the page holds no highlighted code")
    marked = _BLOCK_START.sub("", found.group(1)).replace(_BLOCK_END, "")
    return html.unescape(_TAG.sub("", _LINE_NUMBER.sub("", marked)))


@dataclass(frozen=True)
class SourceFile:
    """module: what it is imported as; of an example its path. path: in the repository, at commit."""

    module: str
    path: str
    commit: str
    evidence: str
    """RELEASE, or "neighbour"."""
    sha256: str
    """Of the file that was read here, not of the page where that is a transcript of it."""
    text: str
    is_package: bool = False

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    def absolute(self, node: ast.ImportFrom) -> str:
        """The module that a `from ... import` of this file names."""
        if not node.level:
            return node.module or ""
        parents = self.module.split(".")
        kept = parents[: len(parents) - node.level + self.is_package]
        return ".".join([*kept, *([node.module] if node.module else [])])


@dataclass(frozen=True)
class SourceFolder:
    """The files of one release, found by module name."""

    folder: Path

    @cached_property
    def _origin(self) -> dict[str, object]:
        path = self.folder / "origin.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    @property
    def is_transcript(self) -> bool:
        return bool(self._origin.get("transcript"))

    @property
    def kind(self) -> str:
        return "transcript" if self.is_transcript else "pages" if (self.folder / "_modules").is_dir() else "source"

    def find(self, module: str) -> SourceFile | None:
        """The file of a module, a package's `__init__`, or an example page ("examples.llm_guided_decoding")."""
        stem = module.replace(".", "/")
        for path in (
            f"_modules/{stem}.html",
            f"_modules/{stem}.py",
            f"{stem}.html",
            f"{stem}.py",
            f"{stem}/__init__.py",
        ):
            if (self.folder / path).is_file():
                return self._read(module, path)
        return None

    def documented(self) -> tuple[SourceFile, tuple[str, ...]] | None:
        """The reference's list of what tensorrt_llm.llmapi exports; None where the folder holds source instead."""
        if not (self.folder / DOCUMENTED).is_file():
            return None
        file = self._read("", DOCUMENTED)
        return file, tuple(re.findall(r"autoclass:: tensorrt_llm\.llmapi\.(\w+)$", file.text, re.MULTILINE))

    def _read(self, module: str, path: str) -> SourceFile:
        content = (self.folder / path).read_bytes()
        text = content.decode("utf-8")
        neighbours = self._origin.get("neighbours") or {}
        assert isinstance(neighbours, dict)
        evidence, commit, shown = RELEASE, SOURCE_COMMIT, path
        if path in neighbours:
            evidence, commit = "neighbour", neighbours[path]
        elif not path.startswith("tensorrt_llm/"):
            page = path.removesuffix(".py") + ".html" if path.endswith(".py") else path
            commit, shown = PAGES_COMMIT, f"{RELEASE}/{page}"
        return SourceFile(
            module=module,
            path=shown,
            commit=commit,
            evidence=evidence,
            sha256=hashlib.sha256(content).hexdigest(),
            text=page_source(text) if path.endswith(".html") else text,
            is_package=path.endswith("__init__.py"),
        )


def imports_of(file: SourceFile) -> Iterator[tuple[str, str]]:
    """(module, name) of each `from tensorrt_llm... import name` in a file, at any depth."""
    for node in ast.walk(file.tree):
        if isinstance(node, ast.ImportFrom):
            module = file.absolute(node)
            if module.split(".")[0] == "tensorrt_llm":
                yield from ((module, alias.name) for alias in node.names)
