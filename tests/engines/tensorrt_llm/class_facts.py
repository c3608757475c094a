"""What a class offers, read from its source with `ast`: members, defaults, status, base classes."""

from __future__ import annotations

import ast
import types
from collections.abc import Iterator
from typing import Any

from source_pages import SourceFile

PROTOCOL_METHODS = ("__init__", "__call__", "__await__", "__aiter__", "__anext__", "__enter__", "__exit__")


def parameters_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[dict[str, str]]:
    """Without self or cls. kind: positional (by name too), keyword, variable (*args), keywords (**kwargs)."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    found = [_parameter(argument, "positional", value) for argument, value in zip(positional, defaults, strict=True)]
    if arguments.vararg:
        found.append(_parameter(arguments.vararg, "variable", None))
    found += [_parameter(a, "keyword", d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    if arguments.kwarg:
        found.append(_parameter(arguments.kwarg, "keywords", None))
    return found[1:] if found and found[0]["name"] in ("self", "cls") else found


def _parameter(argument: ast.arg, kind: str, default: ast.expr | None) -> dict[str, str]:
    found = {"name": argument.arg, "kind": kind}
    if default is not None:
        found["default"] = ast.unparse(default)
    return found


def _field(node: ast.AnnAssign) -> dict[str, Any]:
    """A field of a dataclass, model or TypedDict: type, default (none where it must be given), status."""
    annotation, value = node.annotation, node.value
    found: dict[str, Any] = {"kind": "field", "type": ast.unparse(annotation)}
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "NotRequired":
        found |= {"type": ast.unparse(annotation.slice), "optional": True}
    if isinstance(value, ast.Call) and ast.unparse(value.func) in ("Field", "field"):
        given = {keyword.arg: keyword.value for keyword in value.keywords}
        default = given.get("default", value.args[0] if value.args else None)
        if "default_factory" in given:
            found["default"] = f"{ast.unparse(given['default_factory'])}()"
        elif default is not None:
            found["default"] = ast.unparse(default)
        if isinstance(status := given.get("status"), ast.Constant):
            found["status"] = status.value
        if "deprecated" in given:
            found["status"] = "deprecated"
    elif value is not None:
        found["default"] = ast.unparse(value)
    return found


def _method(node: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, Any] | None:
    """A method, property or validator; None for a property's setter, which its property notes."""
    marks = {ast.unparse(d.func if isinstance(d, ast.Call) else d): d for d in node.decorator_list}
    if any(mark.endswith(".setter") for mark in marks):
        return None
    returns = ast.unparse(node.returns).strip("'\"") if node.returns else None
    validator = next((marks[mark] for mark in ("field_validator", "model_validator") if mark in marks), None)
    if isinstance(validator, ast.Call):
        fields = [argument.value for argument in validator.args if isinstance(argument, ast.Constant)]
        return {"kind": "validator", "of": fields or "model"}
    found: dict[str, Any] = {"kind": "property" if "property" in marks else "method"}
    if found["kind"] == "method":
        found |= {"parameters": parameters_of(node), "asynchronous": isinstance(node, ast.AsyncFunctionDef)}
    if returns:
        found["type" if found["kind"] == "property" else "returns"] = returns
    if isinstance(status := marks.get("set_api_status"), ast.Call) and isinstance(status.args[0], ast.Constant):
        found["status"] = status.args[0].value
    return found


def _assigned(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, int, str | None]]:
    """(name, line, type) of each public attribute that a method sets on self; the type as far as it is written down."""
    annotated = {a.arg: a.annotation for a in function.args.args if a.annotation is not None}
    for node in ast.walk(function):
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        kind = node.annotation if isinstance(node, ast.AnnAssign) else None
        if kind is None and isinstance(node.value, ast.Name):
            kind = annotated.get(node.value.id)
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self" and target.attr[0] != "_":
                yield target.attr, node.lineno, ast.unparse(kind) if kind is not None else None


def own_members(node: ast.ClassDef, is_enum: bool) -> dict[str, dict[str, Any]]:
    """The public members that the body of a class defines, and "line" of each."""
    members: dict[str, dict[str, Any]] = {}
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            if item.target.id[0] != "_" and not ast.unparse(item.annotation).startswith("ClassVar"):
                members[item.target.id] = _field(item) | {"line": item.lineno}
        elif isinstance(item, ast.Assign) and is_enum and isinstance(item.targets[0], ast.Name):
            members[item.targets[0].id] = {"kind": "value", "value": ast.unparse(item.value), "line": item.lineno}
        elif isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
            for name, line, kind in _assigned(item):
                members.setdefault(name, {"kind": "attribute", "type": kind, "line": line})
            if item.name[0] == "_" and item.name not in PROTOCOL_METHODS:
                continue
            found = _method(item)
            if found is None:
                members[item.name]["settable"] = True
            else:
                members[item.name] = found | {"line": item.lineno}
    return members


