"""Texts of an asked length, from authored ones, without losing what is known of them.

A text that is too short is followed by whole safe texts of its language, drawn over and over, the last one cut: what
made it unsafe still stands there, and its label stays. One that is too long is cut at its end, and nothing is known
of what is left.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from tritonguard.errors import InvalidRequest
from tritonguard.policy import Policy

from benchmarks.latency.workload import Lengths
from build_scripts.parity_corpus import Row, read_corpus
from preprocessing.prompt import PromptBuilder

BETWEEN = "\n\n"


class Ruler(Protocol):
    """Measures texts and cuts them, in its unit."""

    def size(self, text: str) -> int: ...

    def cut(self, text: str, size: int) -> str:
        """The beginning of a text, of at most `size` and never blank."""
        ...


class Characters:
    def size(self, text: str) -> int:
        return len(text)

    def cut(self, text: str, size: int) -> str:
        return text[:size].rstrip() or text.lstrip()[:1]


class Tokens:
    """Those of a bundle's tokenizer."""

    def __init__(self, folder: Path) -> None:
        self._builder = PromptBuilder(folder, max_tokens=1)

    def size(self, text: str) -> int:
        return len(self._builder.encode_text(text))

    def cut(self, text: str, size: int) -> str:
        whole = self._builder.decode_text(self._builder.encode_text(text)[:size])
        # A token may end in the middle of a character.
        return whole.rstrip("\ufffd").rstrip() or text.lstrip()[:1]


@dataclass(frozen=True)
class Text:
    """known: is it unsafe; None where nobody said, or where it was cut."""

    text: str
    known: bool | None


class Texts:
    """The rows that are asked, by language, and what texts of them are lengthened with.

    Rows under a policy of their own are left out: their texts are labelled under that policy.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = [row for row in rows if row.request.policy == Policy()]
        self._filling: dict[str, list[str]] = {}
        for row in self.rows:
            sides = ((row.request.prompt, row.known[0]), (row.request.response, row.known[1]))
            safe = [text for text, unsafe in sides if text and text.strip() and unsafe is False]
            self._filling.setdefault(row.language, []).extend(safe)

    def by_language(self, *, response: bool) -> Mapping[str, list[Row]]:
        """response: only rows that have one."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            if row.request.prompt.strip() and (row.has_response or not response):
                found.setdefault(row.language, []).append(row)
        return found

    def of_length(self, text: Text, language: str, size: int | None, ruler: Ruler, generator: random.Random) -> Text:
        """The text at a length; None: as it is. Where its language has no safe text, it is followed by itself."""
        own = ruler.size(text.text)
        if size is None or own == size:
            return text
        if own > size:
            return Text(ruler.cut(text.text, size), None)
        filling = self._filling.get(language) or [text.text]
        parts, reached = [text.text], own
        while reached < size:
            parts.append(generator.choice(filling))
            reached += ruler.size(BETWEEN + parts[-1])
        return Text(ruler.cut(BETWEEN.join(parts), size), text.known)


class LengthDraw:
    """Draws lengths; None: texts stay as they are. Raises CorpusError for a file of lengths that can't be read."""

    def __init__(self, lengths: Lengths | None, ruler: Ruler, folder: Path) -> None:
        self._lengths = lengths
        self._like: list[int] = []
        if lengths is not None and lengths.like is not None:
            self._like = [ruler.size(row.request.prompt) for row in read_corpus(folder / lengths.like)]

    def draw(self, generator: random.Random) -> int | None:
        lengths = self._lengths
        if lengths is None:
            return None
        if lengths.fixed is not None:
            drawn = lengths.fixed
        elif lengths.uniform is not None:
            drawn = generator.randint(*lengths.uniform)
        elif lengths.median is not None:
            drawn = round(lengths.median * math.exp(generator.gauss(0.0, lengths.sigma)))
        else:
            drawn = generator.choice(self._like)
        return min(max(drawn, lengths.least), lengths.most)


def ruler_of(lengths: Lengths | None, tokenizer: Path | None) -> Ruler:
    """tokenizer: folder of a bundle. Raises InvalidRequest where tokens are asked for without one, and BundleError
    where it is none."""
    if lengths is None or lengths.unit == "characters":
        return Characters()
    if tokenizer is None:
        raise InvalidRequest("lengths in tokens need --tokenizer, or --bundle", field="workload.length.unit")
    return _tokens(tokenizer)


@cache
def _tokens(folder: Path) -> Tokens:
    # Reading a vocabulary takes seconds, and prompts and responses may both be measured by it.
    return Tokens(folder)
