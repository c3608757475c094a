"""A bundle for TensorRT-LLM: what `quantize` wrote, how it is run, and what its machine compiled; or nothing."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from file_faults import FAULTS, fault_at
from gpu_machine import H100, PACKAGES, be_there
from small_guard import write_guard
from tritonguard.errors import BundleError

from build_scripts import targets
from build_scripts.exit_status import INTERRUPTED, REFUSED
from build_scripts.tensorrt_llm import compile as script
from build_scripts.tensorrt_llm.compile import compile_bundle, main
from build_scripts.tensorrt_llm.profiles import PROFILES
from build_scripts.tensorrt_llm.quantize import quantize
from engines.bundle import Bundle
from engines.manifest import NAME, read_manifest, write_manifest
from engines.tensorrt_llm.engine_config import EngineConfig
from engines.tensorrt_llm.jit_cache import KERNELS
from preprocessing.answer_text import AnswerText

MEASURED = {"load_s": 70.0, "forms": {"text": {"median_ms": 4.0, "said": "safe"}}}


@pytest.fixture(scope="module")
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compile")
    return quantize(write_guard(folder / "download", shards=2), folder / "bf16", PROFILES["bf16"])


@pytest.fixture
def source(bf16: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(bf16, tmp_path / "bf16")


def cold(source: Path, out: Path, **options: Any) -> Path:
    return compile_bundle(source, out, warmed=False, **options)


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a machine with an H100, where this process now is; a warm-up compiles one kernel there."""
    folder = tmp_path / "machine"
    be_there(monkeypatch, folder)

    def warm(bundle: Path) -> dict[str, Any]:
        assert not Bundle.open(bundle).manifest["warmed"]
        (folder / "jit").mkdir(exist_ok=True)
        (folder / "jit" / "kernel.so").write_text("kernel")
        return MEASURED

    monkeypatch.setattr(script, "warm", warm)
    return folder


def test_a_bundle_opens_and_says_what_it_is(bf16: Path, tmp_path: Path) -> None:
    out = cold(bf16, tmp_path / "b", max_tokens=2048, chosen={"max_batch_size": 8})
    bundle = Bundle.open(out)
    assert (bundle.target, bundle.precision, bundle.image_size) == ("tensorrt-llm", "bf16", 16)
    assert (bundle.capabilities.vision, bundle.capabilities.choices) == ("trained", 2)
    assert (bundle.capabilities.max_tokens, bundle.reasoning_source) == (2048, "model")
    assert bundle.model_revision == read_manifest(bf16)["inputs"]["checkpoint_revision"]
    described = {
        name: bundle.manifest[name] for name in ("hardware", "warmed", "jit", "measured", "parity", "calibration")
    }
    assert described == {**dict.fromkeys(described), "warmed": False}
    assert EngineConfig.read(out) == EngineConfig.for_profile("bf16", 2048, max_batch_size=8)
    assert AnswerText(out, max_tokens=2048).end == 8
    for name in read_manifest(bf16)["files"]:
        assert (out / name).read_bytes() == (bf16 / name).read_bytes(), name
    assert (out / "notices" / "LICENSE").is_file()


def test_weights_have_two_names_and_not_two_copies(bf16: Path, tmp_path: Path) -> None:
    out = cold(bf16, bf16.parent / "linked")
    for path in out.glob("*.safetensors"):
        assert path.samefile(bf16 / path.name)


def test_on_its_machine_a_bundle_is_warmed_and_keeps_the_kernels(bf16: Path, tmp_path: Path, gpu: Path) -> None:
    out = compile_bundle(bf16, tmp_path / "b")
    manifest = Bundle.open(out).manifest
    assert manifest["warmed"] is True
    assert manifest["measured"] == MEASURED
    assert manifest["jit"] == {"folder": str(gpu / "jit"), "files": 1}
    assert KERNELS in manifest["files"]
    hardware = manifest["hardware"]
    assert (hardware["gpu"], hardware["sm"], hardware["driver"]) == ("NVIDIA H100 80GB HBM3", 90, "590.48.01")
    assert hardware["packages"]["tensorrt_llm"] == "1.2.1"


