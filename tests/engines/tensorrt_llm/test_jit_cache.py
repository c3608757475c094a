"""Kernels of a warm-up come back where a server looks for them, whole, with their times, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from tritonguard.errors import BundleError

from engines.tensorrt_llm.jit_cache import DEFAULT_FOLDER, KERNELS, cache_folder, capture, restore, variables

OPS = ".cache/flashinfer/0.6.4/90a/cached_ops"
NANOSECONDS = 1_700_000_000_123_456_789


def compiled(folder: Path) -> Path:
    """A cache in which FlashInfer has compiled a kernel, another process has a lock, and Triton has an entry."""
    for name in (f"{OPS}/batch_prefill/batch_prefill.so", f"{OPS}/batch_prefill/build.ninja", "triton/ab/k.cubin"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
        os.utime(folder / name, ns=(NANOSECONDS, NANOSECONDS))
    (folder / OPS / "tmp").mkdir()
    (folder / OPS / "tmp" / "batch_prefill.lock").touch()
    return folder


def moved_away(folder: Path) -> Path:
    """As on another machine: the folder is not there."""
    return folder.rename(folder.with_name("elsewhere"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "bundle").mkdir()
    return tmp_path / "bundle"


def test_what_was_compiled_comes_back_with_its_times(tmp_path: Path, bundle: Path) -> None:
    cache = compiled(tmp_path / "cache")
    assert capture(cache, bundle) == 3
    original = moved_away(cache)
    assert restore(bundle, cache) == 3
    found = {path.relative_to(cache) for path in cache.rglob("*") if path.is_file()}
    assert found == {
        path.relative_to(original) for path in original.rglob("*") if path.suffix in (".so", ".ninja", ".cubin")
    }
    for name in found:
        assert (cache / name).read_bytes() == (original / name).read_bytes()
        assert (cache / name).stat().st_mtime == NANOSECONDS // 10**9


def ninja(folder: Path) -> str:
    """What it says it did. `python -m ninja` would need the package; its program lies beside this interpreter."""
    command = [str(Path(sys.executable).with_name("ninja")), "-C", str(folder), "-f", str(folder / "build.ninja")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_ninja_finds_what_came_back_up_to_date(tmp_path: Path, bundle: Path) -> None:
    """As FlashInfer writes its build files: absolute outputs, and headers by way of a dependency file."""
    cache = tmp_path / "cache"
    kernel, source, header = cache / "ops" / "kernel.so", cache / "generated" / "kernel.cu", tmp_path / "header.h"
    for path in (kernel, source):
        path.parent.mkdir(parents=True)
    source.write_text("kernel")
    header.write_text("header")
    os.utime(header, ns=(NANOSECONDS, NANOSECONDS))  # the package's own, installed long before
    (kernel.parent / "build.ninja").write_text(
        "rule compile\n"
        f"  command = cp $in $out && echo $out: $in {header} > $out.d\n"
        "  depfile = $out.d\n"
        "  deps = gcc\n"
        f"build {kernel}: compile {source}\n"
    )
    assert "no work to do" not in ninja(kernel.parent)
    capture(cache, bundle)
    moved_away(cache)
    restore(bundle, cache)
    assert "no work to do" in ninja(kernel.parent)


def test_what_is_there_stays_and_what_is_missing_is_added(tmp_path: Path, bundle: Path) -> None:
    cache = compiled(tmp_path / "cache")
    capture(cache, bundle)
    own, lost = cache / OPS / "batch_prefill/batch_prefill.so", cache / "triton/ab/k.cubin"
    own.write_text("compiled here")
    lost.unlink()
    assert restore(bundle, cache) == 1
    assert (own.read_text(), lost.read_text()) == ("compiled here", "triton/ab/k.cubin")
    assert restore(bundle, cache) == 0
    assert not list(cache.glob("tmp*"))


def test_kernels_of_a_folder_of_another_path_are_left_in_the_bundle(tmp_path: Path, bundle: Path) -> None:
    capture(compiled(tmp_path / "cache"), bundle)
    assert restore(bundle, tmp_path / "another") == 0
    assert not (tmp_path / "another").exists()


def test_without_kernels_there_is_nothing_to_do(tmp_path: Path, bundle: Path) -> None:
    assert capture(tmp_path / "none", bundle) == 0
    assert not (bundle / KERNELS).exists()
    assert restore(bundle, tmp_path / "cache") == 0


def test_a_cache_that_can_not_be_written_is_a_typed_error(tmp_path: Path, bundle: Path) -> None:
    cache = compiled(tmp_path / "cache")
    capture(cache, bundle)
    moved_away(cache)
    cache.write_text("a file")
    with pytest.raises(BundleError, match="can't be put into"):
        restore(bundle, cache)
    cache.unlink()
    (bundle / KERNELS).write_bytes((bundle / KERNELS).read_bytes()[:700])
    with pytest.raises(BundleError, match="can't be put into"):
        restore(bundle, cache)


def test_nothing_is_written_outside_of_the_cache(tmp_path: Path, bundle: Path) -> None:
    cache, outside = compiled(tmp_path / "cache"), tmp_path / "outside"
    outside.touch()
    capture(cache, bundle)
    with tarfile.open(bundle / KERNELS) as tar:
        headers = tar.pax_headers
    with tarfile.open(bundle / KERNELS, "w", pax_headers=headers) as tar:
        tar.add(outside, "../bundle/planted")
    with pytest.raises(BundleError, match="can't be put into"):
        restore(bundle, cache)
    assert not (bundle / "planted").exists()


def test_the_packages_are_told_of_the_folder(tmp_path: Path) -> None:
    assert cache_folder({}) == cache_folder({"TRITONGUARD_JIT_CACHE": ""}) == Path(DEFAULT_FOLDER)
    assert cache_folder({"TRITONGUARD_JIT_CACHE": str(tmp_path)}) == tmp_path
    assert variables(tmp_path) == {
        "FLASHINFER_WORKSPACE_BASE": str(tmp_path),
        "TRITON_CACHE_DIR": str(tmp_path / "triton"),
    }
