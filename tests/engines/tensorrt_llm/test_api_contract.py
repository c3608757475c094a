"""The contract of TensorRT-LLM 1.2.1: how it is made, what stands in it, that engine.yaml and the double keep it."""

from __future__ import annotations

import ast
import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_contract import Contract
from class_facts import Release
from make_api_contract import CLASSES, CONTRACT, READ, main
from source_pages import PAGES_COMMIT, RELEASE, SourceFolder, page_source

from engines.tensorrt_llm.engine_config import ENGINE_CONFIG, PRECISIONS, EngineConfig

DOUBLE = Path(__file__).parents[2] / "tensorrt_llm_double"
MADE_BY_THE_PACKAGE = ("RequestOutput", "IterationResult", "DefaultInputProcessor")
"""Nobody else calls their constructors."""
SET_BY_VALIDATORS = {"backend": "'pytorch'", "max_batch_size": "2048", "max_input_len": "1024", "max_beam_width": "1"}
"""Of TorchLlmArgs: init_backend, validate_misc, set_default_max_input_len. A field of the double may begin with it."""


@pytest.fixture(scope="module")
def contract() -> Contract:
    return Contract.read(CONTRACT)


def test_it_names_what_it_was_made_from(contract: Contract) -> None:
    made_from = contract.values["input"]
    assert contract.values["release"] == RELEASE
    assert made_from["kind"] in ("pages", "source", "transcript")
    for file in made_from["files"]:
        assert re.fullmatch(r"[0-9a-f]{40}", file["commit"])
        assert re.fullmatch(r"[0-9a-f]{64}", file["sha256"])
        assert file["evidence"] in (RELEASE, "neighbour")
        assert made_from["kind"] == "source" or (file["commit"] == PAGES_COMMIT) == (file["evidence"] == RELEASE)


def test_only_prompts_and_processors_rest_on_neighbours(contract: Contract) -> None:
    neighbours = {name for name, described in contract.classes.items() if described["evidence"] != RELEASE}
    assert neighbours <= {"TextPrompt", "TokensPrompt", "InputProcessor", "DefaultInputProcessor"}


@pytest.mark.parametrize(
    ("owner", "member", "facts"),
    [
        ("SamplingParams", "max_tokens", {"type": "int", "default": "32"}),
        ("SamplingParams", "logprobs", {"default": "None"}),
        ("KvCacheConfig", "enable_block_reuse", {"default": "True"}),
        ("KvCacheConfig", "free_gpu_memory_fraction", {"default": "0.9"}),
        ("TorchLlmArgs", "attn_backend", {"default": "'TRTLLM'", "status": "beta"}),
        ("TorchLlmArgs", "max_num_tokens", {"default": "8192", "class": "BaseLlmArgs"}),
        ("TorchLlmArgs", "backend", {"status": "deprecated"}),
        ("TorchLlmArgs", "cuda_graph_config", {"default": "CudaGraphConfig()"}),
        ("LLM", "tokenizer", {"kind": "property", "settable": True, "class": "BaseLLM"}),
        ("LLM", "input_processor", {"kind": "attribute", "class": "_TorchLLM"}),
        ("LLM", "get_stats_async", {"returns": "IterationResult", "status": "beta", "asynchronous": False}),
        ("RequestOutput", "aresult", {"asynchronous": True, "parameters": []}),
        ("RequestOutput", "finished", {"kind": "property", "type": "bool"}),
    ],
)
def test_what_the_engine_rests_on(contract: Contract, owner: str, member: str, facts: dict[str, Any]) -> None:
    found = contract.classes[owner]["members"][member]
    assert {name: found.get(name) for name in facts} == facts


def test_an_over_long_prompt_is_no_value_error(contract: Contract) -> None:
    assert contract.classes["RequestError"]["bases"] == ["RuntimeError"]
    assert contract.classes["RequestError"]["module"] == "tensorrt_llm.executor.utils"


def test_unknown_keys_are_errors_of_the_package(contract: Contract) -> None:
    assert contract.classes["LLM"]["keywords"] == {"fields_of": "TorchLlmArgs", "also": ["_mpi_session", "backend"]}
    models = [name for name, described in contract.classes.items() if described["kind"] == "model"]
    assert [contract.classes[name]["extra"] for name in models] == ["forbid"] * 5


# How it is made


SOURCE = '''\
"""A module."""


class Base(BaseModel):

    class Config:
        extra = "forbid"

    size: Optional[int] = Field(default=None, status="beta")

    def close(self, now: bool = False) -> None:
        """Ends "it" < & >."""
        self.state: int = 0


class Heir(Base):
    name: str = 'a<b'
    parts: List[str] = Field(default_factory=list)
    old: int = Field(default=1, deprecated="no more")
'''


