"""The double used wrongly: what it does not start with, and what it makes of a prompt (`behaviour.json`)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from double_llm import AS_SERVED, controls_of, image_prompt, params, shows
from tiny_bundle import BOS, END, EOS, UPPER, Tiny


def served_ids(llm: Any, prompt: dict[str, Any]) -> tuple[int, ...]:
    llm.generate(prompt, params())
    ids: tuple[int, ...] = controls_of(llm).seen[-1].ids
    return ids


@shows("unknown_llm_argument", "attn_backend_kv_layout", "inherited_mpi_variables", "mpi_spawn_without_single_process")
@pytest.mark.parametrize(
    ("changes", "environment", "error", "text"),
    [
        ({"max_tokens_in_flight": 3}, {}, ValueError, "LLM got invalid argument: max_tokens_in_flight"),
        ({"attn_backend": "TRTLLM"}, {}, AttributeError, "kv_layout"),
        ({}, {"OMPI_COMM_WORLD_RANK": "0"}, RuntimeError, "MPI_ERR_SPAWN"),
        ({}, {"TLLM_WORKER_USE_SINGLE_PROCESS": "0"}, RuntimeError, "MPI_ERR_SPAWN"),
    ],
)
def test_it_does_not_start(
    narrow: Tiny,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    environment: dict[str, str],
    error: type[Exception],
    text: str,
) -> None:
    from tensorrt_llm import LLM

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(error, match=text):
        LLM(str(narrow.folder), **{**AS_SERVED, **changes})


@shows("quant_algo_smoothquant", "loadable_quant_algos", "checkpoint_key_layout")
def test_a_checkpoint_that_it_does_not_load(narrow: Tiny, tmp_path: Path) -> None:
    from tensorrt_llm import LLM

    folder = shutil.copytree(narrow.folder, tmp_path / "other")
    settings = {"quantization": {"quant_algo": "W8A8_SQ_PER_CHANNEL"}}
    (folder / "hf_quant_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="unsupported quant mode"):
        LLM(str(folder), **AS_SERVED)
    (folder / "hf_quant_config.json").unlink()
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content.replace(b"language_model.model.", b"model.language_model."))
    with pytest.raises(KeyError, match="language_model"):
        LLM(str(folder), **AS_SERVED)


@shows("unknown_sampling_field", "max_tokens_default")
def test_what_sampling_params_do_not_know() -> None:
    from tensorrt_llm import SamplingParams

    with pytest.raises(TypeError, match="logprobs_mode"):
        SamplingParams(logprobs_mode="raw")
    with pytest.raises(AttributeError):
        params().top_n = 3
    assert SamplingParams().max_tokens == 32


@shows("ids_kept_without_image")
def test_ids_without_an_image_are_kept(llm: Any) -> None:
    ids = [BOS, BOS, UPPER, 12]
    assert served_ids(llm, {"prompt_token_ids": ids}) == tuple(ids)


@shows("ids_with_image_reencoded", "double_bos")
def test_ids_with_an_image_are_tokenised_anew_with_another_bos(narrow: Tiny, llm: Any) -> None:
    ids = [BOS, 12, 7, UPPER]
    read = served_ids(llm, image_prompt(narrow, prompt_token_ids=ids))
    assert read[:3] == (BOS, BOS, 12)
    assert read[-1] == UPPER + 1
    assert read.count(narrow.image_token) == 4


@shows("both_keys_drop_image")
def test_an_image_beside_a_prompt_and_its_ids_is_dropped(narrow: Tiny, llm: Any) -> None:
    ids = [BOS, 12, *[narrow.image_token] * 4]
    assert served_ids(llm, image_prompt(narrow, prompt="x", prompt_token_ids=ids)) == tuple(ids)
    assert controls_of(llm).seen[-1].images == 0


@shows("image_mark_in_text")
def test_a_text_that_spells_an_image_mark_is_a_value_error(narrow: Tiny, llm: Any) -> None:
    with pytest.raises(ValueError, match="Prompt contained 2 image tokens but received 1 images"):
        llm.generate(image_prompt(narrow, prompt="<start_of_image> w12 <start_of_image>"), params())


@shows("image_features_not_taken")
def test_features_of_an_image_are_not_taken(llm: Any) -> None:
    with pytest.raises(NotImplementedError):
        llm.generate({"prompt": "w12", "multi_modal_embeddings": {"image": np.zeros(3)}}, params())


@shows("hashing_flag_read_outside_try")
def test_a_processor_without_the_flag_fails(narrow: Tiny, llm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def processor(inputs: Any, sampling_params: Any) -> Any:
        return [BOS], {}

    monkeypatch.setattr(llm, "input_processor", processor)
    with pytest.raises(AttributeError, match="multimodal_hashing_supported"):
        llm.generate(image_prompt(narrow, prompt="x"), params())


@shows("too_long_is_request_error", "request_error_is_runtime_error", "length_checked_against_max_num_tokens")
def test_a_prompt_beyond_max_num_tokens_is_a_request_error(llm: Any) -> None:
    from tensorrt_llm.llmapi import RequestError

    with pytest.raises(RequestError, match="should not exceed max_num_tokens") as caught:
        llm.generate([BOS] * 129, params())
    assert isinstance(caught.value, RuntimeError)
    assert not isinstance(caught.value, ValueError)


@shows("prompt_between_limits", "max_tokens_clipped")
def test_a_prompt_between_the_limits_is_answered(opened: Callable[..., Any]) -> None:
    llm = opened(max_seq_len=64)
    assert len(llm.generate([BOS] * 100, params()).outputs[0].token_ids) == 1
    assert len(llm.generate([BOS] * 62, params(ignore_eos=True)).outputs[0].token_ids) == 2


@shows("end_id_filled_from_tokenizer")
def test_an_end_that_is_not_said_is_the_tokenizers(llm: Any) -> None:
    llm.generate([BOS, 12], params(end_id=None))
    sampling = controls_of(llm).seen[-1].sampling_params
    assert (sampling.end_id, sampling.stop_token_ids) == (END, [EOS])
