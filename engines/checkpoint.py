"""A Gemma 3 checkpoint folder on disk, read and written with numpy: bfloat16 is kept as its uint16 bits."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonguard.errors import BundleError

from engines.vision_config import VisionConfig

FloatArray = npt.NDArray[np.float32]
_DTYPES: Mapping[str, Any] = {"BF16": np.uint16, "F32": np.float32, "F16": np.float16}
TEXT_PREFIX = "language_model.model."
VISION_PREFIX = "vision_tower.vision_model."
PROJECTOR_PREFIX = "multi_modal_projector."
_AT_ONCE = 1 << 26  # bytes copied at a time


def bfloat16_to_float32(bits: npt.NDArray[np.uint16]) -> FloatArray:
    """Exact: a bfloat16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def float32_to_bfloat16(values: FloatArray) -> npt.NDArray[np.uint16]:
    """Round to nearest, ties to even (IEEE 754), as torch does. NaN is not expected in weights."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


@dataclass(frozen=True)
class TensorFile:
    """One safetensors file, memory-mapped. `header[name]` is {dtype, shape, data_offsets}."""

    path: Path
    header: Mapping[str, Any]
    data_start: int

    @classmethod
    def open(cls, path: Path) -> TensorFile:
        """Raises BundleError when the file is missing, no safetensors, or not as long as its header says."""
        try:
            with path.open("rb") as file:
                size = path.stat().st_size
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(min(length, size)))
            header.pop("__metadata__", None)
            end = max((spec["data_offsets"][1] for spec in header.values()), default=0)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise BundleError(f"{path.name} can't be read as safetensors: {type(error).__name__}") from error
        if size != 8 + length + end:
            raise BundleError(f"{path.name} is truncated or has trailing bytes")
        return cls(path, header, 8 + length)

    @cached_property
    def _bytes(self) -> npt.NDArray[np.uint8]:
        return np.memmap(self.path, dtype=np.uint8, mode="r")

    def release(self) -> None:
        """Give back the memory of what was read: views stay valid, and are read from the file again."""
        self._bytes._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]

    def stored_order(self) -> list[str]:
        """Names in the order of their bytes in the file (the header's own order may differ)."""
        return sorted(self.header, key=lambda name: tuple(self.header[name]["data_offsets"]))

    def stored_bytes(self, name: str) -> npt.NDArray[np.uint8]:
        """The tensor's bytes (a view of the file), whatever its dtype. Raises BundleError: not there."""
        if name not in self.header:
            raise BundleError(f"{self.path.name} has no tensor {name}")
        begin, end = (self.data_start + offset for offset in self.header[name]["data_offsets"])
        return self._bytes[begin:end]

    def raw(self, name: str) -> npt.NDArray[Any]:
        """The tensor as stored (a view of the file), bfloat16 as uint16 bits. Raises BundleError."""
        stored = self.stored_bytes(name)
        spec = self.header[name]
        if spec["dtype"] not in _DTYPES:
            raise BundleError(f"{name} has dtype {spec['dtype']}; read here: {', '.join(_DTYPES)}")
        values: npt.NDArray[Any] = stored.view(_DTYPES[spec["dtype"]]).reshape(spec["shape"])
        return values

    def float32(self, name: str) -> FloatArray:
        values = self.raw(name)
        return bfloat16_to_float32(values) if values.dtype == np.uint16 else values.astype(np.float32)


# Of transformers' Gemma3TextConfig: published config.json files leave out what equals them.
_TEXT_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 262208,
    "sliding_window": 4096,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
}


