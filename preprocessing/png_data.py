"""Whether a PNG's coded data is as long as its header says. Pillow stops at the stream's end without a word."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_MOST_IN, _MOST_OUT = 1 << 16, 1 << 18


def raw_bytes(width: int, height: int, bits_per_pixel: int, *, interlaced: bool) -> int:
    """Bytes that the stream holds: every row with its filter byte, for each pass of Adam7 where interlaced."""
    if not interlaced:
        return height * _row_bytes(width, bits_per_pixel)
    total = 0
    for left, top, across, down in _PASSES:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * _row_bytes(columns, bits_per_pixel)
    return total


def _row_bytes(columns: int, bits_per_pixel: int) -> int:
    return 1 + (columns * bits_per_pixel + 7) // 8


def inflates_to(parts: Iterable[bytes | memoryview], expected: int) -> bool:
    """Whether the zlib stream in `parts` is whole, checksum included, and `expected` bytes long.

    Inflates at most one step beyond `expected` and keeps nothing. Raises zlib.error for a damaged stream.
    """
    stream, total = zlib.decompressobj(), 0
    for part in _slices(parts):
        rest: bytes | memoryview = part
        while rest and not stream.eof:
            total += len(stream.decompress(rest, _MOST_OUT))
            if total > expected:
                return False
            rest = stream.unconsumed_tail
    while not stream.eof and (step := stream.decompress(b"", _MOST_OUT)):
        total += len(step)
        if total > expected:
            return False
    return stream.eof and total == expected


def _slices(parts: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    # zlib copies what it has not read yet at every step: from a part of megabytes that would be most of the work.
    for part in parts:
        for start in range(0, len(part), _MOST_IN):
            yield part[start : start + _MOST_IN]
