"""engine.yaml of a bundle for TensorRT-LLM: the arguments of its `LLM`, each with the reason for its value.

Names and defaults are those of 1.2.1, from the source pages of its documentation (NVIDIA/TensorRT-LLM @58fb435e,
1.2.1/_modules/tensorrt_llm/llmapi/llm_args.html). Gemma 3 with images runs on one lane of that package only: what
this lane forbids is refused here, with the reason, and not where a server starts with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from textwrap import wrap
from typing import Any

import yaml
from tritonguard.errors import BundleError

from engines.program import MAX_LIST_TOKENS

ENGINE_CONFIG = "engine.yaml"
PRECISIONS = ("bf16", "fp8", "fp8-kv", "int8-weight-only")
"""The forms that `build_scripts/tensorrt_llm/profiles.py` writes and this engine runs."""
ANSWER_TOKENS = 2 * MAX_LIST_TOKENS
"""Room behind the longest prompt: heads, choices, the marks of reasoning and a category list (its text counts with
the prompt, `preprocessing/stage.py`)."""
MAX_BATCH_SIZE = 64
MEMORY_FRACTION = 0.6


@dataclass(frozen=True)
class _Key:
    """name: dotted inside a mapping. why: of its value, and where that is known from.
    fixed: whether `only` is the one value that is served; otherwise it is a field of EngineConfig, or follows from one.
    """

    name: str
    why: str
    fixed: bool = False
    only: Any = None


def _only(name: str, value: Any, why: str) -> _Key:
    return _Key(name, why, fixed=True, only=value)


_KEYS = (
    _only(
        "attn_backend",
        "FLASHINFER",
        "The tokens of an image see each other both ways, and in 1.2.1 only FlashInfer takes such a mask "
        "(modeling_gemma3vl.py @a98a9061). The default, TRTLLM, ends with AttributeError: kv_layout (TensorRT-LLM "
        "#13293, #14942).",
    ),
    _only(
        "enable_chunked_prefill",
        False,
        "A chunk that ends inside an image breaks its mask (modeling_gemma3.py @00e7d103, assumption 1); the support "
        "matrix has N/A for Gemma 3 with images.",
    ),
    _only(
        "dtype",
        "bfloat16",
        "auto becomes float16 on a GPU below SM 80 (1.2.1 llm_args.py, validate_dtype), where Gemma's activations "
        "overflow.",
    ),
    _Key("max_batch_size", "Requests in one step; unset it would be 2048 (1.2.1 llm_args.py, validate_misc)."),
    _Key("max_seq_len", "Tokens of the longest prompt and its answer."),
    _Key(
        "max_num_tokens",
        "Equal to max_seq_len: 1.2.1 compares a prompt with this key alone (llm.py, _check_arguments), so one of a "
        "length between the two would slip past. Unset it would be 8192.",
    ),
    _only(
        "kv_cache_config.enable_block_reuse",
        False,
        "Reused blocks could end inside an image, and one image in a batch then fails all of it "
        "(modeling_gemma3.py @00e7d103, assumption 2 and its assert). Unset it would be true.",
    ),
    _only("kv_cache_config.enable_partial_reuse", False, "As enable_block_reuse. Unset it would be true."),
    _Key(
        "kv_cache_config.free_gpu_memory_fraction",
        "Of what the weights leave free; the upstream accuracy test of Gemma 3 with images runs with 0.6 "
        "(test_llm_api_pytorch_multimodal.py). The rest is for the tower, activations and FlashInfer.",
    ),
    _Key(
        "kv_cache_config.dtype",
        "fp8 where the checkpoint has scales for keys and values, and only there; auto is what the checkpoint says.",
    ),
    _only(
        "fail_fast_on_attention_window_too_large",
        True,
        "Unset, a cache that can't hold one longest sequence lowers max_seq_len without an error "
        "(resource_manager.py @001541ba, _validate_and_adjust_attention_windows).",
    ),
    _only(
        "scheduler_config.capacity_scheduler_policy",
        "GUARANTEED_NO_EVICT",
        "An evicted request is computed again from its first token: later than its deadline, for everybody.",
    ),
    _only(
        "cuda_graph_config",
        None,
        "A graph can be replayed with FlashInfer's plan of an earlier batch (TensorRT-LLM #18436, #18443: Gemma 3 27B "
        "FP8 44.7 before the repair, 50.8 after); whether 1.2.1 has it is open. A verdict is nearly all prefill, which "
        "graphs do not speed up. Unset they would be on.",
    ),
    _Key(
        "disable_overlap_scheduler",
        "With overlap a request of one token may cost a step more (TensorRT-LLM #14061, after 1.2.1); which is "
        "faster for a guard has not been measured on a GPU.",
    ),
    _only(
        "guided_decoding_backend",
        None,
        "The answer is drafted freely and verified; no request brings a grammar. Upstream tests none on Gemma 3 with "
        "images, and llguidance refuses a vocabulary of 262,144 against 262,145 tokens (vLLM #33509).",
    ),
    _only("enable_iter_perf_stats", True, "The server's gauges are made of it (LLM.get_stats_async). Unset: false."),
)

_TEXT = """\
# The arguments of TensorRT-LLM 1.2.1 for this bundle; written by build_scripts/tensorrt_llm/compile.py, covered by the
# manifest's hash. A key that is not here keeps the package's default; another key is an error.
"""


@dataclass(frozen=True)
class EngineConfig:
    """What of engine.yaml may differ between bundles. Raises BundleError for a value that has no meaning.

    max_seq_len: tokens of a prompt and its answer, and the most of all requests in one step. max_batch_size: requests
    in one step. kv_cache_dtype: "auto" or "fp8". memory_fraction: of the GPU memory that the weights leave free, for
    keys and values. disable_overlap_scheduler: no step is prepared while one runs.
    """

    max_seq_len: int
    max_batch_size: int = MAX_BATCH_SIZE
    kv_cache_dtype: str = "auto"
    memory_fraction: float = MEMORY_FRACTION
    disable_overlap_scheduler: bool = False

    def __post_init__(self) -> None:
        for name, least in (("max_seq_len", ANSWER_TOKENS + 1), ("max_batch_size", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise _refused(name, value, f"a whole number of at least {least}")
        if self.kv_cache_dtype not in ("auto", "fp8"):
            raise _refused("kv_cache_config.dtype", self.kv_cache_dtype, "auto or fp8")
        if type(self.memory_fraction) is not float or not 0 < self.memory_fraction < 1:
            name = "kv_cache_config.free_gpu_memory_fraction"
            raise _refused(name, self.memory_fraction, "a number between 0 and 1, such as 0.6")
        if type(self.disable_overlap_scheduler) is not bool:
            raise _refused("disable_overlap_scheduler", self.disable_overlap_scheduler, "true or false")

    @classmethod
    def for_profile(cls, precision: str, max_tokens: int, **chosen: Any) -> EngineConfig:
        """Of a bundle of this precision (one of PRECISIONS) that serves prompts of at most `max_tokens`.

        chosen: other fields, by name. Raises BundleError.
        """
        if precision not in PRECISIONS:
            raise BundleError(f"precision {precision!r} is not one that TensorRT-LLM runs: {', '.join(PRECISIONS)}")
        if type(max_tokens) is not int or max_tokens < 1:
            raise BundleError(f"max_tokens is {max_tokens!r}, not a whole number of at least 1")
        dtype = "fp8" if precision == "fp8-kv" else "auto"
        return cls(max_tokens + ANSWER_TOKENS, kv_cache_dtype=dtype, **chosen)

    @classmethod
    def read(cls, folder: Path) -> EngineConfig:
        """Raises BundleError: no such file, a key missing or unknown, or a value that this engine does not serve."""
        try:
            written = yaml.safe_load((folder / ENGINE_CONFIG).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise BundleError(f"{folder.name} has no readable {ENGINE_CONFIG}: compile it again") from error
        if not isinstance(written, dict):
            raise BundleError(f"{folder.name}/{ENGINE_CONFIG} holds no keys: compile it again")
        values = dict(_flat(written))
        known = {key.name for key in _KEYS}
        for name in sorted(values.keys() ^ known):
            problem = "is missing" if name in known else "is no key that this release knows"
            raise BundleError(f"{folder.name}/{ENGINE_CONFIG}: {name} {problem}")
        for key in _KEYS:
            if key.fixed and not _same(values[key.name], key.only):
                raise _refused(key.name, values[key.name], f"{_yaml(key.only)} only. {key.why}")
        if values["max_num_tokens"] != values["max_seq_len"]:
            name, length = "max_num_tokens", values["max_seq_len"]
            why = next(key.why for key in _KEYS if key.name == name)
            raise _refused(name, values[name], f"{length!r}, the value of max_seq_len, only. {why}")
        return cls(
            max_seq_len=values["max_seq_len"],
            max_batch_size=values["max_batch_size"],
            kv_cache_dtype=values["kv_cache_config.dtype"],
            memory_fraction=values["kv_cache_config.free_gpu_memory_fraction"],
            disable_overlap_scheduler=values["disable_overlap_scheduler"],
        )

    def write(self, folder: Path) -> None:
        (folder / ENGINE_CONFIG).write_text("".join([_TEXT, *_lines(self._values())]), encoding="utf-8")

    def llm_kwargs(self, folder: Path) -> dict[str, Any]:
        """The keyword arguments of `tensorrt_llm.LLM` for the bundle in `folder`: plain values, and dicts where the
        package has a type of its own (KvCacheConfig, SchedulerConfig), which `runtime.py` makes of them.
        """
        kwargs: dict[str, Any] = {"model": str(folder)}
        for name, value in self._values().items():
            outer, _, inner = name.rpartition(".")
            (kwargs.setdefault(outer, {}) if outer else kwargs)[inner] = value
        return kwargs

    def _values(self) -> dict[str, Any]:
        """{dotted key: value}, in the order of the file."""
        chosen = {
            "max_batch_size": self.max_batch_size,
            "max_seq_len": self.max_seq_len,
            "max_num_tokens": self.max_seq_len,
            "kv_cache_config.free_gpu_memory_fraction": self.memory_fraction,
            "kv_cache_config.dtype": self.kv_cache_dtype,
            "disable_overlap_scheduler": self.disable_overlap_scheduler,
        }
        return {key.name: key.only if key.fixed else chosen[key.name] for key in _KEYS}


def _refused(name: str, value: object, served: str) -> BundleError:
    return BundleError(f"{ENGINE_CONFIG}: {name} is {_yaml(value)}; served is {served}")


def _same(value: object, only: object) -> bool:
    return type(value) is type(only) and value == only


def _yaml(value: object) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=1 << 16)
    return text.removesuffix("\n").removesuffix("\n...")


def _flat(written: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """(dotted key, value); below the two mappings that _KEYS knows, each key of theirs."""
    mappings = {key.name.partition(".")[0] for key in _KEYS if "." in key.name}
    for name, value in written.items():
        if name in mappings and isinstance(value, dict):
            yield from ((f"{name}.{inner}", each) for inner, each in value.items())
        else:
            yield str(name), value


def _lines(values: Mapping[str, Any]) -> Iterator[str]:
    """Each key behind the comment that justifies it."""
    for outer, keys in groupby(_KEYS, key=lambda key: key.name.rpartition(".")[0]):
        indent = "  " if outer else ""
        if outer:
            yield f"\n{outer}:\n"
        for key in keys:
            yield from ("" if outer else "\n", *_comment(key.why, indent))
            yield f"{indent}{key.name.rpartition('.')[2]}: {_yaml(values[key.name])}\n"


def _comment(text: str, indent: str) -> list[str]:
    mark = f"{indent}# "
    return [f"{line}\n" for line in wrap(text, width=120, initial_indent=mark, subsequent_indent=mark)]