@dataclass(frozen=True)
class TextConfig:
    """The text model's sizes, in the names of config.json's `text_config`."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    sliding_window: int
    full_attention_layers: frozenset[int]
    rope_theta: float
    rope_local_base_freq: float
    rope_factor: float
    query_pre_attn_scalar: float
    rms_norm_eps: float

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> TextConfig:
        """From a whole config.json in the form of transformers 4.50-4.57. Raises BundleError otherwise."""
        text = config.get("text_config", config)
        if not {"hidden_size", "num_hidden_layers"} <= text.keys():
            raise BundleError("config.json describes no Gemma 3 text model")
        if "rope_parameters" in text:
            raise BundleError("config.json is in transformers 5's form; ship the published 4.57-style file")
        scaling = text.get("rope_scaling") or {}
        if scaling and scaling.get("rope_type") != "linear":
            raise BundleError(f"rope_scaling {scaling.get('rope_type')!r} is not supported (linear is)")
        plain = {name: text.get(name, default) for name, default in _TEXT_DEFAULTS.items()}
        layers, pattern = text["num_hidden_layers"], text.get("sliding_window_pattern", 6)
        kinds = text.get("layer_types") or [
            "full_attention" if (index + 1) % pattern == 0 else "sliding_attention" for index in range(layers)
        ]
        full = frozenset(index for index, kind in enumerate(kinds) if kind == "full_attention")
        return cls(**plain, full_attention_layers=full, rope_factor=float(scaling.get("factor", 1.0)))


@dataclass(frozen=True)
class Checkpoint:
    """A folder with config.json and one safetensors file, or several with an index. values: tensors that stand in the
    place of the files' own, by their whole published keys."""

    folder: Path
    config: Mapping[str, Any]
    files: Mapping[str, TensorFile]
    values: Mapping[str, FloatArray] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Raises BundleError: no config.json, no weights, an unreadable file."""
        config = _config(folder)
        paths = sorted(folder.glob("*.safetensors"))
        if not paths:
            raise BundleError(f"{folder.name} holds no *.safetensors file")
        opened = [TensorFile.open(path) for path in paths]
        return cls(folder, config, {name: file for file in opened for name in file.header})

    @staticmethod
    def read_config(folder: Path) -> TextConfig:
        """The text model's sizes alone, for folders that hold no weights. Raises BundleError."""
        return TextConfig.read(_config(folder))

    @staticmethod
    def read_vision_config(folder: Path) -> VisionConfig | None:
        """The tower's sizes alone, likewise; None where there is no tower."""
        return VisionConfig.read(_config(folder))

    @staticmethod
    def read_image_token(folder: Path) -> int:
        """The id that stands for a piece of an image in a prompt. Raises BundleError."""
        return int(_config(folder).get("image_token_index", 262144))

    @cached_property
    def text_config(self) -> TextConfig:
        return TextConfig.read(self.config)

    @cached_property
    def vision_config(self) -> VisionConfig | None:
        """None for a checkpoint of the text model alone."""
        return VisionConfig.read(self.config)

    def stored(self, name: str) -> npt.NDArray[Any]:
        """Like `text`, as the file stores it: bfloat16 as its uint16 bits."""
        return self.raw(TEXT_PREFIX + name)

    def text(self, name: str) -> FloatArray:
        """A text tensor by its name below `language_model.model.`, as float32."""
        return self.float32(TEXT_PREFIX + name)

    def raw(self, key: str) -> npt.NDArray[Any]:
        """Any tensor by its whole published key, as stored. Raises BundleError: not there."""
        return self.values[key] if key in self.values else self._file(key).raw(key)

    def float32(self, key: str) -> FloatArray:
        """Any tensor by its whole published key. Raises BundleError: not there."""
        return self.values[key] if key in self.values else self._file(key).float32(key)

    def _file(self, key: str) -> TensorFile:
        if key not in self.files:
            raise BundleError(f"checkpoint has no tensor {key}")
        return self.files[key]


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder.name} has no readable config.json") from error
    if not isinstance(config, dict):
        raise BundleError(f"{folder.name}/config.json holds no object")
    return config


def write_tensors(
    path: Path,
    layout: Mapping[str, tuple[str, Sequence[int]]],
    values: Iterable[npt.NDArray[Any]],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Stream one safetensors file: `layout` is name -> (dtype, shape), `values` come in the same order.

    Only one tensor is in memory at a time. Raises BundleError when a value doesn't fit its layout.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
    offset = 0
    for name, (dtype, shape) in layout.items():
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(_DTYPES[dtype]).itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (name, (dtype, shape)), value in zip(layout.items(), values, strict=True):
            if value.shape != tuple(shape) or value.dtype != _DTYPES[dtype]:
                raise BundleError(f"{name}: {value.dtype}{value.shape} does not fit {dtype}{tuple(shape)}")
            file.write(np.ascontiguousarray(value).data)


def rewrite_tensors(source: TensorFile, path: Path, values: Iterable[npt.NDArray[Any]]) -> None:
    """Stream a file with `source`'s header, byte for byte, and other `values`, in `source.stored_order()`.

    A value may be the tensor itself or its bytes (uint8). Only one is in memory at a time. Raises BundleError
    when a value has another size than the header says, or the header leaves gaps.
    """
    with path.open("wb") as file, source.path.open("rb") as original:
        file.write(original.read(source.data_start))
        for name, value in zip(source.stored_order(), values, strict=True):
            begin, end = source.header[name]["data_offsets"]
            if file.tell() != source.data_start + begin or value.nbytes != end - begin:
                raise BundleError(f"{source.path.name}: {name} does not fit its place in the file")
            data = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
            for start in range(0, data.nbytes, _AT_ONCE):
                file.write(data[start : start + _AT_ONCE].data)
                source.release()  # a mapped file's pages count as this process's memory
