"""What an expression of ours is, as far as the package goes, and whether the release allows it. See `api_calls`."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from api_contract import Contract, Kind

PACKAGE = "tensorrt_llm"
LLM = Kind("instance", "LLM")
LLM_NAMES = ("llm", "_llm")
_UNTYPED = {"LLM.args": Kind("instance", "TorchLlmArgs"), "LLM.input_processor": Kind("instance", "InputProcessor")}
"""Attributes whose type the release does not write down."""
_AWAITED = ("wait_for", "shield", "ensure_future", "create_task", "run_coroutine_threadsafe")
_RUN = ("run", "run_until_complete")
_LOOKED_AT = ("isinstance", "type", "id", "bool", "len", "repr", "str", "print", "hasattr", "list", "tuple", "iter")
_HANDED = (*_AWAITED, *_RUN, *_LOOKED_AT, "set_result", "enumerate", "zip", "next", "any", "all", "dict")

Scope = dict[str, "Kind | None"]


@dataclass
class Learned:
    """What all files together say of our own functions and attributes, by "path:function" and "path:Class.name"."""

    functions: dict[str, list[str]] = field(default_factory=dict)
    classes: set[str] = field(default_factory=set)
    arguments: dict[tuple[str, str], Kind] = field(default_factory=dict)
    results: dict[str, Kind] = field(default_factory=dict)
    attributes: dict[str, Kind] = field(default_factory=dict)


class Expressions:
    """The expressions of one file. problems: what it holds against the contract. uses: what of the package it saw
    used, such as "LLM.shutdown"."""

    def __init__(self, contract: Contract, learned: Learned, path: str) -> None:
        self._contract = contract
        self._learned = learned
        self._path = path
        self._class = ""
        self._function = ""
        self._asynchronous = False
        self._origins: dict[str, str] = {}
        self.problems: list[str] = []
        self.uses: set[str] = set()

    def _report(self, node: ast.AST, text: str) -> None:
        self.problems.append(f"{self._path}:{getattr(node, 'lineno', 0)}: {text}")

    def statement(self, node: ast.stmt, scope: Scope) -> None:
        """`Reader` says what a statement does."""
        raise NotImplementedError

    def _child(self, node: ast.AST, scope: Scope) -> None:
        if isinstance(node, ast.stmt):
            self.statement(node, scope)
        elif isinstance(node, ast.expr):
            self.kind(node, scope)
        else:  # handlers, cases and the like
            if isinstance(node, ast.ExceptHandler) and node.name:
                scope[node.name] = None
            for child in ast.iter_child_nodes(node):
                self._child(child, scope)

    def _export(self, node: ast.AST, module: str, name: str) -> Kind | None:
        if module not in self._contract.exports:
            self._report(node, f"the release has no module {module} that the contract knows")
            return None
        try:
            return self._contract.exported(module, name)
        except KeyError:
            self._report(node, f"{module} has no {name}")
            return None

    def _bind(self, target: ast.expr, kind: Kind | None, scope: Scope) -> None:
        match target:
            case ast.Name(id=name):
                scope[name] = kind or (LLM if name in LLM_NAMES else None)
            case ast.Attribute(value=ast.Name(id="self"), attr=name) if self._class:
                if kind is not None:
                    self._learned.attributes[f"{self._class}.{name}"] = kind
            case ast.Attribute(value=value, attr=name):
                self._attribute(target, self.kind(value, scope), name, stored=True)
            case ast.Tuple(elts=targets) | ast.List(elts=targets):
                parts = kind.parts if kind is not None and kind.form == "tuple" else ()
                for index, each in enumerate(targets):
                    part = parts[index] if index < len(parts) else self._element(kind) if not parts else None
                    self._bind(each, part, scope)
            case ast.Starred(value=value):
                self._bind(value, kind, scope)
            case _:
                self.kind(target, scope)

    def kind(self, node: ast.expr, scope: Scope) -> Kind | None:
        """What an expression is; all that it holds is checked on the way."""
        match node:
            case ast.Name(id=name):
                return scope.get(name, LLM if name in LLM_NAMES else None)
            case ast.Attribute(value=value, attr=name):
                return self._of_self(node, scope) or self._attribute(node, self.kind(value, scope), name)
            case ast.Call():
                return self._call(node, scope)
            case ast.Await(value=value):
                kind = self.kind(value, scope)
                return kind.inner if kind is not None and kind.form == "awaitable" else kind
            case ast.Subscript(value=value, slice=index):
                return self._item(node, self.kind(value, scope), index, scope)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                self.kind(test, scope)
                kinds = [self.kind(body, scope), self.kind(orelse, scope)]
                return next((kind for kind in kinds if kind), None)
            case ast.BoolOp(values=values):
                return next((kind for kind in [self.kind(value, scope) for value in values] if kind), None)
            case ast.NamedExpr(target=target, value=value):
                kind = self.kind(value, scope)
                self._bind(target, kind, scope)
                return kind
            case ast.Tuple(elts=elements):
                parts = tuple(self.kind(element, scope) for element in elements)
                return Kind("tuple", parts=parts) if any(parts) else None
            case ast.List(elts=elements) | ast.Set(elts=elements):
                parts = tuple(self.kind(element, scope) for element in elements)
                return next((Kind("list", parts=(part,)) for part in parts if part), None)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                return self._comprehension(node, scope)
            case ast.Dict():
                return self._display(node, scope)
            case ast.Yield(value=value) if value is not None:
                kind = self.kind(value, scope)
                self._result(Kind("list", parts=(kind,)) if kind else None)
                return None
            case ast.Lambda(body=body):
                self.kind(body, {**scope, **{a.arg: None for a in node.args.args}})
                return None
        for child in ast.iter_child_nodes(node):
            self._child(child, scope)
        return None

    def _of_self(self, node: ast.Attribute, scope: Scope) -> Kind | None:
        """An attribute of self that the class was seen to set, or one that bears the name of an LLM."""
        if isinstance(node.value, ast.Name) and node.value.id == "self" and self._class:
            known = self._learned.attributes.get(f"{self._class}.{node.attr}")
            if known is not None:
                return known
        if node.attr in LLM_NAMES and self.kind(node.value, scope) is None:
            return LLM
        return None

    def _attribute(self, node: ast.AST, owner: Kind | None, name: str, *, stored: bool = False) -> Kind | None:
        if owner is None:
            return None
        match owner.form:
            case "module":
                return self._export(node, owner.name, name)
            case "instance" | "class":
                return self._member(node, owner, name, stored)
            case "untyped":
                self._report(node, f"{owner.name} has no type in the contract: its {name} can't be checked")
            case "awaitable" if name == "result":
                return Kind("method", "result", parts=owner.parts)
            case "dict" | "list" | "items" | "keywords":
                return Kind("method", name, parts=(owner,))
        return None

    def _member(self, node: ast.AST, owner: Kind, name: str, stored: bool) -> Kind | None:
        member = self._contract.member(owner.name, name)
        self.uses.add(f"{owner.name}.{name}")
        if member is None or name[0] == "_":
            self._report(node, f"{owner.name} has no {name} for others to use")
            return None
        if member.get("status") == "deprecated":
            self._report(node, f"{owner.name}.{name} is deprecated")
        writable = member["kind"] in ("attribute", "field") or member.get("settable")
        if stored and not writable:
            self._report(node, f"{owner.name}.{name} can't be set")
        if member["kind"] == "method":
            return Kind("method", f"{owner.name}.{name}")
        if member["kind"] == "value":
            return Kind("instance", owner.name)
        if member["type"] is None:
            return _UNTYPED.get(f"{owner.name}.{name}", Kind("untyped", f"{owner.name}.{name}"))
        return self._contract.kind_of(member["type"])

    def _element(self, kind: Kind | None) -> Kind | None:
        """What a loop over it, or an index into it, gives."""
        if kind is None:
            return None
        match kind.form:
            case "list":
                return kind.inner
            case "items":
                return Kind("tuple", parts=(None, kind.inner))
            case "pairs":
                return Kind("tuple", parts=(Kind("keys", names=kind.names), None))
            case "instance" if kind.name == "RequestOutput":
                return kind
        return None

    def _item(self, node: ast.AST, kind: Kind | None, index: ast.expr, scope: Scope) -> Kind | None:
        self.kind(index, scope)
        named = index.value if isinstance(index, ast.Constant) and isinstance(index.value, str) else ""
        if named.split(".")[0] == PACKAGE and ast.unparse(node).startswith(("sys.modules[", "modules[")):
            self._report(node, f"{PACKAGE} out of sys.modules can't be followed")
        if kind is None:
            return None
        if kind.form == "tuple" and isinstance(index, ast.Constant) and isinstance(index.value, int):
            return kind.parts[index.value] if index.value < len(kind.parts) else None
        if kind.form in ("arguments", "dict"):
            return kind if kind.form == "arguments" else kind.inner
        return kind if isinstance(index, ast.Slice) else self._element(kind)

    def _comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp, scope: Scope
    ) -> Kind | None:
        inner = dict(scope)
        for part in node.generators:
            self._bind(part.target, self._element(self.kind(part.iter, inner)), inner)
            for condition in part.ifs:
                self.kind(condition, inner)
        if isinstance(node, ast.DictComp):
            key, value = self.kind(node.key, inner), self.kind(node.value, inner)
            if key is not None and key.form == "keys":
                return Kind("keywords", names=key.names)
            return Kind("dict", parts=(value,)) if value else None
        element = self.kind(node.elt, inner)
        return Kind("list", parts=(element,)) if element else None

    def _display(self, node: ast.Dict, scope: Scope) -> Kind | None:
        for part in (*filter(None, node.keys), *node.values):
            self.kind(part, scope)
        values = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
        keys = [value if isinstance(value, str) else None for value in values]
        if {"prompt", "prompt_token_ids", "multi_modal_data"} & set(keys):
            for key in keys:
                if key not in self._contract.prompt_keys:
                    self._report(node, f"a prompt has no key {key}")
        if keys and all(isinstance(key, str) for key in keys):
            return Kind("keywords", names=frozenset(str(key) for key in keys))
        return None

    def _call(self, node: ast.Call, scope: Scope) -> Kind | None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        called = self.kind(node.func, scope)
        values = [(argument, self.kind(argument, scope)) for argument in node.args]
        named = [(keyword, self.kind(keyword.value, scope)) for keyword in node.keywords]
        if called is not None and called.form == "untyped":
            return None
        if called is not None and not (called.form == "method" and called.parts):
            return self._package_call(node, called, named)
        kinds = [kind for _, kind in values]
        if called is not None:
            return self._container_call(name, called)
        if name in ("getattr", "setattr", "hasattr", "delattr"):
            return self._by_name(node, kinds)
        if name in ("import_module", "__import__") and node.args:
            return self._imported(node)
        if name == "llm_kwargs":
            return Kind("arguments")
        if (own := self._own(node.func)) is not None:
            return self._own_call(own, values, named)
        return self._foreign_call(node, name, [*kinds, *(kind for _, kind in named)])

    def _package_call(self, node: ast.Call, called: Kind, named: list[tuple[ast.keyword, Kind | None]]) -> Kind | None:
        self.uses.add(called.name)
        keywords = [keyword.arg for keyword, _ in named if keyword.arg is not None]
        open_ended = any(isinstance(argument, ast.Starred) for argument in node.args)
        for keyword, kind in named:
            if keyword.arg is None:
                form = kind.form if kind is not None else ""
                open_ended |= form == "arguments"
                keywords += sorted(kind.names) if kind is not None and form == "keywords" else []
                if form not in ("arguments", "keywords"):
                    self._report(node, f"{called.name} is given **{ast.unparse(keyword.value)}: its keys can't be seen")
        # Keys of a mapping may be left out of it where it is made, so none of them makes up for a missing argument.
        for text in self._contract.call_problems(called, len(node.args), keywords, open_ended=open_ended):
            self._report(node, text)
        if called.form == "class":
            return Kind("instance", called.name)
        if called.form != "method":
            return None
        owner, _, name = called.name.rpartition(".")
        member = self._contract.member(owner, name) or {}
        result = self._contract.kind_of(member.get("returns"))
        return Kind("awaitable", parts=(result,)) if result and member.get("asynchronous") else result

    def _container_call(self, name: str, called: Kind) -> Kind | None:
        """A method of a list or dict that holds objects of the package, or the result of a Future of one."""
        held = called.inner
        if called.name == "result" or held is None:
            return held
        if held.form == "keywords":
            return Kind("pairs", names=held.names) if name == "items" else None
        if held.form == "dict":
            forms = {"items": Kind("items", parts=held.parts), "values": Kind("list", parts=held.parts)}
            return forms.get(name, held.inner if name in ("get", "pop") else None)
        return held.inner if name == "pop" else held if name == "copy" else None

    def _result(self, kind: Kind | None) -> None:
        """What the function that is being read gives."""
        if kind is not None and self._function:
            wrapped = Kind("awaitable", parts=(kind,)) if self._asynchronous else kind
            self._learned.results.setdefault(self._function, wrapped)

    def _by_name(self, node: ast.Call, kinds: list[Kind | None]) -> Kind | None:
        if kinds[0] is None or kinds[0].form not in ("module", "instance", "class"):
            return None
        name = node.args[1]
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            return self._attribute(node, kinds[0], name.value, stored=ast.unparse(node.func) == "setattr")
        if not self._function.endswith("__getattr__"):
            self._report(node, f"{ast.unparse(name)} of a {kinds[0].name} can't be seen")
        return None

    def _imported(self, node: ast.Call) -> Kind | None:
        name = node.args[0]
        text = name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else ""
        if text.split(".")[0] != PACKAGE:
            return None
        if text not in self._contract.exports:
            self._report(node, f"the release has no module {text} that the contract knows")
            return None
        return Kind("module", text)

    def _own(self, node: ast.expr) -> str | None:
        """The function or class of ours that is called, as `Learned` has it; None for all others."""
        functions = self._learned.functions
        match node:
            case ast.Name(id="cls") if self._class:
                found = self._class
            case ast.Name(id=name):
                found = self._origins.get(name, f"{self._path}:{name}")
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name) if self._class:
                found = f"{self._class}.{name}"
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner in self._origins:
                origin = self._origins[owner]  # a class of ours, or a module
                module = origin if origin.endswith(".py") else f"{origin.replace('.py:', '/')}.py"
                found = f"{origin}.{name}" if origin in functions else f"{module}:{name}"
            case ast.Attribute(attr=name):
                methods = [each for each in functions if each.endswith(f".{name}")]
                found = methods[0] if len(methods) == 1 else ""
            case _:
                found = ""
        return found if found in functions else None

    def _own_call(
        self,
        own: str,
        values: list[tuple[ast.expr, Kind | None]],
        named: list[tuple[ast.keyword, Kind | None]],
    ) -> Kind | None:
        parameters = self._learned.functions[own]
        given = {**dict(zip(parameters, (kind for _, kind in values), strict=False))}
        given |= {keyword.arg: kind for keyword, kind in named if keyword.arg is not None}
        is_class = own in self._learned.classes
        for parameter, kind in given.items():
            if kind is not None and kind.is_package:
                self._learned.arguments[(f"{own}.__init__" if is_class else own, parameter)] = kind
                if is_class and f"{own}.__init__" not in self._learned.functions:
                    self._learned.attributes[f"{own}.{parameter}"] = kind
        return self._learned.results.get(own)

    def _foreign_call(self, node: ast.Call, name: str, kinds: list[Kind | None]) -> Kind | None:
        tracked = [kind for kind in kinds if kind is not None and kind.is_package]
        if not tracked:
            return None
        first = tracked[0]
        if name in _AWAITED:
            return first if first.form == "awaitable" else Kind("awaitable", parts=(first,))
        if name in _RUN:
            return first.inner if first.form == "awaitable" else first
        if name == "zip":
            return Kind("list", parts=(Kind("tuple", parts=tuple(map(self._element, kinds))),))
        if name == "enumerate":
            return Kind("list", parts=(Kind("tuple", parts=(None, self._element(first))),))
        if name in ("list", "tuple", "iter"):
            return first
        if name == "next":
            return self._element(first)
        for kind in tracked:
            if name not in _HANDED and not self._needs_nothing(kind):
                self._report(
                    node, f"{kind.name or kind.form} is handed to {ast.unparse(node.func)}: it can't be followed"
                )
        return None

    def _needs_nothing(self, kind: Kind) -> bool:
        """A method that can be called as it is, such as `output.abort` in a callback."""
        return kind.form == "method" and not any(self._contract.call_problems(kind, 0, ()))
