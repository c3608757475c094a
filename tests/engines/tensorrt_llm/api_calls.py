"""Every import, call, keyword and attribute of the package in our files, held against the contract.

The files are read together, and what an expression is (`Kind`) is followed from where the package gives it: through
assignments, unpacking, loops, arguments and results of our own functions, and attributes of self. What can't be
followed is a problem too, not a pass:
- an object of the package that is handed to something outside the files, but for what `_HANDED` names;
- `**mapping` into the package, but for `EngineConfig.llm_kwargs` (its keys are checked as engine.yaml's) and for a
  mapping whose keys are written down where it is made;
- getattr or setattr with a name that is not written down, but in a `__getattr__`;
- `tensorrt_llm` by a string, but for `import_module("tensorrt_llm...")`.

Where an `LLM` comes out of a place that hides it (a Future, a parameter of type Any), it is called `llm` or `_llm`:
that name is taken for one. A dict display with a key of a prompt is taken for a prompt. `llm.tokenizer` is the Hugging
Face tokenizer: no contract of the package.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from api_contract import Contract, Kind
from api_expressions import LLM, LLM_NAMES, PACKAGE, Expressions, Learned, Scope

_ROUNDS = 10
"""More than enough for what is learned to come from the innermost function to the outermost caller."""


@dataclass(frozen=True)
class Reading:
    """problems: "path:line: what is wrong", in the order of the files. uses: what of the package the files use."""

    problems: tuple[str, ...]
    uses: frozenset[str]


def read_calls(sources: Mapping[str, str], contract: Contract) -> Reading:
    """All files together: path -> source."""
    trees = {path: ast.parse(text) for path, text in sources.items()}
    learned = Learned()
    for path, tree in trees.items():
        _declare(path, tree, learned)
    before, readers = "", list[Reader]()
    for _ in range(_ROUNDS):
        if before == repr(learned):
            break
        before = repr(learned)
        readers = [Reader(contract, learned, path) for path in trees]
        for reader, tree in zip(readers, trees.values(), strict=True):
            reader.block(tree.body, {})
    problems = dict.fromkeys(problem for reader in readers for problem in reader.problems)
    return Reading(tuple(problems), frozenset[str]().union(*(reader.uses for reader in readers)))


def _declare(path: str, tree: ast.Module, learned: Learned) -> None:
    """Our functions with their parameters, and our classes with those of their constructors: a dataclass's fields."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            learned.functions[f"{path}:{node.name}"] = _parameters(node)
        elif isinstance(node, ast.ClassDef):
            name = f"{path}:{node.name}"
            fields = [n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
            methods = [n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
            own = {f"{name}.{method.name}": _parameters(method)[1:] for method in methods}
            learned.functions |= {**own, name: own.get(f"{name}.__init__", fields)}
            learned.classes.add(name)


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    return [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]


class Reader(Expressions):
    """The statements of one file."""

    def block(self, body: Sequence[ast.stmt], scope: Scope) -> None:
        for node in body:
            self.statement(node, scope)

    def statement(self, node: ast.stmt, scope: Scope) -> None:
        match node:
            case ast.Import():
                self._import(node, scope)
            case ast.ImportFrom():
                self._import_from(node, scope)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._define(node, scope)
            case ast.ClassDef():
                outer, self._class = self._class, f"{self._path}:{node.name}"
                self.block(node.body, dict(scope))
                self._class = outer
            case ast.Assign(targets=targets, value=value):
                kind = self.kind(value, scope)
                for target in targets:
                    self._bind(target, kind, scope)
            case ast.AnnAssign(target=target, value=value) if value is not None:
                self._bind(target, self.kind(value, scope), scope)
            case ast.For(target=target, iter=source) | ast.AsyncFor(target=target, iter=source):
                self._bind(target, self._element(self.kind(source, scope)), scope)
                self.block([*node.body, *node.orelse], scope)
            case ast.With(items=items) | ast.AsyncWith(items=items):
                for item in items:
                    kind = self.kind(item.context_expr, scope)
                    if item.optional_vars is not None:
                        self._bind(item.optional_vars, kind, scope)
                self.block(node.body, scope)
            case ast.Return(value=value) if value is not None:
                self._result(self.kind(value, scope))
            case _:
                for child in ast.iter_child_nodes(node):
                    self._child(child, scope)

    def _import(self, node: ast.Import, scope: Scope) -> None:
        for alias in node.names:
            ours = alias.name.split(".")[0] == PACKAGE
            if ours and alias.name not in self._contract.exports:
                self._report(node, f"the release has no module {alias.name} that the contract knows")
            bound = alias.asname or alias.name.split(".")[0]
            scope[bound] = Kind("module", alias.name if alias.asname else PACKAGE) if ours else None
            self._origins[bound] = f"{(alias.name if alias.asname else bound).replace('.', '/')}.py"

    def _import_from(self, node: ast.ImportFrom, scope: Scope) -> None:
        module = node.module or ""
        ours = not node.level and module.split(".")[0] == PACKAGE
        for alias in node.names:
            bound = alias.asname or alias.name
            scope[bound] = self._export(node, module, alias.name) if ours else None
            self._origins[bound] = f"{module.replace('.', '/')}.py:{alias.name}"

    def _define(self, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: Scope) -> None:
        in_class = self._class and not self._function
        own = f"{self._class}.{node.name}" if in_class else f"{self._path}:{node.name}"
        self._learned.functions.setdefault(own, _parameters(node))
        inner = dict(scope)
        arguments = node.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            known = self._learned.arguments.get((own, argument.arg)) or self._annotated(argument.annotation, scope)
            inner[argument.arg] = known or (LLM if argument.arg in LLM_NAMES else None)
        for argument in filter(None, (arguments.vararg, arguments.kwarg)):
            inner[argument.arg] = None
        for default in (*arguments.defaults, *filter(None, arguments.kw_defaults)):
            self.kind(default, scope)
        outer = self._function, self._asynchronous
        self._function, self._asynchronous = own, isinstance(node, ast.AsyncFunctionDef)
        self.block(node.body, inner)
        self._function, self._asynchronous = outer

    def _annotated(self, node: ast.expr | None, scope: Scope) -> Kind | None:
        """Of a parameter: only a name that is bound to a class of the package, or that name in quotes."""
        name = node.value if isinstance(node, ast.Constant) else ast.unparse(node) if node is not None else None
        bound = scope.get(name) if isinstance(name, str) else None
        return Kind("instance", bound.name) if bound is not None and bound.form == "class" else None
