"""The contract, asked: what a module exports, what an object has, what a call may be given, what a key may hold."""

from __future__ import annotations

import ast
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

_PLAIN: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "dict": Mapping,
    "None": type(None),
}


@dataclass(frozen=True)
class Kind:
    """What an expression is, as far as the package is concerned.

    form: module | class | function | method (of the class or module `name`), instance of the class `name`, awaitable,
    list or dict of parts[0], items (of such a dict), tuple of parts; untyped: of the package, and the contract does
    not say what. keywords: a mapping with no other keys than `names`; pairs, keys: its items, its keys; arguments: what
    `EngineConfig.llm_kwargs` gave, which is checked key by key elsewhere.
    """

    form: str
    name: str = ""
    parts: tuple[Kind | None, ...] = ()
    names: frozenset[str] = frozenset()

    @property
    def inner(self) -> Kind | None:
        return self.parts[0] if self.parts else None

    @property
    def is_package(self) -> bool:
        """Whether an object of the package is in it."""
        if self.form in ("list", "dict", "items", "tuple", "awaitable"):
            return any(part is not None and part.is_package for part in self.parts)
        return self.form not in ("keywords", "pairs", "keys", "arguments")


@dataclass(frozen=True)
class Contract:
    """The JSON that `make_api_contract` writes."""

    values: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Contract:
        return cls(json.loads(path.read_text(encoding="utf-8")))

    @property
    def classes(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.values["classes"]
        return found

    @property
    def exports(self) -> Mapping[str, Mapping[str, str]]:
        found: Mapping[str, Mapping[str, str]] = self.values["importable"]
        return found

    def exported(self, module: str, name: str) -> Kind | None:
        """What `from module import name` binds. Raises KeyError where the release has no such name."""
        if f"{module}.{name}" in self.exports:
            return Kind("module", f"{module}.{name}")
        if name not in self.exports[module]:
            raise KeyError(name)
        if name in self.classes:
            return Kind("class", name)
        if name in self.values["functions"]:
            return Kind("function", name)
        return None if name == "__version__" else Kind("untyped", name)

    def member(self, owner: str, name: str) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self.classes[owner]["members"].get(name)
        return found if found is None or found["kind"] != "validator" else None

    def fields(self, owner: str) -> dict[str, Mapping[str, Any]]:
        return {name: m for name, m in self.classes[owner]["members"].items() if m["kind"] == "field"}

    @cached_property
    def prompt_keys(self) -> frozenset[str]:
        """Of a prompt that is a dict: those of its two types, and those that `generate_async` reads."""
        read = self.classes["LLM"]["members"]["generate_async"]["keys_read"]
        return frozenset({*self.fields("TextPrompt"), *self.fields("TokensPrompt"), *read})

    def parameters(self, kind: Kind) -> list[Mapping[str, Any]] | None:
        """Of a class's constructor, a method or a function; None for what can't be called."""
        if kind.form == "class":
            described = self.classes[kind.name]
            if described["kind"] in ("dataclass", "model", "typed_dict"):
                by_name = described["kind"] != "dataclass" or described.get("keyword_only")
                how = {"kind": "keyword" if by_name else "positional"}
                return [
                    {**field, **how, "name": name} | ({"default": "..."} if field.get("optional") else {})
                    for name, field in self.fields(kind.name).items()
                ]
            if described["kind"] == "enum":
                return [{"name": "value", "kind": "positional"}]
            if described["kind"] == "exception":
                return [{"name": "args", "kind": "variable"}]
            kind = Kind("method", f"{kind.name}.__init__")
        if kind.form == "instance":
            kind = Kind("method", f"{kind.name}.__call__")
        if kind.form == "function":
            found: list[Mapping[str, Any]] = self.values["functions"][kind.name]["parameters"]
            return found
        if kind.form != "method":
            return None
        owner, _, name = kind.name.rpartition(".")
        member = self.member(owner, name)
        return member["parameters"] if member is not None and member["kind"] == "method" else None

    def call_problems(
        self, kind: Kind, positional: int, keywords: Collection[str], *, open_ended: bool = False
    ) -> Iterator[str]:
        """Why a call of `kind` with so many arguments in order and these by name is not one of the release.

        open_ended: more is given than can be seen (`*values`).
        """
        parameters = self.parameters(kind)
        if parameters is None:
            yield f"{kind.name} can't be called"
            return
        by_order = [p for p in parameters if p["kind"] == "positional"]
        by_name = {p["name"]: p for p in parameters if p["kind"] in ("positional", "keyword")}
        if positional > len(by_order) and not any(p["kind"] == "variable" for p in parameters):
            yield f"{kind.name} takes {len(by_order)} arguments in order, not {positional}"
        others = self._other_keywords(kind)
        for name in keywords:
            if name[0] == "_":
                yield f"{kind.name}: {name} is private"
            elif name not in by_name and name not in others:
                yield f"{kind.name} has no parameter {name}"
            elif {**others, **by_name}[name].get("status") == "deprecated":
                yield f"{kind.name}: {name} is deprecated"
        given = {*keywords, *(p["name"] for p in by_order[:positional])}
        missing = [name for name, p in by_name.items() if "default" not in p and name not in given]
        if missing and not open_ended:
            yield f"{kind.name} needs {', '.join(missing)}"

    def _other_keywords(self, kind: Kind) -> dict[str, Mapping[str, Any]]:
        rule = self.classes[kind.name].get("keywords") if kind.form == "class" else None
        return {} if rule is None else self.fields(rule["fields_of"])

    def kind_of(self, annotation: str | ast.expr | None) -> Kind | None:
        """What a type of the release says: Optional and unions are what they hold of the package."""
        if annotation is None:
            return None
        node = ast.parse(annotation, mode="eval").body if isinstance(annotation, str) else annotation
        match node:
            case ast.Constant(value=str() as text):
                return self.kind_of(text)
            case ast.Attribute(attr=name) | ast.Name(id=name):
                return self._named(name)
            case ast.BinOp(left=left, right=right):
                return self.kind_of(left) or self.kind_of(right)
            case ast.Subscript(value=ast.Name(id=outer), slice=inner):
                held = inner.elts if isinstance(inner, ast.Tuple) else [inner]
                kinds = [self.kind_of(each) for each in held]
                if outer in ("Optional", "Union"):
                    return next((kind for kind in kinds if kind), None)
                if outer.lower() in ("list", "sequence", "iterator", "iterable") and kinds[0]:
                    return Kind("list", parts=(kinds[0],))
                if outer.lower() in ("dict", "mapping") and kinds[-1]:
                    return Kind("dict", parts=(kinds[-1],))
        return None

    def _named(self, name: str) -> Kind | None:
        if name in self.values["aliases"]:
            return self.kind_of(self.values["aliases"][name])
        heirs = [each for each, described in self.classes.items() if name in (each, *described["bases"])]
        return Kind("instance", heirs[0]) if len(heirs) == 1 else Kind("instance", name) if name in heirs else None

    def config_problems(self, values: Mapping[str, Any], owner: str = "TorchLlmArgs", path: str = "") -> Iterator[str]:
        """Why a mapping is not one of arguments for `owner`; nested mappings are those of its fields' classes."""
        fields = self.fields(owner)
        for key, value in values.items():
            shown = f"{path}{key}"
            if key not in fields:
                yield f"{owner} has no field {shown}"
                continue
            kind = self.kind_of(fields[key]["type"])
            if fields[key].get("status") == "deprecated":
                yield f"{shown} is deprecated"
            if isinstance(value, Mapping) and kind is not None and self.classes[kind.name]["kind"] == "model":
                yield from self.config_problems(value, kind.name, f"{shown}.")
            elif not self._holds(ast.parse(fields[key]["type"], mode="eval").body, value):
                yield f"{shown} is {fields[key]['type']}, not {value!r}"

    def _holds(self, node: ast.expr, value: object) -> bool:
        """Whether a value out of a YAML file is one of a type. A class that the contract does not hold has none."""
        match node:
            case ast.Constant(value=None):
                return value is None
            case ast.Name(id="object" | "Any" | "Path"):
                return True
            case ast.Name(id=name) if name in _PLAIN:
                return isinstance(value, _PLAIN[name]) and (name == "bool" or not isinstance(value, bool))
            case ast.Name(id=name) if name in self.classes and self.classes[name]["kind"] == "enum":
                members = self.classes[name]["members"].values()
                return repr(value) in [m["value"] for m in members if m["kind"] == "value"]
            case ast.BinOp(left=left, right=right):
                return self._holds(left, value) or self._holds(right, value)
            case ast.Subscript(value=ast.Name(id=outer), slice=inner):
                held = inner.elts if isinstance(inner, ast.Tuple) else [inner]
                if outer == "Literal":
                    return any(isinstance(each, ast.Constant) and each.value == value for each in held)
                if outer in ("Optional", "Union"):
                    return (outer == "Optional" and value is None) or any(self._holds(each, value) for each in held)
                if outer in ("List", "list"):
                    return isinstance(value, list) and all(self._holds(held[0], each) for each in value)
                return outer in ("Dict", "dict") and isinstance(value, Mapping)
        return False
