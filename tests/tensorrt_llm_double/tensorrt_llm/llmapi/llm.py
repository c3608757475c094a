"""The class that serves: `tensorrt_llm/llmapi/llm.py`, with the order of its branches and checks."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import torch

from tensorrt_llm._behaviour import behaviour
from tensorrt_llm._controls import LOADED, Controls, Seen
from tensorrt_llm._torch.loading import check_attention, spawn_worker
from tensorrt_llm._torch.model import Gemma3VLM
from tensorrt_llm._torch.py_executor import PyExecutor
from tensorrt_llm._torch.request import LlmRequest
from tensorrt_llm._torch.tokenizer import Tokenizer
from tensorrt_llm.executor.result import GenerationResult, IterationResult
from tensorrt_llm.executor.utils import RequestError
from tensorrt_llm.inputs.data import TextPrompt, prompt_inputs
from tensorrt_llm.inputs.registry import (
    DefaultInputProcessor,
    create_input_processor,
    create_input_processor_with_hash,
)
from tensorrt_llm.llmapi.llm_args import TorchLlmArgs
from tensorrt_llm.sampling_params import SamplingParams


class RequestOutput(GenerationResult):
    prompt: str | None = None


class LLM:
    def __init__(
        self,
        model: str | Path,
        tokenizer: Any = None,
        tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        self._executor: PyExecutor | None = None
        for key in kwargs:
            # behaviour: unknown_llm_argument
            if key not in TorchLlmArgs.model_fields:
                raise ValueError(f"{type(self).__name__} got invalid argument: {key}")
        self.args = TorchLlmArgs(
            model=model, tokenizer=tokenizer, tokenizer_mode=tokenizer_mode, skip_tokenizer_init=skip_tokenizer_init,
            trust_remote_code=trust_remote_code, tensor_parallel_size=tensor_parallel_size, dtype=dtype,
            revision=revision, tokenizer_revision=tokenizer_revision, **kwargs,
        )  # fmt: skip
        folder = Path(model)
        self._eos_token_ids = _end_ids(folder)
        config = json.loads((folder / "config.json").read_text())
        self._tokenizer = Tokenizer(folder)
        self.input_processor: Any = create_input_processor(folder, self._tokenizer, config)
        spawn_worker()
        check_attention(self.args)
        self._max_seq_len: int = self.args.max_seq_len or config["text_config"]["max_position_embeddings"]
        self._controls = Controls(self.args)
        LOADED.append(self._controls)
        self._ids = itertools.count(1)
        self._executor = PyExecutor(Gemma3VLM(folder), self.args, self._controls)

    @property
    def tokenizer(self) -> Any:
        return getattr(self.input_processor, "tokenizer", self._tokenizer)

    def generate_async(
        self,
        inputs: Any,
        sampling_params: SamplingParams | None = None,
        lora_request: Any = None,
        prompt_adapter_request: Any = None,
        streaming: bool = False,
        kv_cache_retention_config: Any = None,
        disaggregated_params: Any = None,
        trace_headers: Any = None,
        _postproc_params: Any = None,
        scheduling_params: Any = None,
        cache_salt: str | None = None,
    ) -> RequestOutput:
        """Raises RuntimeError once shut down (behaviour: call_after_shutdown), RequestError for a prompt too long."""
        executor = self._executor
        if executor is None or executor.is_shutdown:
            raise RuntimeError("LLM is shutting down")
        params = self._prepared(sampling_params)
        inputs = prompt_inputs(inputs)
        ids, extra = self._processed(inputs, params)
        if self._controls.misread is not None:
            ids = self._controls.misread(ids)
        self._check_length(len(ids))
        # What executor.generate_async does from here on.
        values = ((extra or {}).get("multimodal_data") or {}).get("image", {}).get("pixel_values")
        if values is not None and (not isinstance(values, torch.Tensor) or values.ndim != 4):
            raise TypeError("pixel_values must be a tensor [images, 3, size, size]")
        result = RequestOutput(
            next(self._ids), ids, params, abort=executor.cancel, background_error=self._handle_background_error
        )
        result.prompt = inputs.get("prompt")
        if executor.statistics is None:
            executor.statistics = IterationResult()
        executor.statistics.mark_undone()
        request = LlmRequest(
            result, tuple(ids), params, self._clipped(params.max_tokens, len(ids)), streaming, pixel_values=values
        )
        with self._controls.changed:
            images, hashed = 0 if values is None else len(values), "multimodal_input" in (extra or {})
            self._controls.seen.append(Seen(tuple(ids), params, images, hashed))
        executor.enqueue(request)
        return result

    def generate(
        self,
        inputs: Any,
        sampling_params: SamplingParams | None = None,
        use_tqdm: bool = True,
        lora_request: Any = None,
        prompt_adapter_request: Any = None,
        kv_cache_retention_config: Any = None,
        disaggregated_params: Any = None,
        scheduling_params: Any = None,
        cache_salt: str | None = None,
    ) -> Any:
        """One prompt or several, waited for."""
        if isinstance(inputs, list) and inputs and not isinstance(inputs[0], int):
            results = [self.generate_async(one, sampling_params) for one in inputs]
            return [result.result() for result in results]
        return self.generate_async(inputs, sampling_params).result()

    def get_stats(self, timeout: float | None = 2) -> list[dict[str, Any]]:
        executor = self._executor
        if executor is None or executor.statistics is None:
            return []
        executor.statistics.set_timeout(timeout)
        return executor.statistics.get_results()

    def get_stats_async(self, timeout: float | None = 2) -> AsyncIterator[dict[str, Any]]:
        """behaviour: statistics_after_first_request. Nothing before a request came."""
        assert self._executor is not None
        if self._executor.statistics is None:
            return _nothing()
        self._executor.statistics.set_timeout(timeout)
        return self._executor.statistics

    def shutdown(self) -> None:
        """behaviour: shutdown_twice. The second call finds nothing to do."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown()

    def _check_health(self) -> bool:
        return self._executor is not None and not self._executor.is_shutdown

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        self.shutdown()

    def _processed(self, inputs: Any, params: SamplingParams) -> tuple[list[int], dict[str, Any] | None]:
        """The branches of generate_async between the prompt and its ids."""
        brings_image = inputs.get("multi_modal_data") or inputs.get("multi_modal_embeddings")
        brings_ids = not inputs.get("prompt") and inputs.get("prompt_token_ids")
        if brings_ids and brings_image and not isinstance(self.input_processor, DefaultInputProcessor):
            # behaviour: ids_with_image_reencoded
            inputs = TextPrompt(
                prompt=self.tokenizer.decode(inputs["prompt_token_ids"]),
                multi_modal_data=inputs.get("multi_modal_data"),
                mm_processor_kwargs=inputs.get("mm_processor_kwargs"),
            )
            params.add_special_tokens = False
        if "prompt_token_ids" in inputs:
            # behaviour: both_keys_drop_image, ids_kept_without_image
            return list(inputs["prompt_token_ids"]), None
        if "multi_modal_data" in inputs:
            return create_input_processor_with_hash(self.input_processor)(inputs, params)
        if "multi_modal_embeddings" in inputs:
            processed: tuple[list[int], Any] = self.input_processor.attach_multimodal_embeddings(
                inputs, inputs["multi_modal_embeddings"], params
            )
            return processed
        ids, extra = self.input_processor(inputs, params)
        return ids, extra

    def _prepared(self, params: SamplingParams | None) -> SamplingParams:
        params = SamplingParams() if params is None else params
        if not isinstance(params, SamplingParams):
            raise TypeError(f"The sampling_params must be type SamplingParams or None, but got {type(params)}")
        if params.end_id is None:
            params._setup(self.tokenizer, self._eos_token_ids)
        return params

    def _check_length(self, length: int) -> None:
        """behaviour: too_long_is_request_error, length_checked_against_max_num_tokens."""
        most = self.args.max_num_tokens
        if not self.args.enable_chunked_prefill and most and length > most:
            raise RequestError(
                f"The sum of prompt length ({length / 1}), query length (0) should not exceed max_num_tokens ({most})"
            )

    def _clipped(self, max_tokens: int | None, length: int) -> int:
        """behaviour: max_tokens_clipped, prompt_between_limits. Room for none still gives one token."""
        room = self._max_seq_len - length
        if room <= 0 and behaviour("prompt_between_limits") == "RequestError":
            raise RequestError(f"`default_max_tokens` ({room}) must be greater than 0")
        return max(1, room if max_tokens is None else min(max_tokens, room))

    def _handle_background_error(self, error: str | Exception | None) -> None:
        """A string is one request's failure, an exception the executor's, which shuts down."""
        if isinstance(error, str):
            raise RequestError(error)
        if isinstance(error, Exception):
            if self._executor is not None:
                self._executor.shutdown()
            raise error


async def _nothing() -> AsyncIterator[dict[str, Any]]:
    for values in ():
        yield values


def _end_ids(folder: Path) -> list[int]:
    """Of generation_config.json."""
    path = folder / "generation_config.json"
    ids = json.loads(path.read_text()).get("eos_token_id", []) if path.is_file() else []
    return ids if isinstance(ids, list) else [ids]
