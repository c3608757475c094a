"""A bundle is loaded whole or refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from tritonguard.errors import BundleError

from engines.bundle import Bundle, open_engine
from engines.manifest import write_manifest


def bundle(folder: Path, *, kind: str = "bundle", target: str = "openvino") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "graph.xml").write_text("<net/>")
    capabilities = {"segments": ["Choice", "Forced"], "choices": 1, "vision": "none", "max_tokens": 64}
    inputs = {"checkpoint_revision": "abc"}
    write_manifest(folder, kind=kind, inputs=inputs, target=target, precision="f32", capabilities=capabilities)
    return folder


def test_a_whole_bundle_says_what_it_can(tmp_path: Path) -> None:
    opened = Bundle.open(bundle(tmp_path / "b"))
    assert opened.capabilities.max_tokens == 64
    assert (opened.model_revision, opened.precision) == ("abc", "f32")


def test_a_changed_a_missing_and_an_added_file_are_refused(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b")
    (folder / "graph.xml").write_text("<NET/>")
    with pytest.raises(BundleError, match="not the file that was built"):
        Bundle.open(folder)
    (folder / "graph.xml").unlink()
    with pytest.raises(BundleError, match="missing"):
        Bundle.open(folder)
    bundle(folder)
    (folder / "more.bin").touch()
    with pytest.raises(BundleError, match="not in the manifest"):
        Bundle.open(folder)


def test_who_loads_no_graph_reads_all_but_the_weights(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "graph.bin").write_bytes(b"weights")
    bundle(folder)
    (folder / "graph.bin").write_bytes(b"changed")
    Bundle.open(folder, weights=False)
    with pytest.raises(BundleError, match=r"graph\.bin is not the file"):
        Bundle.open(folder)
    (folder / "graph.xml").write_text("<NET/>")
    with pytest.raises(BundleError, match=r"graph\.xml is not the file"):
        Bundle.open(folder, weights=False)


def test_another_kind_another_target_and_no_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is a checkpoint"):
        Bundle.open(bundle(tmp_path / "c", kind="checkpoint"))
    with pytest.raises(BundleError, match="target"):
        open_engine(Bundle.open(bundle(tmp_path / "t", target="onnx")))
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Bundle.open(tmp_path / "none")


def test_a_graph_that_is_none_is_refused_with_a_typed_error(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(BundleError):
        open_engine(Bundle.open(bundle(folder)))
