"""engine.yaml says how the graphs are run; what it can't mean, or this CPU can't do, is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tiny_checkpoint import tiny_config, write_checkpoint
from tritonguard.errors import BundleError

from build_scripts.openvino.compile import compile_bundle
from engines.bundle import Bundle, open_engine
from engines.local import runtime
from engines.local.engine_config import ENGINE_CONFIG, STREAMS_VARIABLE, EngineConfig
from engines.local.passes import Passes
from engines.local.runtime import core, cpu_name, infer_request, native_precisions, refuse_foreign
from engines.manifest import write_manifest

GROUP_SIZE = "DYNAMIC_QUANTIZATION_GROUP_SIZE"


@pytest.fixture(scope="module")
def for_bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that was compiled for bfloat16, whatever this CPU multiplies."""
    folder = tmp_path_factory.mktemp("engine_config")
    write_checkpoint(folder / "checkpoint", tiny_config())
    write_manifest(folder / "checkpoint", kind="checkpoint", inputs={}, vision="untrained")
    return compile_bundle(folder / "checkpoint", folder / "bundle", precision="bf16")


@pytest.mark.parametrize(
    "config", [EngineConfig("f32"), EngineConfig("bf16", 64, streams=1), EngineConfig("f32", runtime="onnxruntime")]
)
def test_what_is_written_is_read(tmp_path: Path, config: EngineConfig) -> None:
    config.write(tmp_path)
    assert EngineConfig.read(tmp_path) == config
    assert yaml.safe_load((tmp_path / ENGINE_CONFIG).read_text()) == {
        "arithmetic": config.arithmetic,
        "dynamic_quantization_group_size": config.dynamic_quantization_group_size,
        "runtime": config.runtime,
        "streams": config.streams,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"arithmetic: f64", "'f64' is not one of: f32, bf16"),
        (b"arithmetic: [f32]", "is not one of"),
        (b"arithmetic: f32\ndynamic_quantization_group_size: -1", "not a whole number"),
        (b"arithmetic: f32\ndynamic_quantization_group_size: 64.0", "not a whole number"),
        (b"arithmetic: f32\ndynamic_quantization_group_size: true", "not a whole number"),
        (b"arithmetic: f32\ndynamic_quantization_group_size:", "not a whole number"),
        (b"arithmetic: f32\nstreams: 0", "streams is 1 or 2"),
        (b"arithmetic: f32\nstreams: true", "streams is 1 or 2"),
        (b"arithmetic: f32\nruntime: torch", "'torch' is not one of: openvino, onnxruntime"),
        (b"arithmetic: f32\nlanes: 2", "compile it again"),
        (b"dynamic_quantization_group_size: 64", "compile it again"),
        (b"", "compile it again"),
        (b"- arithmetic", "compile it again"),
        (b"f32", "compile it again"),
        (b"1: f32", "compile it again"),
        (b"arithmetic: [", "compile it again"),
        (b"arithmetic: \xff", "compile it again"),
        (None, "compile it again"),
    ],
)
def test_what_it_cannot_mean_is_refused(tmp_path: Path, text: bytes | None, message: str) -> None:
    if text is not None:
        (tmp_path / ENGINE_CONFIG).write_bytes(text)
    with pytest.raises(BundleError, match=message):
        EngineConfig.read(tmp_path)


@pytest.mark.parametrize(("told", "streams"), [({}, 2), ({STREAMS_VARIABLE: ""}, 2), ({STREAMS_VARIABLE: "1"}, 1)])
def test_the_environment_may_spare_the_second_runtime(told: dict[str, str], streams: int) -> None:
    assert EngineConfig("f32").told_by(told).streams == streams


@pytest.mark.parametrize("text", ["0", "3", "two", " 1"])
def test_other_streams_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="TRITONGUARD_STREAMS is not 1 or 2"):
        EngineConfig("f32").told_by({STREAMS_VARIABLE: text})
    with pytest.raises(BundleError, match="streams is 1 or 2"):
        EngineConfig("f32", streams=3)


def test_this_cpu_has_a_name_and_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu_name().strip()
    assert "f32" in native_precisions()
    monkeypatch.setattr(runtime, "native_precisions", lambda: ("f32",))
    refuse_foreign(EngineConfig("f32", 64))
    with pytest.raises(BundleError, match="compiled for bf16"):
        refuse_foreign(EngineConfig("bf16"))


@pytest.mark.parametrize(
    ("flags", "precision", "threads", "runs"),
    [
        ("avx512f amx_bf16 amx_tile", "bf16", 1, False),
        ("avx512f amx_bf16 amx_tile", "bf16", 2, True),
        ("avx512f amx_bf16 amx_tile", "f32", 1, True),
        ("avx512f avx512_bf16", "bf16", 1, True),
    ],
)
def test_one_thread_is_not_given_what_openvino_dies_of(
    monkeypatch: pytest.MonkeyPatch, flags: str, precision: str, threads: int, runs: bool
) -> None:
    monkeypatch.setattr(runtime, "_cpu_flags", lambda: frozenset(flags.split()))
    assert runtime.runs_with(precision, threads=threads) is runs
    monkeypatch.setattr(runtime, "cores", lambda: threads)
    assert precision == "f32" or runs or precision not in native_precisions()
    if not runs:
        with pytest.raises(BundleError, match="with one thread on this CPU"):
            infer_request(Path("graph.xml"), precision=precision)


def test_a_bundle_for_another_cpu_is_refused_before_its_graphs_are_read(
    for_bf16: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(*arguments: object) -> None:
        raise AssertionError("a graph was compiled")

    bundle = Bundle.open(for_bf16)
    monkeypatch.setattr(runtime, "native_precisions", lambda: ("f32",))
    monkeypatch.setattr(core(), "compile_model", compiled)
    with pytest.raises(BundleError, match="compiled for bf16, which this CPU does not multiply"):
        open_engine(bundle)


def test_a_bundle_without_the_file_is_refused(for_bf16: Path, tmp_path: Path) -> None:
    for path in for_bf16.iterdir():
        if path.name != ENGINE_CONFIG:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(BundleError, match=r"engine\.yaml is missing"):
        Bundle.open(tmp_path)
    with pytest.raises(BundleError, match=r"no readable engine\.yaml"):
        Passes.load(tmp_path)


def test_the_group_size_is_the_text_graphs_alone_and_may_be_said_instead(
    for_bf16: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "native_precisions", lambda: ("f32",))
    passes = Passes.load(for_bf16, EngineConfig("f32", 32))
    assert passes._head is not None
    assert passes._vision is not None
    text, *others = (
        part._request.get_compiled_model().get_property(GROUP_SIZE)
        for part in (passes._runtime, passes._head, passes._vision)
    )
    assert (text, others) == (32, [0, 0])
