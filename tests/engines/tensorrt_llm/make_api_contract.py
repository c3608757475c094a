"""What our engine may touch of TensorRT-LLM, from the release's own source: `api_contract_1.2.1.json`.

    git clone --filter=blob:none --no-checkout --branch gh-pages URL_OF_THE_REPOSITORY pages
    git -C pages sparse-checkout set 1.2.1/_modules 1.2.1/_sources/llm-api 1.2.1/examples
    git -C pages checkout 58fb435eacc402f3bd177e60f592c955d2b0719d
    python tests/engines/tensorrt_llm/make_api_contract.py pages/1.2.1

Or with the folder into which the real wheel was unpacked. The pages show nothing of `tensorrt_llm/inputs`: those files
go below `pages/1.2.1/tensorrt_llm`, from a neighbouring commit that `origin.json` names (`source_pages`); a wheel has
them itself. Nothing is imported: the source is read with `ast`. Defaults and types are the source's own text. A member
names the class that defines it where that is a base, and its line (from pages and wheels; a transcript has none).
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from class_facts import Release, parameters_of
from source_pages import RELEASE, REPOSITORY, SourceFile, SourceFolder, imports_of

CONTRACT = Path(__file__).parent / f"api_contract_{RELEASE}.json"

READ = (
    "tensorrt_llm",
    "tensorrt_llm.llmapi",
    "tensorrt_llm.inputs",
    "tensorrt_llm.llmapi.llm",
    "tensorrt_llm.llmapi.llm_args",
    "tensorrt_llm.sampling_params",
    "tensorrt_llm.executor.result",
    "tensorrt_llm.executor.utils",
    "tensorrt_llm.inputs.data",
    "tensorrt_llm.inputs.registry",
    "examples.llm_guided_decoding",
)
CLASSES = {
    "tensorrt_llm.llmapi.llm": ("LLM", "RequestOutput"),
    "tensorrt_llm.llmapi.llm_args": (
        "TorchLlmArgs",
        "KvCacheConfig",
        "CudaGraphConfig",
        "SchedulerConfig",
        "DynamicBatchConfig",
        "CapacitySchedulerPolicy",
        "ContextChunkingPolicy",
    ),
    "tensorrt_llm.sampling_params": ("SamplingParams", "GuidedDecodingParams"),
    "tensorrt_llm.executor.result": ("CompletionOutput", "Logprob", "IterationResult"),
    "tensorrt_llm.executor.utils": ("RequestError",),
    "tensorrt_llm.inputs.data": ("TextPrompt", "TokensPrompt"),
    "tensorrt_llm.inputs.registry": ("InputProcessor", "DefaultInputProcessor"),
}
KEYWORDS_OF = {"LLM": "TorchLlmArgs"}
"""Classes whose other keywords must be fields of another class: `LLM.__init__` compares them with model_fields."""
KEYS_READ = ("LLM", "generate_async", "inputs")
FUNCTIONS = {
    "tensorrt_llm.inputs.data": ("prompt_inputs",),
    "tensorrt_llm.inputs.registry": ("create_input_processor_with_hash",),
}


def importable(folder: SourceFolder, files: dict[str, SourceFile]) -> dict[str, dict[str, str]]:
    """module -> name -> what shows that it can be imported from there; the release's own word before a neighbour's."""
    shown = sorted(_shown(folder, files), key=lambda found: (found[2].evidence != RELEASE, found[0], found[1]))
    names: dict[str, dict[str, str]] = {module: {} for module in READ if not module.startswith("examples.")}
    for module, name, file, how in shown:
        if module in names and (name[0] != "_" or name == "__version__"):
            neighbour = "" if file.evidence == RELEASE else f" ({file.evidence})"
            names[module].setdefault(name, f"{how} {file.path}{neighbour}")
    return {module: dict(sorted(found.items())) for module, found in names.items()}


def _shown(folder: SourceFolder, files: dict[str, SourceFile]) -> Iterator[tuple[str, str, SourceFile, str]]:
    """(module, name, file, how): a definition in the module, a place in the reference, an import in another file."""
    if documented := folder.documented():
        file, names = documented
        yield from (("tensorrt_llm.llmapi", name, file, "documented in") for name in names)
    for module, file in files.items():
        for node in file.tree.body:
            yield from ((module, name, file, "defined in") for name in _bound(node, file.is_package))
        yield from ((source, name, file, "imported in") for source, name in imports_of(file))


def _bound(node: ast.stmt, is_package: bool) -> list[str]:
    """The names that a statement of a module defines; of a package's __init__ also what it imports."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    if isinstance(node, ast.ImportFrom) and is_package:
        return [alias.asname or alias.name for alias in node.names]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def make(folder: SourceFolder) -> dict[str, Any]:
    """Raises ValueError where a class or function that our engine needs is not in the folder."""
    files = {module: file for module in READ if (file := folder.find(module))}
    release = Release(files)
    missing = [name for names in CLASSES.values() for name in names if name not in release.nodes]
    if missing:
        raise ValueError(f"{folder.folder} holds no class {', '.join(missing)}")
    classes = {
        name: {"evidence": files[module].evidence} | release.describe(name, not folder.is_transcript)
        for module, names in CLASSES.items()
        for name in names
    }
    for name, fields_of in KEYWORDS_OF.items():
        classes[name]["keywords"] = {"fields_of": fields_of, "also": release.other_keywords(name)}
    owner, method, _ = KEYS_READ
    classes[owner]["members"][method]["keys_read"] = release.keys_read(*KEYS_READ)
    read = [*files.values(), *([documented[0]] if (documented := folder.documented()) else [])]
    return {
        "package": "tensorrt_llm",
        "release": RELEASE,
        "input": {
            "kind": folder.kind,
            "statement": STATEMENTS[folder.kind],
            "regenerate": "python tests/engines/tensorrt_llm/make_api_contract.py FOLDER (see its docstring)",
            "repository": REPOSITORY,
            "files": [
                {"module": f.module, "path": f.path, "commit": f.commit, "evidence": f.evidence, "sha256": f.sha256}
                for f in read
            ],
        },
        "importable": importable(folder, files),
        "aliases": dict(_aliases(files)),
        "functions": {
            name: {"module": module} | _function(files[module], name)
            for module, names in FUNCTIONS.items()
            for name in names
        },
        "classes": classes,
    }


STATEMENTS = {
    "pages": "Read from the pages of the documentation that hold the release's own source.",
    "source": "Read from the release's own .py files.",
    "transcript": (
        "Read from a transcript: headers, fields, signatures and defaults that were typed from the pages named below, "
        "where those could be read but not downloaded. sha256 is that of the transcript's file. Neighbours are files "
        "of another commit, for what the pages don't show. Regenerate it from the pages or the wheel to confirm it."
    ),
}


def _aliases(files: dict[str, SourceFile]) -> Iterator[tuple[str, str]]:
    for file in files.values():
        for node in file.tree.body:
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias" and node.value:
                yield ast.unparse(node.target), ast.unparse(node.value)


def _function(file: SourceFile, name: str) -> dict[str, Any]:
    for node in file.tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return {"evidence": file.evidence, "parameters": parameters_of(node)}
    raise ValueError(f"{file.path} holds no function {name}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path, help="with the pages of the release, or its unpacked wheel")
    parser.add_argument("-o", "--output", type=Path, default=CONTRACT, help="default: the contract beside this script")
    args = parser.parse_args(arguments)
    try:
        contract = make(SourceFolder(args.folder))
    except (OSError, ValueError, SyntaxError) as error:
        sys.exit(f"make_api_contract: {error}")
    args.output.write_text(json.dumps(contract, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
