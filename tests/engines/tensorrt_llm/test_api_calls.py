"""What of the package our files use is in 1.2.1: the check on examples of each mistake, and then on the files."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
from api_calls import Reading, read_calls
from api_contract import Contract
from make_api_contract import CONTRACT

ROOT = Path(__file__).parents[3]
FOLDERS = ("engines/tensorrt_llm", "benchmarks/gpu_day_one", "build_scripts/tensorrt_llm")
USED = {
    "LLM",
    "LLM.generate_async",
    "LLM.get_stats_async",
    "LLM.input_processor",
    "LLM.shutdown",
    "RequestOutput.abort",
    "RequestOutput.aresult",
    "RequestOutput.outputs",
    "RequestOutput.prompt_token_ids",
    "CompletionOutput.token_ids",
    "CompletionOutput.logprobs",
    "CompletionOutput.finish_reason",
    "Logprob.logprob",
    "SamplingParams",
}
"""What the engine can't do without: if the check sees less, it has lost the thread."""

OPEN = "from tensorrt_llm import LLM, SamplingParams\nllm = LLM(model='m')\n"


@pytest.fixture(scope="module")
def contract() -> Contract:
    return Contract.read(CONTRACT)


def read(contract: Contract, **files: str) -> Reading:
    return read_calls({f"{name}.py": dedent(text) for name, text in files.items()}, contract)


RIGHT = {
    "an LLM, a request, its reply": OPEN
    + """
async def ask(ids):
    output = llm.generate_async({"prompt_token_ids": ids}, SamplingParams(max_tokens=1, logprobs=20), streaming=False)
    await output.aresult()
    (completion,) = output.outputs
    return [{id: entry.logprob for id, entry in top.items()} for top in completion.logprobs]
""",
    "a field of the arguments": "from tensorrt_llm import LLM\nLLM('m', attn_backend='FLASHINFER', max_batch_size=4)",
    "statistics": OPEN
    + "async def f():\n    async for found in llm.get_stats_async(timeout=0.1):\n        print(found.keys())",
    "a processor put in": OPEN + "llm.input_processor = object()",
    "the version": "import tensorrt_llm\nprint(tensorrt_llm.__version__)",
    "the error": "from tensorrt_llm.executor.utils import RequestError\ntry:\n    pass\nexcept RequestError:\n    pass",
    "an abort as a callback": OPEN + "loop.call_soon(llm.generate_async('x').abort)",
    "engine.yaml": "from tensorrt_llm import LLM\ndef f(config, folder):\n    return LLM(**config.llm_kwargs(folder))",
    "keys that are written down": """
from tensorrt_llm import SamplingParams
given = {"max_tokens": 1, "logprobs": None}
SamplingParams(**{name: value for name, value in given.items() if value is not None})
""",
    "the Hugging Face tokenizer": OPEN + "llm.tokenizer.encode('x', add_special_tokens=False)",
    "nothing of the package": "output = run()\nprint(output.stdout, output.whatever())",
    "a policy": "from tensorrt_llm.llmapi import CapacitySchedulerPolicy\nCapacitySchedulerPolicy.STATIC_BATCH",
}

WRONG = {
    "unknown keyword of generate_async": (OPEN + "llm.generate_async('x', priority=1)", "has no parameter priority"),
    "unknown keyword of LLM": ("from tensorrt_llm import LLM\nLLM(model='m', max_wait=1)", "no parameter max_wait"),
    "unknown field": (OPEN + "SamplingParams(logprobs_mode='raw')", "SamplingParams has no parameter logprobs_mode"),
    "positional where only names go": (OPEN + "SamplingParams(1)", "takes 0 arguments in order, not 1"),
    "too many in order": (OPEN + "llm.shutdown(1)", "LLM.shutdown takes 0 arguments in order, not 1"),
    "a missing argument": (OPEN + "llm.generate_async()", "LLM.generate_async needs inputs"),
    "deprecated": ("from tensorrt_llm import LLM\nLLM('m', decoding_config=None)", "decoding_config is deprecated"),
    "private parameter": (OPEN + "llm.generate_async('x', _postproc_params=None)", "_postproc_params is private"),
    "unknown class": ("from tensorrt_llm.llmapi import PreprocessedInputs", "tensorrt_llm.llmapi has no Prep"),
    "not at the top": ("from tensorrt_llm import KvCacheConfig", "tensorrt_llm has no KvCacheConfig"),
    "unknown module": ("import tensorrt_llm.serve", "the release has no module tensorrt_llm.serve"),
    "unknown module, by name": ("from importlib import import_module\nimport_module('tensorrt_llm.x')", "no module"),
    "star": ("from tensorrt_llm import *", "tensorrt_llm has no *"),
    "unknown attribute of a module": ("import tensorrt_llm\ntensorrt_llm.AutoLLM", "tensorrt_llm has no AutoLLM"),
    "unknown method": (OPEN + "llm.generate_batch(['x'])", "LLM has no generate_batch"),
    "private attribute": (OPEN + "llm._executor", "LLM has no _executor"),
    "unknown method of a result": (OPEN + "llm.generate_async('x').cancel()", "RequestOutput has no cancel"),
    "unknown attribute of an output": (
        OPEN + "llm.generate_async('x').outputs[0].tokens",
        "CompletionOutput has no tok",
    ),
    "behind an await": (
        OPEN + "async def f():\n    done = await llm.generate_async('x').aresult()\n    done.text",
        "RequestOutput has no text",
    ),
    "behind wait_for": (
        OPEN + "async def f():\n    done = await asyncio.wait_for(llm.generate_async('x').aresult(), 1)\n    done.text",
        "RequestOutput has no text",
    ),
    "of a log-probability": (
        OPEN + "for top in llm.generate_async('x').outputs[0].logprobs:\n    for one in top.values():\n        one.p",
        "Logprob has no p",
    ),
    "an attribute that can't be set": (OPEN + "llm.llm_id = 'x'", "LLM.llm_id can't be set"),
    "a field that does not exist, set": (OPEN + "p = SamplingParams()\np.seeds = 1", "SamplingParams has no seeds"),
    "by getattr": (OPEN + "getattr(llm, 'stats')", "LLM has no stats"),
    "by a name that is not written down": (OPEN + "getattr(llm, name)", "name of a LLM can't be seen"),
    "a prompt's key": (OPEN + "llm.generate_async({'prompt': 'x', 'images': []})", "a prompt has no key images"),
    "an enum's value": (
        "from tensorrt_llm.llmapi import CapacitySchedulerPolicy\nCapacitySchedulerPolicy.NO_EVICT",
        "CapacitySchedulerPolicy has no NO_EVICT",
    ),
    "a nested class's field": (
        "from tensorrt_llm.llmapi import KvCacheConfig\nKvCacheConfig(block_reuse=False)",
        "KvCacheConfig has no parameter block_reuse",
    ),
    "keys that can't be seen": (OPEN + "SamplingParams(**found())", "is given **found(): its keys can't be seen"),
    "keys that are written down and wrong": (OPEN + "SamplingParams(**{'max_token': 1})", "no parameter max_token"),
    "handed to what can't be followed": (OPEN + "cache.put(llm.generate_async('x'))", "is handed to cache.put"),
    "a class of unknown form": ("from tensorrt_llm.llmapi import QuantConfig\nQuantConfig.x", "has no type in the c"),
    "out of sys.modules": ("import sys\nsys.modules['tensorrt_llm'].LLM", "sys.modules can't be followed"),
}


