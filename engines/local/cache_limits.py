"""How much memory the local engine's caches may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PREFIX_VARIABLE = "TRITONGUARD_PREFIX_CACHE_MB"
"""Environment variable: megabytes for the keys and values of policies; empty or not set: the default."""
IMAGE_VARIABLE = "TRITONGUARD_IMAGE_CACHE_MB"
"""The same for what the vision tower made of images."""
_MB = 1_000_000


@dataclass(frozen=True)
class CacheLimits:
    """Bytes; 0: nothing is held, and no prefix is read from disk or saved.

    prefixes: in memory, and again on disk. On the embedded checkpoint the built-in policy takes 13 MB (its 337 tokens,
    in whole blocks), and an image 0.16 MB.
    """

    prefixes: int = 256 * _MB
    images: int = 128 * _MB

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> CacheLimits:
        """Raises ValueError for a variable that is no whole number."""
        return cls(_bytes(environ, PREFIX_VARIABLE, cls.prefixes), _bytes(environ, IMAGE_VARIABLE, cls.images))


def _bytes(environ: Mapping[str, str], variable: str, default: int) -> int:
    text = environ.get(variable, "")
    if text and not (text.isascii() and text.isdigit()):
        raise ValueError(f"the environment variable {variable} is no whole number")
    return int(text) * _MB if text else default
