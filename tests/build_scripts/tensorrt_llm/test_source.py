"""The checkpoint to quantize: taken as it was downloaded, or refused with the file and what to do about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_guard import INDEX, guard_config, write_guard
from tritonguard.errors import BundleError

from build_scripts.revisions import revision_of
from build_scripts.tensorrt_llm.layout import layout_of, published_layout
from build_scripts.tensorrt_llm.source import Source
from engines.checkpoint import TensorFile, write_tensors
from engines.manifest import NAME, write_manifest

SHARD = "model-00002-of-00003.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n"
EMBEDDING = "language_model.model.embed_tokens.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_guard(tmp_path / "download", shards=3)


def change_json(path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_a_download_is_taken_as_it_is(folder: Path) -> None:
    source = Source.open(folder)
    assert layout_of(source.checkpoint.files) == published_layout(guard_config())
    assert (source.vision, source.reasoning_source) == ("trained", "model")


def test_links_into_a_cache_are_taken(folder: Path, tmp_path: Path) -> None:
    blobs = folder.rename(tmp_path / "blobs")
    folder.mkdir()
    for path in blobs.iterdir():
        (folder / path.name).symlink_to(Path("..", "blobs", path.name))
    assert layout_of(Source.open(folder).checkpoint.files) == published_layout(guard_config())


def test_a_manifest_is_believed_and_held_to(folder: Path) -> None:
    write_manifest(folder, kind="checkpoint", inputs={}, vision="untrained", reasoning_source="synthetic")
    source = Source.open(folder)
    assert (source.vision, source.reasoning_source) == ("untrained", "synthetic")
    (folder / "generation_config.json").write_text("{ }")
    with pytest.raises(BundleError, match=r"generation_config\.json is not the file that was built"):
        Source.open(folder)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (SHARD, f"lacks {SHARD}: run `hf download` again .*gated"),
        ("tokenizer.json", "lacks tokenizer.json"),
        ("chat_template.jinja", "lacks chat_template.jinja"),
        ("preprocessor_config.json", "lacks preprocessor_config.json"),
        ("config.json", "lacks config.json"),
        (INDEX, f"3 weight files and no {INDEX}"),
    ],
)
def test_a_missing_file_is_named(folder: Path, name: str, reason: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=reason):
        Source.open(folder)


def test_a_folder_without_weights_names_the_file_that_it_lacks(tmp_path: Path) -> None:
    folder = write_guard(tmp_path / "download")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BundleError, match=r"lacks model\.safetensors"):
        Source.open(folder)
    with pytest.raises(BundleError, match="there is no folder"):
        Source.open(tmp_path / "elsewhere")


@pytest.mark.parametrize("name", [SHARD, "tokenizer.json"])
def test_a_pointer_in_a_files_place_is_told_from_a_file(folder: Path, name: str) -> None:
    (folder / name).write_text(POINTER)
    with pytest.raises(BundleError, match=f"{name} is a Git LFS pointer.*git lfs pull.*hf download"):
        Source.open(folder)


@pytest.mark.parametrize("kept", [0, 7, 200, -1])
def test_a_cut_shard_is_named(folder: Path, kept: int) -> None:
    path = folder / SHARD
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(BundleError, match=SHARD):
        Source.open(folder)


def rope_of_transformers_5(config: dict[str, Any]) -> None:
    text = config["text_config"]
    del text["rope_scaling"]
    text["rope_parameters"] = {"full_attention": {"factor": 8.0, "rope_type": "linear"}}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (rope_of_transformers_5, "transformers 5's form"),
        (lambda config: config.update(architectures=["Gemma3ForCausalLM"]), "not that of a Gemma3ForConditional"),
        (lambda config: config.update(architectures=None), "not that of a Gemma3ForConditional"),
        (lambda config: config.update(quantization_config={"quant_algo": "FP8"}), "quantized already"),
        (lambda config: config.pop("vision_config"), "no vision tower"),
        (lambda config: config["text_config"].update(hidden_size=64), r"\[640, 128\], and BF16 \[640, 64\] is "),
        (lambda config: config["text_config"].update(num_hidden_layers=5), "lacks 13 tensor"),
        (lambda config: config["text_config"].update(num_hidden_layers=3), "has 13 tensor.*layers.3"),
        (lambda config: config["vision_config"].update(image_size=32), "preprocessor_config.json does not fit"),
    ],
)
def test_a_config_that_is_not_the_weights_or_not_in_457s_form_is_refused(
    folder: Path, change: Callable[[Any], object], reason: str
) -> None:
    change_json(folder / "config.json", change)
    with pytest.raises(BundleError, match=reason):
        Source.open(folder)


def rewritten(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A checkpoint of one file whose tensors {name: (dtype, values)} were changed."""
    path = folder / "model.safetensors"
    file = TensorFile.open(path)
    tensors = {name: (spec["dtype"], file.raw(name).copy()) for name, spec in file.header.items()}
    change(tensors)
    layout = {name: (dtype, values.shape) for name, (dtype, values) in tensors.items()}
    write_tensors(path, layout, (values for _, values in tensors.values()))
    return folder


def renamed(old: str, new: str) -> Callable[[dict[str, Any]], object]:
    def change(tensors: dict[str, Any]) -> None:
        for name in list(tensors):
            tensors[name.replace(old, new, 1)] = tensors.pop(name)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (renamed("vision_tower.vision_model.", "vision_tower."), "vision_tower.* is not a key of the published layout"),
        (renamed("language_model.model.", "model.language_model."), "model.language_model.* is not a key"),
        (
            lambda tensors: tensors.update({"lm_head.weight": tensors[EMBEDDING]}),
            "lm_head.*are one matrix",
        ),
        (lambda tensors: tensors.update({EMBEDDING: ("F32", np.zeros((640, 128), np.float32))}), "is F32"),
        (lambda tensors: tensors.pop("language_model.model.norm.weight"), "lacks 1 tensor.*model.norm.weight"),
    ],
)
def test_keys_and_dtypes_of_another_form_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    with pytest.raises(BundleError, match=reason):
        Source.open(rewritten(write_guard(tmp_path / "download"), change))


def test_a_revision_follows_what_is_read_and_nothing_else(folder: Path) -> None:
    first = revision_of(folder)
    assert len(first) == 64
    (folder / "LICENSE").write_text("other terms")
    assert revision_of(folder) == first
    (folder / "chat_template.jinja").write_text("another template")
    second = revision_of(folder)
    assert second != first
    manifest = write_manifest(folder, kind="checkpoint", inputs={})
    assert revision_of(folder) == manifest["revision"]
    (folder / NAME).unlink()
    assert revision_of(folder) == second
    write_manifest(folder, kind="adapter", inputs={})
    with pytest.raises(BundleError, match="is of kind 'adapter'"):
        revision_of(folder)