def as_page(source: str) -> str:
    """As Sphinx shows it: escaped and in spans, with a link in front of each class and a tag behind its last line."""
    tree, lines = ast.parse(source), [f"<span>{html.escape(line)}</span>" for line in source.split("\n")]
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)):
        assert node.end_lineno is not None
        link = f'<a class="viewcode-back" href="x.html#{node.name}">[docs]</a>'
        lines[node.lineno - 1] = f'<div class="viewcode-block" id="{node.name}">\n{link}\n' + lines[node.lineno - 1]
        lines[node.end_lineno - 1] += "</div>\n"
    code = "\n".join(lines)
    return f'<nav><a>x</a></nav><div class="highlight"><pre>\n{code}</pre></div><footer></footer>'


def test_a_page_gives_the_source_it_was_made_from() -> None:
    assert page_source(as_page(SOURCE)) == SOURCE


def test_a_page_without_code_is_refused() -> None:
    with pytest.raises(ValueError, match="no highlighted code"):
        page_source("<html><pre>none</pre></html>")


@pytest.mark.parametrize("layout", ["_modules/tensorrt_llm/a.html", "tensorrt_llm/a.py", "tensorrt_llm/a/__init__.py"])
def test_page_and_source_give_the_same_facts(tmp_path: Path, layout: str) -> None:
    path = tmp_path / layout
    path.parent.mkdir(parents=True)
    path.write_text(as_page(SOURCE) if layout.endswith("html") else SOURCE, encoding="utf-8")
    file = SourceFolder(tmp_path).find("tensorrt_llm.a")
    assert file is not None
    heir = Release({"tensorrt_llm.a": file}).describe("Heir", lines=True)
    assert (heir["kind"], heir["extra"], heir["bases"]) == ("model", "forbid", ["Base", "BaseModel"])
    assert heir["members"] == {
        "size": {
            "kind": "field", "type": "Optional[int]", "default": "None", "status": "beta", "line": 9, "class": "Base",
        },
        "state": {"kind": "attribute", "type": "int", "line": 13, "class": "Base"},
        "close": {
            "kind": "method", "asynchronous": False, "returns": "None", "line": 11, "class": "Base",
            "parameters": [{"name": "now", "kind": "positional", "default": "False"}],
        },
        "name": {"kind": "field", "type": "str", "default": "'a<b'", "line": 17},
        "parts": {"kind": "field", "type": "List[str]", "default": "list()", "line": 18},
        "old": {"kind": "field", "type": "int", "default": "1", "status": "deprecated", "line": 19},
    }  # fmt: skip


def test_a_folder_without_the_release_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="holds no class LLM, RequestOutput"):
        main([str(tmp_path), "-o", str(tmp_path / "contract.json")])
    assert not (tmp_path / "contract.json").exists()


# engine.yaml


@pytest.mark.parametrize("precision", PRECISIONS)
def test_engine_yaml_holds_keys_and_values_of_the_release(contract: Contract, tmp_path: Path, precision: str) -> None:
    config = EngineConfig.for_profile(precision, 4096)
    config.write(tmp_path)
    written = yaml.safe_load((tmp_path / ENGINE_CONFIG).read_text(encoding="utf-8"))
    assert list(contract.config_problems(written)) == []
    assert list(contract.config_problems(config.llm_kwargs(tmp_path))) == []


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"max_wait_ms": 5}, "TorchLlmArgs has no field max_wait_ms"),
        ({"kv_cache_config": {"block_reuse": True}}, "KvCacheConfig has no field kv_cache_config.block_reuse"),
        ({"kv_cache_config": {"max_tokens": "all"}}, "kv_cache_config.max_tokens is Optional[int], not 'all'"),
        ({"kv_cache_config": None}, "kv_cache_config is KvCacheConfig, not None"),
        (
            {"scheduler_config": {"dynamic_batch_config": {"window": 1}}},
            "no field scheduler_config.dynamic_batch_config.w",
        ),
        ({"scheduler_config": {"capacity_scheduler_policy": "NO_EVICT"}}, "is CapacitySchedulerPolicy, not 'NO_EVICT'"),
        ({"guided_decoding_backend": "outlines"}, "guided_decoding_backend is Optional[Literal["),
        ({"enable_chunked_prefill": 0}, "enable_chunked_prefill is bool, not 0"),
        ({"max_batch_size": True}, "max_batch_size is Optional[int], not True"),
        ({"backend": "pytorch"}, "backend is deprecated"),
        ({"moe_config": {"backend": "x"}}, "moe_config is MoeConfig, not {'backend': 'x'}"),
    ],
)
def test_a_key_or_value_of_no_release_is_found(contract: Contract, values: dict[str, Any], problem: str) -> None:
    (found,) = contract.config_problems(values)
    assert problem in found