def test_a_bundle_is_kept_until_something_it_depends_on_changes(
    bf16: Path, tmp_path: Path, gpu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "b"

    def written(**options: Any) -> int:
        return (compile_bundle(bf16, out, **options) / NAME).stat().st_ino

    first = written()
    assert written() == first
    others = [{"force": True}, {"max_tokens": 2000}, {"chosen": {"max_batch_size": 4}}, {"warmed": False}]
    seen = [first, *(written(**options) for options in others)]
    assert all(before != after for before, after in itertools.pairwise(seen))
    be_there(monkeypatch, gpu, smi=H100.replace("H100 80GB HBM3", "H200").replace("590.48.01", "595.10"))
    assert read_manifest(compile_bundle(bf16, out))["hardware"]["gpu"] == "NVIDIA H200"


@pytest.mark.parametrize(
    ("machine", "told"),
    [
        ({"smi": ""}, r"here is no GPU \(nvidia-smi lists none\).*or with --no-warm-up"),
        ({"packages": {}}, "here is no TensorRT-LLM.*or with --no-warm-up"),
        ({"packages": PACKAGES | {"tensorrt_llm": "1.2.0"}}, "corrupts its KV cache"),
        ({"smi": H100.replace("590.48.01", "550.1").replace(" 80994", " 2")}, "550.1 is older.*0.00 GB of GPU memory"),
    ],
)
def test_a_machine_that_can_not_warm_it_is_told_so_before_anything_is_written(
    bf16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: dict[str, Any], told: str
) -> None:
    be_there(monkeypatch, tmp_path / "machine", **machine)
    with pytest.raises(BundleError, match=told):
        compile_bundle(bf16, tmp_path / "out" / "b")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (subprocess.CompletedProcess([], 2), "failed with exit status 2"),
        (subprocess.TimeoutExpired("warm_up", 3600), "ended after 3600 s"),
    ],
)
def test_a_warm_up_that_fails_leaves_no_bundle(
    bf16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: object, told: str
) -> None:
    be_there(monkeypatch, tmp_path / "machine")
    run = subprocess.run

    def instead(command: list[str], **options: Any) -> object:
        if "build_scripts.tensorrt_llm.warm_up" not in command:
            return run(command, **options)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(subprocess, "run", instead)
    with pytest.raises(BundleError, match=told):
        compile_bundle(bf16, tmp_path / "out" / "b")
    assert list((tmp_path / "out").iterdir()) == []


def sealed(folder: Path, **changes: Any) -> None:
    """Write the manifest once more, over what is there now."""
    manifest = read_manifest(folder)
    described = {name: manifest[name] for name in ("target", "precision", "vision", "reasoning_source")}
    kind, inputs = changes.pop("kind", manifest["kind"]), changes.pop("inputs", manifest["inputs"])
    write_manifest(folder, kind=kind, inputs=inputs, **described | changes)


def cut(folder: Path) -> None:
    shard = next(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-8])


def flipped(folder: Path) -> None:
    shard = next(folder.glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)


