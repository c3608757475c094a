"""The vision tower once per distinct image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from engines.checkpoint import FloatArray
from engines.local.byte_cache import ByteCache, Key

Pixels = npt.NDArray[np.uint8]
MOST_TOGETHER = 8
"""Images in one pass of the tower: what it needs of memory grows with them."""


class ImageCache:
    """Features by the SHA-256 of an image's pixels, as they reach the tower. Thread-safe, where `see` is."""

    def __init__(self, most_bytes: int) -> None:
        self._held: ByteCache[FloatArray] = ByteCache(most_bytes, lambda features: features.nbytes)

    def features(self, images: Sequence[Pixels], see: Callable[[Pixels], FloatArray]) -> list[FloatArray]:
        """float32 [tokens per image, hidden] of each image, uint8 [size, size, 3]; not to be written to.

        see: [N, size, size, 3] -> [N x tokens per image, hidden]; called with those that it has not seen, each once,
        MOST_TOGETHER at a time. Raises what it raises.
        """
        keys = [image_key(image) for image in images]
        by_key = dict(zip(keys, images, strict=True))

        def compute(missing: list[Key]) -> list[FloatArray]:
            features: list[FloatArray] = []
            for start in range(0, len(missing), MOST_TOGETHER):
                batch = np.stack([by_key[key] for key in missing[start : start + MOST_TOGETHER]])
                features += [_kept(part) for part in np.split(see(batch), len(batch))]
            return features

        return self._held.obtain(keys, compute)

    def statistics(self) -> dict[str, float]:
        return self._held.statistics("image", "images")


def image_key(image: Pixels) -> Key:
    return hashlib.sha256(image.tobytes()).digest()


def _kept(features: FloatArray) -> FloatArray:
    """A copy that stays as it is: a view would keep its whole batch in memory."""
    copy = features.copy()
    copy.flags.writeable = False
    return copy
