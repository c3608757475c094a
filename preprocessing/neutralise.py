"""Special-token strings in untrusted text (`<end_of_turn>`, `<start_of_image>`, `<bos>`) stay plain text.

A guard that reads `<end_of_turn>` from a user as a control token can be told where its own turn begins.
Nothing is removed from the text: `shield` replaces each such string by a placeholder before the template
is rendered, so that the special strings left in the rendered prompt are the template's own; `unshield`
puts them back after the prompt has been cut at those, and the pieces between are tokenised as plain text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tritonguard.errors import BundleError

_MARK, _END = "\ue000", "\ue001"  # private use; a user's own U+E000 is shielded too
# No bracket and no mark inside: a candidate can then never swallow the start of another, whatever stands
# before it, so a text is scanned in the same way alone and within a rendered prompt.
_INSIDE = rf"[^<>\[\]{_MARK}]{{1,64}}"
_CANDIDATE = re.compile(rf"{_MARK}|<{_INSIDE}>|\[{_INSIDE}\]")
_PLACEHOLDER = re.compile(rf"{_MARK}(\d+){_END}")


class SpecialStrings:
    """The special strings of one tokenizer. Raises BundleError for one that the scan could not find."""

    def __init__(self, strings: Iterable[str]) -> None:
        self._strings = [_MARK, *sorted(strings)]
        self._index = {string: index for index, string in enumerate(self._strings)}
        odd = [string for string in self._strings if not _CANDIDATE.fullmatch(string)]
        if odd:
            raise BundleError(f"special tokens of an unknown shape can't be neutralised: {odd[:3]}")

    def shield(self, text: str) -> str:
        """`text` with every special string replaced by a placeholder; `unshield` is its exact inverse."""

        def replace(match: re.Match[str]) -> str:
            index = self._index.get(match[0])
            return match[0] if index is None else f"{_MARK}{index}{_END}"

        return _CANDIDATE.sub(replace, text)

    def unshield(self, text: str) -> str:
        if _MARK not in text:
            return text
        return _PLACEHOLDER.sub(lambda match: self._strings[int(match[1])], text)

    def split(self, rendered: str) -> list[tuple[bool, str]]:
        """Cut a rendered prompt at its special strings: (is special, text) in order, shielded text kept as it is."""
        parts: list[tuple[bool, str]] = []
        start = 0
        for match in _CANDIDATE.finditer(rendered):
            if match[0] in self._index and match[0] != _MARK:
                parts += [(False, rendered[start : match.start()]), (True, match[0])]
                start = match.end()
        return [part for part in [*parts, (False, rendered[start:])] if part[1]]