def _extra(node: ast.ClassDef) -> str | None:
    """What a pydantic model does with unknown keys: `class Config: extra = ...`, or in its `model_config`."""
    for inner in ast.walk(node):
        if not isinstance(inner, ast.Assign) or (target := ast.unparse(inner.targets[0])) not in (
            "extra",
            "model_config",
        ):
            continue
        value: ast.AST | None = inner.value
        if target == "model_config" and isinstance(value, ast.Dict):
            value = next((v for k, v in zip(value.keys, value.values, strict=True) if k and _text(k) == "extra"), None)
        elif target == "model_config" and isinstance(value, ast.Call):
            value = next((keyword.value for keyword in value.keywords if keyword.arg == "extra"), None)
        if value is not None:
            return _text(value)
    return None


class Release:
    """All classes of the files that were read, with their bases resolved by name."""

    def __init__(self, files: dict[str, SourceFile]) -> None:
        self.nodes: dict[str, tuple[SourceFile, ast.ClassDef]] = {}
        for file in files.values():
            for node in file.tree.body:
                if isinstance(node, ast.ClassDef):
                    self.nodes.setdefault(node.name, (file, node))
        self._shells: dict[str, type] = {}

    def order(self, name: str) -> list[str]:
        """The classes of `name`'s method resolution order that were read; Python itself linearises empty shells."""
        return [shell.__name__ for shell in self._shell(name).__mro__ if shell.__name__ in self.nodes]

    def _shell(self, name: str) -> type:
        if name not in self._shells:
            _, node = self.nodes[name]
            bases = [self._shell(base) for base in map(ast.unparse, node.bases) if base in self.nodes]
            self._shells[name] = types.new_class(name, tuple(bases))
        return self._shells[name]

    def describe(self, name: str, lines: bool) -> dict[str, Any]:
        file, node = self.nodes[name]
        order = self.order(name)
        bases = [ast.unparse(base) for each in order for base in self.nodes[each][1].bases]
        kind = _kind(node, bases)
        members: dict[str, dict[str, Any]] = {}
        for each in reversed(order):
            for member, found in own_members(self.nodes[each][1], kind == "enum").items():
                if not lines:
                    del found["line"]
                if found["kind"] == "attribute" and member in members:
                    continue
                members[member] = found if each == name else found | {"class": each}
        found = {"module": file.module, "kind": kind, "bases": list(dict.fromkeys(bases)), "members": members}
        if any("kw_only=True" in ast.unparse(decorator) for decorator in node.decorator_list):
            found["keyword_only"] = True
        extra = next((rule for each in order if (rule := _extra(self.nodes[each][1]))), None)
        return found if extra is None else found | {"extra": extra}

    def other_keywords(self, name: str) -> list[str]:
        """What a constructor takes beside its parameters and the fields that it compares its keywords with.

        Raises ValueError where it compares them with nothing.
        """
        for node in (inner for each in self.order(name) for inner in ast.walk(self.nodes[each][1])):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "valid_keys":
                return [text for text in map(_text, ast.walk(node.value)) if text is not None]
        raise ValueError(f"{name} no longer compares its keywords with a list of valid ones")

    def keys_read(self, name: str, method: str, parameter: str) -> list[str]:
        """The keys of a mapping that a method is given which it reads by name."""
        bodies = [item for each in self.order(name) for item in self.nodes[each][1].body]
        body = next(item for item in bodies if isinstance(item, ast.FunctionDef) and item.name == method)
        return sorted({key for node in ast.walk(body) if (key := _key_read(node, parameter)) is not None})


def _key_read(node: ast.AST, mapping: str) -> str | None:
    """Of `mapping.get("key")`, `mapping["key"]` and `"key" in mapping`."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == f"{mapping}.get":
        return _text(node.args[0])
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == mapping:
        return _text(node.slice)
    if isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]) == mapping:
        return _text(node.left)
    return None


def _text(node: ast.AST) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _kind(node: ast.ClassDef, bases: list[str]) -> str:
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return "dataclass"
    kinds = {"BaseModel": "model", "TypedDict": "typed_dict", "Enum": "enum", "StrEnum": "enum", "Protocol": "protocol"}
    found = next((kinds[base] for base in bases if base in kinds), None)
    return found or ("exception" if any(base.endswith("Error") for base in bases) else "class")