@pytest.mark.parametrize("source", RIGHT.values(), ids=RIGHT.keys())
def test_what_the_release_has_passes(contract: Contract, source: str) -> None:
    assert read(contract, ours=source).problems == ()


@pytest.mark.parametrize(("source", "problem"), WRONG.values(), ids=WRONG.keys())
def test_what_it_does_not_have_is_found(contract: Contract, source: str, problem: str) -> None:
    (found,) = read(contract, ours=source).problems
    assert problem in found
    assert found.startswith("ours.py:")


@pytest.mark.parametrize(
    ("maker", "user"),
    [
        ("def opened():\n    return LLM('m')", "from maker import opened\nopened().serve()"),
        (
            "def opened():\n    llm = LLM('m')\n    return llm, 1",
            "from maker import opened\none, two = opened()\none.serve()",
        ),
        ("import user\nuser.use(LLM('m'))", "def use(engine):\n    engine.serve()"),
        (
            "from user import Holder\nHolder(LLM('m'))",
            "class Holder:\n    engine: Any\n    def f(self):\n        self.engine.serve()",
        ),
        (
            "from user import Holder\nHolder(engine=LLM('m'))",
            "class Holder:\n  def __init__(self, engine):\n    self._e = engine\n  def f(self):\n    self._e.serve()",
        ),
        ("from user import outcome\noutcome()", "def outcome(llm=None):\n    llm.serve()"),
        ("LLM('m')", "def f(found):\n    llm = found.result()\n    llm.serve()"),
        ("LLM('m')", "def f(runtime):\n    runtime.llm.serve()"),
    ],
)
def test_an_object_is_followed_from_file_to_file(contract: Contract, maker: str, user: str) -> None:
    found = read(contract, maker=f"from tensorrt_llm import LLM\n{maker}", user=user).problems
    assert [problem.split(": ", 1)[1] for problem in found] == ["LLM has no serve for others to use"]


@pytest.fixture(scope="module")
def ours() -> dict[str, str]:
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py"))]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


def test_our_files_use_what_the_release_has(contract: Contract, ours: dict[str, str]) -> None:
    assert {Path(name).parts[0] for name in ours} == {"engines", "benchmarks", "build_scripts"}
    reading = read_calls(ours, contract)
    assert reading.problems == ()
    assert reading.uses >= USED


@pytest.mark.parametrize(
    ("file", "right", "wrong", "problem"),
    [
        ("engine", "llm.generate_async(", "llm.generate(", "LLM.generate has no parameter streaming"),
        ("engine", "output.aresult()", "output.wait()", "RequestOutput has no wait"),
        ("replies", "completion.token_ids", "completion.tokens", "CompletionOutput has no tokens"),
        ("replies", "entry.logprob", "entry.probability", "Logprob has no probability"),
        ("sampling", "max_tokens=", "max_new_tokens=", "SamplingParams has no parameter max_new_tokens"),
        ("statistics", "get_stats_async(timeout=", "get_stats_async(seconds=", "has no parameter seconds"),
        ("processor", '"mm_processor_kwargs": {', '"processor_kwargs": {', "a prompt has no key processor_kwargs"),
        ("runtime", "llm.input_processor = ", "llm.processor = ", "LLM has no processor"),
    ],
)
def test_a_slip_in_the_engine_is_found(
    contract: Contract, ours: dict[str, str], file: str, right: str, wrong: str, problem: str
) -> None:
    name = f"engines/tensorrt_llm/{file}.py"
    assert right in ours[name]
    engine = {path: text for path, text in ours.items() if path.startswith("engines/")}
    found = read_calls({**engine, name: ours[name].replace(right, wrong)}, contract).problems
    assert any(each.startswith(f"{name}:") and problem in each for each in found)
