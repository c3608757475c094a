"""Cases of how the package is started: its environment, its arguments, and what it does not load.

Those that name an entry of `behaviour.json` have their source there. On the double, which goes wrong as the entry says.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import pytest
from conformance import DOUBLE, Subject, case
from subjects import load_on_double
from tiny_bundle import Tiny, seal
from tritonguard.errors import BundleError

_ON = (DOUBLE,)


@contextmanager
def changed(subject: Subject) -> Iterator[Tiny]:
    """A copy of the bundle to change; `seal` it before it is loaded."""
    assert isinstance(subject.words, Tiny)
    with TemporaryDirectory() as folder:
        copied = Path(shutil.copytree(subject.words.folder, Path(folder) / "bundle"))
        yield replace(subject.words, folder=copied)


@case("behaviour.json inherited_mpi_variables", on=_ON, name=("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_SIZE"))
def a_launcher_leaves_variables_behind(subject: Subject, name: str) -> None:
    with mock.patch.dict(os.environ, {name: "0"}), subject.fresh() as other:
        assert name not in os.environ
        other.agrees(other.job(other.words.verdict))


@case("behaviour.json mpi_spawn_without_single_process", on=_ON)
def nothing_says_that_one_process_is_enough(subject: Subject) -> None:
    with mock.patch.dict(os.environ):
        os.environ.pop("TLLM_WORKER_USE_SINGLE_PROCESS", None)
        with subject.fresh() as other:
            other.agrees(other.job(other.words.verdict))


@case("tensorrt-llm.md §7.3: HF_HUB_OFFLINE, gated files are never fetched", on=_ON)
def nothing_is_fetched_from_a_hub(subject: Subject) -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@case("tensorrt-llm.md §2.3, the reference configuration, and 0b.8, 0b.13", on=_ON)
def the_package_is_started_as_this_model_needs_it(subject: Subject) -> None:
    args = subject.controls.args
    assert args.attn_backend == "FLASHINFER"
    assert not args.enable_chunked_prefill
    assert not args.kv_cache_config.enable_block_reuse
    assert not args.kv_cache_config.enable_partial_reuse
    assert args.cuda_graph_config is None
    assert args.max_num_tokens == args.max_seq_len
    assert args.enable_iter_perf_stats


@case("behaviour.json quant_algo_smoothquant, loadable_quant_algos", on=_ON)
def weights_that_the_package_does_not_load(subject: Subject) -> None:
    with changed(subject) as tiny:
        settings = {"quantization": {"quant_algo": "W8A8_SQ_PER_CHANNEL"}}
        (tiny.folder / "hf_quant_config.json").write_text(json.dumps(settings))
        seal(tiny.folder)
        with pytest.raises(BundleError, match=r"quantize to another.*W8A8_SQ_PER_CHANNEL"):
            load_on_double(tiny)


@case("behaviour.json checkpoint_key_layout", on=_ON)
def weights_under_other_names(subject: Subject) -> None:
    with changed(subject) as tiny:
        path = tiny.folder / "model.safetensors"
        path.write_bytes(path.read_bytes().replace(b"language_model.model.", b"model.language_model."))
        seal(tiny.folder)
        with pytest.raises(BundleError, match="could not load the bundle"):
            load_on_double(tiny)


@case("behaviour.json unknown_llm_argument", on=_ON)
def a_key_that_is_none_of_the_package_is_refused_before_it_starts(subject: Subject) -> None:
    with changed(subject) as tiny:
        path = tiny.folder / "engine.yaml"
        path.write_text(path.read_text() + "\nmax_requests: 3\n")
        seal(tiny.folder)
        with pytest.raises(BundleError, match="max_requests"):
            load_on_double(tiny)


@case("tensorrt-llm.md §5.3: ids are read from the tokenizer at load and asserted", on=_ON)
def an_end_of_turn_that_the_tokenizer_has_elsewhere(subject: Subject) -> None:
    with changed(subject) as tiny:
        path = tiny.folder / "answers.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"end": 1}))
        seal(tiny.folder)
        with pytest.raises(BundleError, match="<end_of_turn>"):
            load_on_double(tiny)
