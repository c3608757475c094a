"""The command without ModelOpt: the bf16 profile from download to manifest, refusals, and nothing half-written."""

from __future__ import annotations

import itertools
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from file_faults import FAULTS, fault_at
from small_guard import NOTICE, write_guard
from tritonguard.errors import BundleError

from build_scripts import quantize as command
from build_scripts.revisions import revision_of
from build_scripts.tensorrt_llm import modelopt_export
from build_scripts.tensorrt_llm.profiles import PROFILES
from build_scripts.tensorrt_llm.quantize import main, quantize
from engines.manifest import NAME, read_manifest, verify_files, write_manifest

BF16 = PROFILES["bf16"]
ENDS = {"interrupt": 130, "stop": 143, "full": 2}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_guard(tmp_path / "download", shards=2)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "built" / "out"


def arguments(source: Path, out: Path, *own: str, profile: str = "bf16") -> list[str]:
    return ["--profile", profile, "--checkpoint", str(source), "--out", str(out), *own]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(line: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The reason; nothing was written."""
    assert main(line) == 2
    assert not out.parent.exists() or list(out.parent.iterdir()) == []
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said.splitlines()[-1]


def test_bf16_is_the_download_itself_with_its_notices_and_a_manifest(source: Path, out: Path) -> None:
    assert command.main(["--target", "tensorrt-llm", *arguments(source, out)]) == 0
    before, after = content(source), content(out)
    assert after.pop("notices/LICENSE") == before.pop("LICENSE") == NOTICE.encode()
    assert set(after) - set(before) == {NAME}
    assert {name: after[name] for name in before} == before
    for path in source.glob("*.safetensors"):
        assert path.samefile(out / path.name), "8.6 GB are linked, not copied"


def test_the_manifest_says_what_compile_reads(source: Path, out: Path) -> None:
    quantize(source, out, BF16)
    manifest = read_manifest(out)
    verify_files(out, manifest)
    assert (manifest["kind"], manifest["target"], manifest["precision"]) == ("quantized", "tensorrt-llm", "bf16")
    assert (manifest["vision"], manifest["reasoning_source"]) == ("trained", "model")
    inputs = manifest["inputs"]
    assert set(inputs.pop("source_sha256")) == {"calibration_inputs", "modelopt_export"}
    assert inputs == {
        "checkpoint_revision": revision_of(source),
        "target": "tensorrt-llm",
        "profile": {"name": "bf16", "quant_algo": None, "kv_cache_quant_algo": None, "modelopt": []},
        "calibration": None,
        "tools": {},
        "vision": None,
        "reasoning_source": None,
    }


def test_what_one_of_our_manifests_says_of_the_model_goes_along(source: Path, out: Path) -> None:
    (source / "notices" / "base").mkdir(parents=True)
    (source / "notices" / "base" / "NOTICE").write_text("of the base")
    write_manifest(source, kind="checkpoint", inputs={}, vision="untrained", reasoning_source="synthetic")
    quantize(source, out, BF16)
    manifest = read_manifest(out)
    assert (manifest["vision"], manifest["reasoning_source"]) == ("untrained", "synthetic")
    assert manifest["inputs"]["checkpoint_revision"] == read_manifest(source)["revision"]
    assert (out / "notices" / "base" / "NOTICE").read_text() == "of the base"


def test_a_download_that_is_links_into_a_cache_gives_files(source: Path, tmp_path: Path, out: Path) -> None:
    blobs = source.rename(tmp_path / "blobs")
    source.mkdir()
    for path in blobs.iterdir():
        (source / path.name).symlink_to(Path("..", "blobs", path.name))
    quantize(source, out, BF16)
    assert not [path for path in out.rglob("*") if path.is_symlink()]
    verify_files(out, read_manifest(out))


def test_a_current_folder_is_kept_and_another_source_or_force_builds_again(source: Path, out: Path) -> None:
    def written_at() -> int:
        return (out / NAME).stat().st_ino

    quantize(source, out, BF16)
    first = written_at()
    quantize(source, out, BF16)
    assert written_at() == first
    quantize(source, out, BF16, force=True)
    second = written_at()
    assert second != first
    (source / "chat_template.jinja").write_text("{{ bos_token }} another")
    quantize(source, out, BF16)
    assert written_at() != second
    for vision in ("trained", "untrained"):
        write_manifest(source, kind="checkpoint", inputs={}, vision=vision)
        quantize(source, out, BF16)
        assert read_manifest(out)["vision"] == vision


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        ("int8-sq", "no branch for SmoothQuant"),
        ("int8", "choose one of: bf16, fp8, fp8-kv, int8-weight-only"),
    ],
)
def test_a_profile_that_can_not_be_is_refused(
    source: Path, out: Path, capsys: pytest.CaptureFixture[str], profile: str, reason: str
) -> None:
    assert reason in refused(arguments(source, out, profile=profile), out, capsys)


def test_without_modelopt_the_environment_is_named(
    source: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(modelopt_export, "version", missing)
    said = refused(arguments(source, out, profile="fp8-kv"), out, capsys)
    assert "nvidia-modelopt is not here: install the build environment (make .venv-modelopt/.ok)" in said


def test_other_versions_than_those_whose_exports_load_are_refused(
    source: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"nvidia-modelopt": "0.43.0", "transformers": "5.14.1", "torch": "2.13.0"}
    monkeypatch.setattr(modelopt_export, "version", found.__getitem__)
    assert "transformers is 5.14.1" in refused(arguments(source, out, profile="fp8"), out, capsys)


def test_the_build_environments_packages_are_not_needed_to_refuse_or_for_bf16(source: Path, out: Path) -> None:
    """Nor is OpenVINO, which the environment that quantizes has not got."""
    code = (
        "import sys; from build_scripts.quantize import main\n"
        "status = main(sys.argv[1:])\n"
        "loaded = {'torch', 'transformers', 'modelopt', 'openvino', 'gguf', 'nncf'} & set(sys.modules)\n"
        "sys.exit(f'{status} {loaded}' if status or loaded else 0)"
    )
    line = ["--target", "tensorrt-llm", *arguments(source, out)]
    subprocess.run([sys.executable, "-W", "error", "-c", code, *line], check=True, timeout=60)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("missing", "lacks model-00002-of-00002.safetensors"),
        ("cut", "model-00002-of-00002.safetensors is truncated"),
        ("pointer", "is a Git LFS pointer"),
        ("gone", "there is no folder"),
    ],
)
def test_a_download_that_is_not_whole_is_refused(
    source: Path, out: Path, capsys: pytest.CaptureFixture[str], damage: str, reason: str
) -> None:
    shard = source / "model-00002-of-00002.safetensors"
    if damage == "missing":
        shard.unlink()
    elif damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-3])
    elif damage == "pointer":
        shard.write_text("version https://git-lfs.github.com/spec/v1\n")
    else:
        source.rename(source.with_name("elsewhere"))
    assert reason in refused(arguments(source, out), out, capsys)


def test_a_folder_that_is_read_or_that_no_build_made_is_not_overwritten(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("all of it")
    before = content(tmp_path)
    for place, reason in ((source, "overlaps"), (source / "out", "overlaps"), (mine, "that no build made")):
        assert main(arguments(source, place)) == 2
        assert reason in capsys.readouterr().err
    assert content(tmp_path) == before


@pytest.mark.parametrize("end", FAULTS)
def test_ended_at_any_point_nothing_is_half_written_and_the_rerun_succeeds(
    source: Path, tmp_path: Path, end: str
) -> None:
    whole = tmp_path / "whole"
    quantize(source, whole, BF16)
    expected = content(whole)
    for number in itertools.count(1):
        out = tmp_path / f"{end}-{number}" / "out"
        out.parent.mkdir()
        try:
            with fault_at(number, FAULTS[end](), below=out.parent) as fault:
                status = main(arguments(source, out))
        except SystemExit as stopped:
            status = int(str(stopped.code))
        if not fault.reached:
            assert (status, number > 10) == (0, True)
            break
        assert status in (ENDS[end], 0)  # a link that can't be made is a copy
        assert [path for path in out.parent.iterdir() if path != out] == []
        if out.exists():
            assert content(out) == expected
        assert main(arguments(source, out)) == 0
        assert content(out) == expected


def test_a_full_disk_is_foreseen(
    source: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from build_scripts.tensorrt_llm import quantize as script

    monkeypatch.setattr(modelopt_export, "tools", dict)
    monkeypatch.setattr(script, "_SPARE_BYTES", 1 << 60)
    reason = refused(arguments(source, out, profile="int8-weight-only"), out, capsys)
    assert "GB of disk are needed" in reason


def test_a_reason_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there is no folder"):
        quantize(tmp_path / "nowhere", tmp_path / "out", BF16)
