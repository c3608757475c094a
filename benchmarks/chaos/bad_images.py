"""Image files that must be refused, made by their parts."""

from __future__ import annotations

import io
import random
import struct
import zlib

from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def picture(generator: random.Random, form: str = "PNG") -> bytes:
    """A small readable picture."""
    colour = tuple(generator.randrange(256) for _ in range(3))
    file = io.BytesIO()
    Image.new("RGB", (generator.randrange(8, 48), generator.randrange(8, 48)), colour).save(file, form)
    return file.getvalue()


def cut(generator: random.Random) -> bytes:
    """A picture whose file ends too early, behind its header."""
    file = picture(generator)
    return file[: generator.randrange(34, len(file) - 12)]


def of_another_format(generator: random.Random, mark: str) -> bytes:
    """A file of a format that is not taken, or no image at all."""
    texts = (
        f'<svg xmlns="http://www.w3.org/2000/svg"><text>{mark}</text></svg>'.encode(),
        f"%PDF-1.7 {mark}".encode(),
        f"http://127.0.0.1/{mark}.png".encode(),
        mark.encode(),
    )
    return generator.choice([picture(generator, "GIF"), picture(generator, "BMP"), picture(generator, "TIFF"), *texts])


def of_huge_size(generator: random.Random) -> bytes:
    """A few bytes whose header says that they are a picture of hundreds of megapixels."""
    side = generator.randrange(16_385, 2**31 - 1)
    return _png((side, generator.randrange(16_385, 2**31 - 1)), b"\0")


def of_much_data(generator: random.Random) -> bytes:
    """A picture of a few pixels whose compressed data unpacks to tens of megabytes."""
    size = (generator.randrange(2, 16), generator.randrange(2, 16))
    return _png(size, bytes(generator.randrange(24, 40) << 20))


def _png(size: tuple[int, int], rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(name, body) for name, body in parts)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