@pytest.mark.parametrize(
    "values",
    [
        {"cuda_graph_config": None, "max_batch_size": None, "guided_decoding_backend": "xgrammar"},
        {"cuda_graph_config": {"batch_sizes": [1, 2], "enable_padding": True}, "attn_backend": "FLASHINFER"},
        {"kv_cache_config": {"free_gpu_memory_fraction": 1, "max_attention_window": [512, 32768]}},
    ],
)
def test_what_the_release_takes_passes(contract: Contract, values: dict[str, Any]) -> None:
    assert list(contract.config_problems(values)) == []


# The double


def double_classes() -> dict[str, dict[str, Any]]:
    folder = SourceFolder(DOUBLE)
    release = Release({module: file for module in READ if (file := folder.find(module))})
    names = [name for module in CLASSES.values() for name in module if name in release.nodes]
    return {name: release.describe(name, lines=False) for name in names}


DOUBLED = double_classes()


def signature(member: dict[str, Any]) -> list[tuple[str, str, bool]]:
    return [(p["name"], p["kind"], "default" in p) for p in member["parameters"]]


def test_the_double_has_what_the_engine_uses() -> None:
    assert DOUBLED.keys() >= {"LLM", "RequestOutput", "CompletionOutput", "SamplingParams", "KvCacheConfig", "Logprob"}


@pytest.mark.parametrize("name", DOUBLED)
def test_the_double_is_called_as_the_package_is(contract: Contract, name: str) -> None:
    ours, theirs = DOUBLED[name]["members"], contract.classes[name]["members"]
    if contract.classes[name]["evidence"] == RELEASE:
        assert DOUBLED[name]["kind"] == contract.classes[name]["kind"]
        assert sorted(member for member in ours if member not in theirs and member[:2] != "__") == []
    for member, found in ours.items():
        known = theirs.get(member, {"kind": None})
        if found["kind"] != "method" or known["kind"] != "method":
            continue
        if member != "__init__" or name not in MADE_BY_THE_PACKAGE:
            assert signature(found) == signature(known), member
            assert found["asynchronous"] == known["asynchronous"], member


def test_the_double_reads_the_keys_of_a_prompt_that_the_package_reads(contract: Contract) -> None:
    for name in ("TextPrompt", "TokensPrompt"):
        assert DOUBLED[name]["members"].keys() <= contract.prompt_keys


@pytest.mark.parametrize("name", [name for name in DOUBLED if DOUBLED[name]["kind"] in ("dataclass", "model")])
def test_the_double_has_the_fields_of_the_package(contract: Contract, name: str) -> None:
    """All of a dataclass's; of a model's those that matter. Defaults too, where they are written down."""
    ours = {field: found for field, found in DOUBLED[name]["members"].items() if found["kind"] == "field"}
    theirs = contract.fields(name)
    if contract.classes[name]["kind"] == "dataclass":
        assert DOUBLED[name].get("keyword_only") == contract.classes[name].get("keyword_only")
    if name in ("SamplingParams", "GuidedDecodingParams", "Logprob"):
        assert list(ours) == list(theirs)
    assert ours.keys() <= theirs.keys()
    for field, found in ours.items():
        if is_literal(found.get("default")) and is_literal(theirs[field].get("default")):
            later = SET_BY_VALIDATORS.get(field) if name == "TorchLlmArgs" else None
            assert found["default"] in (theirs[field]["default"], later), field


def is_literal(text: str | None) -> bool:
    try:
        return text is not None and ast.literal_eval(text) is not ...
    except ValueError:
        return False


def test_the_double_exports_names_of_the_package_only(contract: Contract) -> None:
    folder = SourceFolder(DOUBLE)
    for module in READ:
        file = folder.find(module)
        exported = (
            [n for n in file.tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"]
            if file
            else []
        )
        for node in exported:
            assert set(ast.literal_eval(node.value)) <= contract.exports[module].keys(), module


def test_the_contract_is_written_as_the_script_writes_it(contract: Contract) -> None:
    assert CONTRACT.read_text(encoding="utf-8") == json.dumps(contract.values, indent=1, ensure_ascii=False) + "\n"