def without_a_tensor(folder: Path) -> None:
    """As if the index and its shard agreed on having lost one."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    name = next(name for name in index["weight_map"] if name.endswith("layers.0.mlp.up_proj.weight"))
    shard = folder / index["weight_map"].pop(name)
    content = shard.read_bytes()
    length = int.from_bytes(content[:8], "little")
    shard.write_bytes(content[:8] + content[8 : 8 + length].replace(b"up_proj", b"xx_proj", 1) + content[8 + length :])
    index["weight_map"][name.replace("up_proj", "xx_proj")] = shard.name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    sealed(folder)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (cut, "safetensors is not the file that was built"),
        (flipped, "safetensors is not the file that was built"),
        (lambda folder: [cut(folder), sealed(folder)], "truncated or has trailing bytes"),
        (lambda folder: next(folder.glob("*.safetensors")).unlink(), "safetensors is missing"),
        (lambda folder: (folder / "added.json").touch(), "added.json is not in the manifest"),
        (lambda folder: [(folder / "chat_template.jinja").unlink(), sealed(folder)], "has no chat_template.jinja"),
        (without_a_tensor, "lacks 1 tensor.*up_proj.weight"),
        (lambda folder: sealed(folder, precision="fp8"), "F8_E4M3|lacks"),
        (lambda folder: sealed(folder, precision="int8-sq"), "precision 'int8-sq', which this release lacks"),
        (lambda folder: sealed(folder, vision="blurred"), "calls the vision tower 'blurred'"),
        (lambda folder: sealed(folder, kind="checkpoint"), "is a checkpoint: quantize it first"),
        (lambda folder: sealed(folder, target="openvino", inputs={"target": "openvino"}), "quantized for openvino"),
        (lambda folder: (folder / NAME).unlink(), "no readable manifest.json"),
        (lambda folder: (folder / NAME).write_text("{"), "no readable manifest.json"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused_by_name(
    source: Path, tmp_path: Path, damage: Callable[[Path], Any], told: str
) -> None:
    damage(source)
    with pytest.raises(BundleError, match=told):
        cold(source, tmp_path / "out" / "b")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fault", FAULTS)
def test_stopped_anywhere_what_was_there_stays_and_the_rerun_succeeds(bf16: Path, tmp_path: Path, fault: str) -> None:
    out = tmp_path / "b"
    before = read_manifest(cold(bf16, out, max_tokens=2000))
    for number in itertools.count(1):
        error = FAULTS[fault]()
        with fault_at(number, error, below=tmp_path) as reached, suppress(BundleError, type(error)):
            cold(bf16, out)
        if not reached.reached:
            break
        assert Bundle.open(out).manifest in (before, read_manifest(out))
        assert [path.name for path in tmp_path.iterdir() if path.name != "b"] == [], number
        if read_manifest(out) != before:
            # It was stopped behind its last rename.
            before = read_manifest(cold(bf16, out, max_tokens=2000))
    assert number > 10
    assert Bundle.open(out).capabilities.max_tokens == script.MAX_TOKENS


def test_a_full_disk_is_told_as_such(bf16: Path, tmp_path: Path) -> None:
    with fault_at(3, FAULTS["full"](), below=tmp_path), pytest.raises(BundleError, match="No space left on device"):
        cold(bf16, tmp_path / "b")


def test_the_command_says_why_not_and_ends_as_others_do(
    bf16: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--checkpoint", str(bf16), "--out", str(tmp_path / "b"), "--max-tokens", "2048", "--no-overlap"]
    be_there(monkeypatch, tmp_path / "machine", smi="")
    assert main(arguments) == REFUSED
    assert "compile: a bundle is warmed where it is compiled" in capsys.readouterr().err
    assert targets.run("compile", "", ["--target", "tensorrt-llm", *arguments, "--no-warm-up"]) == 0
    assert "not warmed: its first start compiles kernels" in " ".join(capsys.readouterr().err.split())
    assert EngineConfig.read(tmp_path / "b").disable_overlap_scheduler
    assert main([*arguments, "--no-warm-up"]) == 0
    assert "is current" in capsys.readouterr().out
    with fault_at(1, KeyboardInterrupt(), below=tmp_path):
        assert main([*arguments, "--no-warm-up", "--force"]) == INTERRUPTED
    assert main([*arguments, "--no-warm-up", "--memory-fraction", "1.5"]) == REFUSED
    assert "free_gpu_memory_fraction is 1.5" in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["--help"])
    assert exit.value.code == 0
    text = capsys.readouterr().out
    for word in ("--checkpoint build/fp8-kv", "26.07-trtllm-python-py3", "kernels", "--no-warm-up"):
        assert word in text
