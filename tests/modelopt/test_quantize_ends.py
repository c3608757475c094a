"""quantize with ModelOpt, interrupted or out of disk: a reason, nothing half-written, and the rerun succeeds."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from build_scripts.tensorrt_llm import modelopt_export
from build_scripts.tensorrt_llm.quantize import main
from engines.manifest import read_manifest, verify_files


@pytest.fixture
def line(guard: Path, tmp_path: Path) -> list[str]:
    return ["--profile", "int8-weight-only", "--checkpoint", str(guard), "--out", str(tmp_path / "out")]


def accepted(line: list[str], folder: Path) -> None:
    assert main(line) == 0
    assert [path.name for path in folder.iterdir()] == ["out"]
    verify_files(folder / "out", read_manifest(folder / "out"))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel refuses to let a file grow beyond `size` bytes, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [1_000, 300_000])
def test_a_disk_that_is_full_while_weights_are_written(
    line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], size: int
) -> None:
    with largest_file(size):
        assert main(line) == 2
    said = capsys.readouterr().err
    assert "File too large" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
    accepted(line, tmp_path)


@pytest.mark.parametrize("step", ["load_model", "quantize_text", "export"])
def test_an_interrupt_in_any_step(
    line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], step: str
) -> None:
    real = getattr(modelopt_export, step)

    def interrupted(*arguments: Any) -> None:
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(modelopt_export, step, interrupted)
    assert main(line) == 130
    assert "interrupted" in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    accepted(line, tmp_path)


def test_an_export_that_is_not_what_was_asked_for_replaces_nothing(
    line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    accepted(line, tmp_path)
    before = read_manifest(tmp_path / "out")
    real = modelopt_export.quantize_text

    def one_off(model: Any, text: Any, profile: Any, prompts: Any) -> None:
        real(model, text, profile, prompts)
        model.model.language_model.layers[0].mlp.up_proj.weight_quantizer.disable()

    monkeypatch.setattr(modelopt_export, "quantize_text", one_off)
    assert main([*line, "--force"]) == 2
    assert "the export (int8-weight-only)" in capsys.readouterr().err
    assert read_manifest(tmp_path / "out") == before
    verify_files(tmp_path / "out", before)
