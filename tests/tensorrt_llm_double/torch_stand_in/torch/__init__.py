"""A stand-in for torch where only a tensor has to be handed over: no arithmetic, bfloat16 by rounding.

The environment that tests this package has no torch. The folder comes last on the path, so a real one goes first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

float32, bfloat16, uint8, int32 = "torch.float32", "torch.bfloat16", "torch.uint8", "torch.int32"
_NAMES = {"float32": float32, "uint8": uint8, "int32": int32}


class Tensor:
    """`values`: what numpy can hold of it; bfloat16 as the float32 numbers that are bfloat16's."""

    def __init__(self, values: npt.NDArray[Any], dtype: str) -> None:
        self._values = values
        self.dtype = dtype
        self.shape = values.shape
        self.ndim = values.ndim

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int) -> Tensor:
        return Tensor(self._values[index], self.dtype)

    def to(self, dtype: str) -> Tensor:
        if dtype == bfloat16:
            bits = np.ascontiguousarray(self._values, np.float32).view(np.uint32)
            rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) << 16
            return Tensor(rounded.astype(np.uint32).view(np.float32).reshape(self.shape), bfloat16)
        if dtype == float32:
            return Tensor(self._values.astype(np.float32), float32)
        raise TypeError(f"the stand-in makes no {dtype}")

    def float(self) -> Tensor:
        return self.to(float32)

    def numpy(self) -> npt.NDArray[Any]:
        if self.dtype == bfloat16:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self._values


def from_numpy(values: npt.NDArray[Any]) -> Tensor:
    """Raises TypeError for a dtype that the stand-in does not have, ValueError for negative strides (as torch does)."""
    if values.dtype.name not in _NAMES:
        raise TypeError(f"can't convert np.ndarray of type {values.dtype}")
    if any(stride < 0 for stride in values.strides):
        raise ValueError("at least one stride in the given numpy array is negative")
    return Tensor(values, _NAMES[values.dtype.name])
