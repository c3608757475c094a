"""The double used wrongly: what its steps answer, and what becomes of requests and results (`behaviour.json`)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from double_llm import AS_SERVED, controls_of, image_prompt, params, shows, together
from tiny_bundle import BOS, NARROW, Tiny


@shows("no_max_tokens_serialises")
def test_requests_without_max_tokens_run_one_after_another(opened: Callable[..., Any]) -> None:
    llm = opened(max_num_tokens=127, max_seq_len=32)
    together(llm, [[BOS, 12]] * 3, [params(max_tokens=None)] * 3)
    assert controls_of(llm).most_together == 1
    assert controls_of(llm).serialised > 0
    together(llm, [[BOS, 12]] * 3, [params()] * 3)
    assert controls_of(llm).most_together == 3


@shows("mixed_logprobs", "step_error_fails_batch")
def test_log_probabilities_of_one_request_alone_fail_all(llm: Any) -> None:
    from tensorrt_llm.llmapi import RequestError

    results = together(llm, [[BOS, 12]] * 3, [params(), params(logprobs=None), params()])
    assert [type(result) for result in results] == [RequestError] * 3
    assert "NoneType" in str(results[0])
    assert llm.generate([BOS, 12], params()).finished


@shows(
    "logprobs_shape",
    "chosen_token_in_logprobs",
    "logprobs_full_vocabulary_fp32",
    "logprobs_before_temperature",
)
def test_log_probabilities_are_those_of_the_whole_vocabulary_before_the_temperature(llm: Any) -> None:
    plain, hot = (llm.generate([BOS, 12, 13], params(top_k=1, temperature=t)).outputs[0] for t in (1.0, 9.0))
    assert plain.logprobs == hot.logprobs
    for id, top in zip(plain.token_ids, plain.logprobs, strict=True):
        assert next(iter(top)) == id
        assert [entry.rank for entry in top.values()] == list(range(1, NARROW + 1))
        assert sum(np.exp(entry.logprob) for entry in top.values()) == pytest.approx(1.0, abs=1e-5)
    assert [len(top) for top in llm.generate([BOS], params(logprobs=3)).outputs[0].logprobs] == [3] * 4


@shows("finish_precedence", "stop_ids_trimmed", "logprobs_kept_of_trimmed_stop", "end_id_stays")
def test_what_an_end_leaves_in_the_ids(llm: Any) -> None:
    ids = llm.generate([BOS, 12, 13], params(ignore_eos=True)).outputs[0].token_ids
    at = next(at for at in range(len(ids)) if ids[at] not in ids[:at])

    def output(**values: Any) -> Any:
        return llm.generate([BOS, 12, 13], params(**values)).outputs[0]

    stopped = output(stop_token_ids=[ids[at]])
    assert (stopped.token_ids, stopped.finish_reason, stopped.stop_reason) == (ids[:at], "stop", ids[at])
    assert len(stopped.logprobs) == at + 1
    assert output(stop_token_ids=[ids[at]], include_stop_str_in_output=True).token_ids == ids[: at + 1]
    last = output(stop_token_ids=[ids[at]], max_tokens=at + 1)
    assert (last.token_ids, last.finish_reason, last.stop_reason) == (ids[: at + 1], "length", None)
    ended = output(end_id=ids[at], max_tokens=at + 1)
    assert (ended.token_ids, ended.finish_reason, ended.stop_reason) == (ids[: at + 1], "stop", None)


@shows("block_reuse_with_image", "chunked_prefill_with_image")
@pytest.mark.parametrize(
    "changes", [{"kv_cache_config": {"enable_block_reuse": True}}, {"enable_chunked_prefill": True}]
)
def test_cached_tokens_in_a_step_with_an_image_fail_all(
    narrow: Tiny, opened: Callable[..., Any], changes: dict[str, Any]
) -> None:
    llm = opened(**changes)
    words = "w12 " * (40 if "kv_cache_config" in changes else 140)
    image = image_prompt(narrow, prompt=f"{words}<start_of_image>")
    alone = together(llm, [image], [params()])
    results = together(llm, [image, [BOS, 12]], [params(), params()])
    assert ("kv_cache_config" in changes) == (not isinstance(alone[0], RuntimeError))
    assert all("cached_token_lens should be 0" in str(result) for result in results)


@shows("cuda_graphs_on_by_default", "cuda_graph_stale_plan")
def test_graphs_that_are_not_switched_off_answer_wrongly_from_four_requests_on(narrow: Tiny, llm: Any) -> None:
    from tensorrt_llm import LLM
    from tensorrt_llm.llmapi import CudaGraphConfig

    served = {name: value for name, value in AS_SERVED.items() if name != "cuda_graph_config"}
    with LLM(str(narrow.folder), **served) as graphs:
        assert graphs.args.cuda_graph_config == CudaGraphConfig()
        prompts = [narrow.ids(12, seed=seed).tolist() for seed in range(4)]
        sampling = [params(ignore_eos=True) for _ in prompts]
        few, many = together(graphs, prompts[:3], sampling[:3]), together(graphs, prompts, sampling)
    right = [llm.generate(prompt, params(ignore_eos=True)).outputs[0].token_ids for prompt in prompts]
    assert [result.outputs[0].token_ids for result in few] == right[:3]
    assert [result.outputs[0].token_ids for result in many] != right


@shows("abort_between_steps")
def test_an_abort_takes_effect_between_steps(llm: Any) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def wait(ids: tuple[int, ...], logits: Any) -> Any:
        begun.set()
        assert goes_on.wait(30)
        return logits

    controls_of(llm).alter = wait
    try:
        running = llm.generate_async([BOS, 12], params(ignore_eos=True))
        assert begun.wait(30)
        running.abort()
        assert controls_of(llm).aborted == 0
    finally:
        goes_on.set()
    output = running.result().outputs[0]
    controls_of(llm).alter = None
    assert output.finish_reason == "cancelled"
    assert controls_of(llm).aborted == 1


@shows("executor_death", "call_after_shutdown", "shutdown_twice")
def test_after_its_death_or_its_end_nothing_is_answered(narrow: Tiny) -> None:
    from tensorrt_llm import LLM

    llm = LLM(str(narrow.folder), **AS_SERVED)
    controls_of(llm).hold()
    running = [llm.generate_async([BOS, 12], params()) for _ in range(2)]
    controls_of(llm).kill(OSError("CUDA error"))
    for each in running:
        with pytest.raises(OSError, match="CUDA error"):
            each.result()
    with pytest.raises(RuntimeError, match="LLM is shutting down"):
        llm.generate_async([BOS, 12], params())
    llm.shutdown()
    llm.shutdown()
    with pytest.raises(RuntimeError, match="LLM is shutting down"):
        llm.generate_async([BOS, 12], params())


@shows("one_event_loop", "await_without_loop")
def test_a_result_is_awaited_in_the_loop_that_it_was_made_in(llm: Any) -> None:
    async def make() -> Any:
        return llm.generate_async([BOS, 12], params())

    async def wait(result: Any) -> Any:
        return await result

    elsewhere, nowhere = asyncio.run(make()), llm.generate_async([BOS, 12], params())
    with pytest.raises(RuntimeError, match="different event loop"):
        asyncio.run(wait(elsewhere))
    with pytest.raises(AssertionError, match="event loop was not present"):
        asyncio.run(wait(nowhere))


@shows("result_ignores_timeout")
def test_a_timeout_of_result_is_ignored(llm: Any) -> None:
    controls_of(llm).hold()
    running = llm.generate_async([BOS, 12], params())
    threading.Timer(0.2, controls_of(llm).release).start()
    assert running.result(timeout=0.001).finished


@shows("statistics_end_after_timeout", "statistics_timeout_s", "statistics_after_first_request")
def test_statistics_begin_with_the_first_request_and_end_with_the_timeout(narrow: Tiny) -> None:
    from tensorrt_llm import LLM

    async def read(llm: Any) -> list[Any]:
        return [each async for each in llm.get_stats_async(timeout=0.05)]

    async def use(llm: Any) -> tuple[list[Any], list[Any], list[Any]]:
        before = await read(llm)
        await llm.generate_async([BOS, 12], params(max_tokens=2, ignore_eos=True))
        return before, await read(llm), await read(llm)

    with LLM(str(narrow.folder), **AS_SERVED, enable_iter_perf_stats=True) as llm:
        before, after, again = asyncio.run(use(llm))
    assert (before, again) == ([], [])
    assert [each["inflightBatchingStats"]["numGenRequests"] for each in after] == [0, 1]
