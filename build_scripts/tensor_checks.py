"""Is a folder's safetensors whole? Headers that fit their bytes, and files that fit their index."""

from __future__ import annotations

import json
import math
from pathlib import Path

from tritonguard.errors import BundleError

from engines.checkpoint import TensorFile

INDEX = "model.safetensors.index.json"
DTYPE_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("BF16", "F16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 1),
}
"""Of a value, by safetensors' name of its dtype."""


def check_tensors(file: TensorFile) -> None:
    """Raises BundleError unless the tensors lie back to back, each as long as its dtype and shape say."""
    try:
        position = 0
        for name in file.stored_order():
            spec = file.header[name]
            begin, end = spec["data_offsets"]
            if begin != position or end - begin != DTYPE_BYTES[spec["dtype"]] * math.prod(spec["shape"]):
                raise BundleError(f"{file.path.name}: the bytes of {name} don't fit its dtype and shape")
            position = end
    except (LookupError, TypeError, ValueError) as error:
        raise BundleError(f"{file.path.name} has a header that can't be read: {type(error).__name__}") from error


def check_weight_files(folder: Path) -> None:
    """Raises BundleError unless the checkpoint's files are readable and hold exactly what its index lists.

    Without an index there must be one file: nothing else would say that a shard is missing.
    """
    files = [TensorFile.open(path) for path in sorted(folder.glob("*.safetensors"))]
    for file in files:
        check_tensors(file)
    if not (folder / INDEX).is_file():
        if len(files) > 1:
            raise BundleError(f"{folder.name} has {len(files)} weight files and no {INDEX}")
        return
    try:
        listed = set(json.loads((folder / INDEX).read_text())["weight_map"].items())
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BundleError(f"{folder.name} has no readable {INDEX}") from error
    present = {(name, file.path.name) for file in files for name in file.header}
    for name, holder in sorted(listed ^ present, key=str):
        problem = "which is not there" if (name, holder) in listed else "which the index doesn't list there"
        raise BundleError(f"{folder.name}: {INDEX} and weights differ: {name} in {holder}, {problem}")
