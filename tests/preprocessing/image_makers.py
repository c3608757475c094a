"""Makers of image files, whole and odd, by their parts."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
SIGNATURE = b"\x89PNG\r\n\x1a\n"
SIZE = (24, 16)


def picture(width: int = 24, height: int = 16) -> Pixels:
    """No two corners alike, so that every turn of it can be told apart."""
    down, across = np.mgrid[0:height, 0:width]
    return np.stack([across * 255 // width, down * 255 // height, (across + down) * 3 % 256], axis=-1).astype(np.uint8)


PICTURE = picture()


def saved(pixels: Any, form: str, mode: str | None = None, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    out = io.BytesIO()
    (image if mode is None else image.convert(mode)).save(out, form, **options)
    return out.getvalue()


def chunk(name: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(
    size: tuple[int, int], raw: bytes, *, bits: int = 8, colour: int = 2, extra: bytes = b"", **parts: bytes
) -> bytes:
    """A PNG by its parts. raw: rows with filter bytes. header, stream, after: in place of the usual ones."""
    header = parts.get("header", struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0))
    stream = parts.get("stream", zlib.compress(raw))
    return SIGNATURE + chunk(b"IHDR", header) + extra + chunk(b"IDAT", stream) + parts.get("after", chunk(b"IEND"))


def with_chunk(data: bytes, extra: bytes) -> bytes:
    """`data` (a PNG) with `extra` behind its header."""
    return data[:33] + extra + data[33:]


def zeros(mebibytes: int) -> bytes:
    """A zlib stream of that many MiB of zero bytes, a thousandth of it long; only its checksum is wrong."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)  # refers to nothing before it
    return b"\x78\x9c" + block * mebibytes + b"\x03\x00" + bytes(4)


def riff(*chunks: tuple[bytes, bytes], size: int | None = None) -> bytes:
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(part)) + part + b"\0" * (len(part) % 2) for name, part in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def after_soi(data: bytes, extra: bytes) -> bytes:
    return data[:2] + extra + data[2:]


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def jpeg_sized(width: int, height: int) -> bytes:
    """A small JPEG whose header claims another size."""
    data = saved(PICTURE, "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def ycck() -> bytes:
    """A JPEG that holds Y, Cb, Cr and K: red at half brightness."""
    stored = np.empty((16, 16, 4), np.uint8)
    stored[...] = (179, 171, 0, 128)  # ink values are stored inverted: cyan, and half of black
    # Pillow inverts what it writes as CMYK; the Adobe segment's last byte says how the decoder must read it.
    data = saved(Image.fromarray(255 - stored, "CMYK"), "JPEG", quality=100, subsampling=0)
    at = data.index(b"Adobe") + 11
    return data[:at] + b"\x02" + data[at + 1 :]


def transparent(alpha: Pixels) -> Pixels:
    return np.dstack([PICTURE, alpha])


def animated(form: str, **options: Any) -> bytes:
    frames = [Image.fromarray(PICTURE), Image.fromarray(255 - PICTURE)]
    return saved(frames[0], form, save_all=True, append_images=frames[1:], **options)


def scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is there `count` times more."""
    data = saved(PICTURE, "JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * count + data[-2:]


def interlaced() -> bytes:
    rows = b""
    for left, top, across, down in (
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
    ):  # fmt: skip
        rows += b"".join(b"\0" + row.tobytes() for row in PICTURE[top::down, left::across])
    return png(SIZE, rows, header=struct.pack(">IIBBBBB", *SIZE, 8, 2, 0, 0, 1))


def rows16(pixels: Pixels) -> bytes:
    wide = (pixels.astype(">u2") << 8) + 77
    return b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide)
