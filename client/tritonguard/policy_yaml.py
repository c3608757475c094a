"""YAML with places: the values of a policy file, and the line that each of them stands on."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import yaml

from tritonguard.errors import InvalidRequest


@dataclass(frozen=True)
class Document:
    """data: the plain values of one YAML document; None for an empty one. root: where they were written."""

    data: Any
    root: yaml.Node | None

    def line_of(self, field: str | None) -> int:
        """The line, from 1, of a dotted name such as `policy.inject.0.name`; of its nearest known parent otherwise."""
        node, line = self.root, 1
        for part in (field or "").split(".")[1:]:
            if isinstance(node, yaml.MappingNode):
                found = [pair for pair in node.value if getattr(pair[0], "value", None) == part]
                if not found:
                    break
                key, node = found[0]
                line = key.start_mark.line + 1
            elif isinstance(node, yaml.SequenceNode) and part.isdecimal() and int(part) < len(node.value):
                node = node.value[int(part)]
                line = node.start_mark.line + 1
            else:
                break
        return line


def read(text: str | bytes) -> Document:
    """The document of a YAML text. Raises InvalidRequest with the line for what is no YAML, or repeats a key."""
    try:
        # A SafeLoader that only adds the refusal of repeated keys.
        loader = _StrictLoader(text)
        try:
            root = loader.get_single_node()
            return Document(None if root is None else loader.construct_document(root), root)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise InvalidRequest(f"policy: {problem}{place}", field="policy") from None


class _StrictLoader(yaml.SafeLoader):
    """YAML keeps the last of two equal keys; in a policy that would hide a rule."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.constructor.ConstructorError(None, None, "repeated key", node.value[index][0].start_mark)
        return super().construct_mapping(node, deep)
