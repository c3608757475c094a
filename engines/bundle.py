"""A bundle: the one folder that a server loads. graph or checkpoint, tokenizer, template, notices, manifest.

manifest.json        kind "bundle": target, precision, capabilities, hashes of everything below
engine.yaml          how the engine runs it
answers.json         what a start needs of the tokenizer (`preprocessing/answer_text.py`)
config.json          the checkpoint's own
preprocessor_config.json, processor_config.json  how images become pixels, where there is a tower
tokenizer.json, tokenizer_config.json, chat_template.jinja
notices/             licence terms and statement of changes of the weights

target openvino      graph.xml, graph.bin: the text model; head.*: its vocabulary for free text; vision.*: the tower;
                     graph.*.blob: what OpenVINO made of it for one kind of CPU (`engines/local/runtime.py`)
target tensorrt-llm  *.safetensors and their index: the quantized checkpoint; hf_quant_config.json,
                     generation_config.json; jit/kernels.tar: kernels compiled for one kind of GPU
                     (`engines/tensorrt_llm/jit_cache.py`)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonguard.errors import BundleError

from engines.checkpoint import Checkpoint
from engines.manifest import read_manifest, verify_files
from engines.protocol import Capabilities, Engine

OPENVINO, TENSORRT_LLM = TARGETS = ("openvino", "tensorrt-llm")
"""The engines that a bundle can be for."""
WEIGHTS = (".bin", ".safetensors")


@dataclass(frozen=True)
class Bundle:
    folder: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path, *, weights: bool = True) -> Bundle:
        """Raises BundleError: not a bundle, a file missing, changed or added since it was compiled.

        weights: False, for who loads no graph, leaves the bytes of the graphs' weights unread.
        """
        manifest = read_manifest(folder)
        if manifest["kind"] != "bundle":
            raise BundleError(f"{folder.name} is a {manifest['kind']}, not a bundle")
        verify_files(folder, manifest, unread=() if weights else WEIGHTS)
        return cls(folder, manifest)

    @property
    def target(self) -> str:
        return str(self.manifest["target"])

    @property
    def precision(self) -> str:
        """The form of its numbers: "f32", "bf16", or another of `build_scripts/<target>/profiles.py`."""
        return str(self.manifest["precision"])

    @property
    def revision(self) -> str:
        """SHA-256 over the bundle's files."""
        return str(self.manifest["revision"])

    @property
    def model_revision(self) -> str:
        """SHA-256 over the merged checkpoint's files."""
        return str(self.manifest["inputs"]["checkpoint_revision"])

    @property
    def reasoning_source(self) -> str:
        """Where the reasoning of think mode comes from: "model", or "synthetic" for one trained on made-up traces."""
        return str(self.manifest.get("reasoning_source", "model"))

    @property
    def image_size(self) -> int:
        """Pixels of the vision tower's side; 0 where there is no tower."""
        config = Checkpoint.read_vision_config(self.folder)
        return 0 if config is None else config.image_size

    @property
    def capabilities(self) -> Capabilities:
        declared = self.manifest["capabilities"]
        return Capabilities(
            segments=frozenset(declared["segments"]),
            choices=declared["choices"],
            vision=declared["vision"],
            max_tokens=declared["max_tokens"],
        )


def open_engine(bundle: Bundle, *, keep_prefixes: bool = False) -> Engine:
    """The engine of the bundle's target, loaded. Raises BundleError for a target this release does not run.

    keep_prefixes: the local engine keeps policies' keys and values beside the bundle, for its next start.
    """
    if bundle.target == OPENVINO:
        # Here, not above: preprocess and verdict read bundles too and have no use for OpenVINO.
        from engines.local.engine import LocalEngine

        return LocalEngine.load(bundle, keep_prefixes=keep_prefixes)
    if bundle.target == TENSORRT_LLM:
        from engines.tensorrt_llm.engine import TensorRtLlmEngine

        return TensorRtLlmEngine.load(bundle)
    raise BundleError(f"target {bundle.target!r} is not served by this release ({', '.join(TARGETS)} are)")
