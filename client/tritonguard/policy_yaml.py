"""YAML with places: the values of a policy file, and the line that each of them stands on.

The size is looked at before anything is parsed, depth, aliases and keys while it is (`limits`).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

from tritonguard import limits
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
    """The document of a YAML text of at most `limits.MAX_POLICY_FILE_BYTES`.

    Raises InvalidRequest, with the line where there is one, for what is larger, no YAML, repeats a key, or is made
    to be larger than it looks.
    """
    most = limits.MAX_POLICY_FILE_BYTES
    if limits.exceeds(text, most) if isinstance(text, str) else len(text) > most:
        raise InvalidRequest(f"policy: a file of more than {most} bytes", field="policy")
    try:
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
    """A SafeLoader that refuses repeated keys (YAML keeps the last; in a policy that would hide a rule) and excess."""

    def __init__(self, text: str | bytes) -> None:
        super().__init__(text)
        self._nodes = self._aliases = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark: yaml.Mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        self._nodes += 1
        self._aliases += self.check_event(yaml.AliasEvent)
        self._depth += 1
        # A mapping's key is a node too.
        if self._nodes > 2 * limits.MAX_VALUES:
            _refuse(f"more than {limits.MAX_VALUES} values", mark)
        if self._aliases > limits.MAX_YAML_ALIASES:
            _refuse(f"more than {limits.MAX_YAML_ALIASES} aliases", mark)
        if self._depth > limits.MAX_DEPTH + 1:
            _refuse(f"lists and mappings more than {limits.MAX_DEPTH} deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        # Long numbers take time with the square of their length.
        if node.tag != self.DEFAULT_SCALAR_TAG and len(node.value) > limits.MAX_YAML_PLAIN:
            _refuse(f"a value that is no text of more than {limits.MAX_YAML_PLAIN} characters", node.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        if len(node.value) > limits.MAX_YAML_MAPPING:
            _refuse(f"a mapping of more than {limits.MAX_YAML_MAPPING} keys", node.start_mark)
        # A merge key (`<<`) has no value of its own and is refused here: merged maps could double at each level.
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                _refuse("repeated key", node.value[index][0].start_mark)
        return super().construct_mapping(node, deep)


def _refuse(problem: str, mark: yaml.Mark) -> NoReturn:
    raise yaml.constructor.ConstructorError(None, None, problem, mark)
