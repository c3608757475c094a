"""Hostile and odd image files, made in memory, each with what must become of it.

`CASES` maps a name to a `Case`; `make()` gives the file.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from image_makers import (
    PICTURE,
    SIGNATURE,
    SIZE,
    Pixels,
    after_soi,
    animated,
    chunk,
    exif,
    interlaced,
    jpeg_sized,
    png,
    riff,
    rows16,
    saved,
    scans,
    segment,
    transparent,
    with_chunk,
    ycck,
    zeros,
)
from PIL import Image

OK, INVALID, TOO_LARGE = "ok", "invalid_image", "image_too_large"


@dataclass(frozen=True)
class Case:
    """shows: pixels of an accepted file, within `tolerance` levels; None: not compared."""

    make: Callable[[], bytes]
    expected: str
    shows: Pixels | None = None
    tolerance: int = 0


GREY = PICTURE[..., 0]
GREY_SHOWN = np.repeat(GREY[..., None], 3, axis=2)
WHITE = np.full_like(PICTURE, 255)


PNG, JPEG, WEBP = saved(PICTURE, "PNG"), saved(PICTURE, "JPEG", quality=95), saved(PICTURE, "WEBP", lossless=True)
LOSSY = saved(PICTURE, "WEBP", quality=90)
ROWS = b"".join(b"\0" + row.tobytes() for row in PICTURE)
HALF = np.full((16, 24), 128, np.uint8)
HALF_SHOWN = (PICTURE * (128 / 255) + 255 * (127 / 255)).round().astype(np.uint8)
JPEG_SHOWN = np.asarray(Image.open(io.BytesIO(JPEG)))
LOSSY_SHOWN = np.asarray(Image.open(io.BytesIO(LOSSY)))
FRAME = saved(PICTURE, "WEBP", lossless=True)[20:]
GREY16 = (GREY.astype(np.uint16) << 8) + 77
BOMB = zeros(1024)
TURNED = {
    1: PICTURE,
    2: PICTURE[:, ::-1],
    3: PICTURE[::-1, ::-1],
    4: PICTURE[::-1],
    5: PICTURE.transpose(1, 0, 2),
    6: np.rot90(PICTURE, -1),
    7: PICTURE[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(PICTURE),
}


PALETTE = chunk(b"PLTE", bytes([1, 2, 3, 4, 5, 6])) + chunk(b"tRNS", b"\0")


def fixed(data: bytes | str) -> Callable[[], bytes]:
    content = data.encode() if isinstance(data, str) else data
    return lambda: content


CASES: dict[str, Case] = {
    "png": Case(fixed(PNG), OK, PICTURE),
    "jpeg": Case(fixed(JPEG), OK, JPEG_SHOWN),
    "webp lossless": Case(fixed(WEBP), OK, PICTURE),
    "webp lossy": Case(fixed(LOSSY), OK, LOSSY_SHOWN),
    # what is no image
    "nothing": Case(fixed(b""), INVALID),
    "one byte": Case(fixed(b"\x89"), INVALID),
    "one zero": Case(fixed(b"\0"), INVALID),
    "an address": Case(fixed("https://example.org/cat.png"), INVALID),
    "a data address": Case(fixed("data:image/png;base64,iVBORw0KGgo="), INVALID),
    "a file address": Case(fixed("file:///etc/hostname"), INVALID),
    "a path": Case(fixed("/etc/hostname"), INVALID),
    "text": Case(fixed("a cat on a mat"), INVALID),
    "html": Case(fixed("<!doctype html><img src=x onerror=alert(1)>"), INVALID),
    "svg": Case(fixed('<svg xmlns="http://www.w3.org/2000/svg"><image href="http://x/y"/></svg>'), INVALID),
    "pdf": Case(fixed(b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj"), INVALID),
    "heic header": Case(fixed(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)), INVALID),
    "eps": Case(fixed(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), INVALID),
    **{form.lower(): Case(fixed(saved(PICTURE, form)), INVALID) for form in ("GIF", "BMP", "TIFF", "ICO", "PPM")},
    "gif and script": Case(fixed(b"GIF89a/*\x01\0\0\0\0*/=1;alert(1)"), INVALID),
    # cut off
    **{f"png cut at {at}": Case(fixed(PNG[:at]), INVALID) for at in (8, 20, 33, 60, len(PNG) - 12, len(PNG) - 1)},
    **{f"jpeg cut at {at}": Case(fixed(JPEG[:at]), INVALID) for at in (3, 20, 200, 400, 640, len(JPEG) - 2)},
    **{f"webp cut at {at}": Case(fixed(WEBP[:at]), INVALID) for at in (12, 20, 30, len(WEBP) - 2)},
    "lossy webp cut": Case(fixed(LOSSY[: len(LOSSY) // 2]), INVALID),
    "webp cut, size made to fit": Case(fixed(riff((b"VP8 ", LOSSY[20 : len(LOSSY) // 2]))), INVALID),
    "png with half its rows": Case(lambda: png(SIZE, ROWS[: len(ROWS) // 2]), INVALID),
    "png with rows too many": Case(lambda: png(SIZE, ROWS + ROWS[:73]), INVALID),
    "png without stream checksum": Case(lambda: png(SIZE, b"", stream=zlib.compress(ROWS)[:-4]), INVALID),
    "png without data": Case(lambda: png(SIZE, b"", stream=b""), INVALID),
    # bombs
    "png of huge size, little data": Case(lambda: png((2**31 - 1, 2**31 - 1), b"\0"), TOO_LARGE),
    "png of 30000 x 30000": Case(lambda: png((30_000,) * 2, b"", bits=1, colour=0, stream=zeros(108)), TOO_LARGE),
    "png that inflates to 4 GiB": Case(lambda: png(SIZE, b"", stream=zeros(4096)), INVALID),
    "jpeg of huge size": Case(lambda: jpeg_sized(65_500, 65_500), TOO_LARGE),
    "webp of huge size": Case(lambda: riff((b"VP8L", struct.pack("<BI", 0x2F, 0x0FFFFFFF) + FRAME[5:])), TOO_LARGE),
    "webp canvas of huge size": Case(
        lambda: riff((b"VP8X", bytes([0, 0, 0, 0]) + b"\xff" * 6), (b"VP8L", FRAME)), INVALID
    ),
    "1 x 20000": Case(lambda: png((1, 20_000), b"\0\0\0\0" * 20_000), TOO_LARGE),
    "20000 x 1": Case(lambda: png((20_000, 1), b"\0" + bytes(60_000)), TOO_LARGE),
    "1 x 16384": Case(lambda: png((1, 16_384), b"\0\0\0\0" * 16_384), OK),
    "more than 20 MiB": Case(lambda: PNG + bytes(20 * 1024 * 1024), TOO_LARGE),
    "a scan fifty times": Case(lambda: scans(50), INVALID),
    "100000 empty chunks": Case(lambda: with_chunk(PNG, chunk(b"teSt") * 100_000), INVALID),
    "a jpeg of 100000 comments": Case(lambda: after_soi(JPEG, segment(0xFE, b"") * 100_000), INVALID),
    # metadata is dropped unread, so that a bomb in it never goes off
    "zTXt bomb": Case(lambda: with_chunk(PNG, chunk(b"zTXt", b"k\0\0" + BOMB)), OK, PICTURE),
    "iTXt bomb": Case(lambda: with_chunk(PNG, chunk(b"iTXt", b"k\0\1\0\0\0" + BOMB)), OK, PICTURE),
    "iCCP bomb": Case(lambda: with_chunk(PNG, chunk(b"iCCP", b"k\0\0" + BOMB)), OK, PICTURE),
    "a colour profile of junk": Case(
        lambda: after_soi(JPEG, segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(999))), OK, JPEG_SHOWN
    ),
    "an MPF segment of junk": Case(lambda: after_soi(JPEG, segment(0xE2, b"MPF\0II*\0\xff\xff")), OK, JPEG_SHOWN),
    "a Photoshop segment of junk": Case(
        lambda: after_soi(JPEG, segment(0xED, b"Photoshop 3.0\0" + b"8BIM" * 9)), OK, JPEG_SHOWN
    ),
    # more than one picture
    "apng": Case(lambda: animated("PNG"), INVALID),
    "animated webp": Case(lambda: animated("WEBP"), INVALID),
    "mpo": Case(lambda: animated("MPO"), INVALID),
    "two pngs": Case(fixed(PNG + PNG), INVALID),
    # more than a picture
    "png and zip": Case(fixed(PNG + b"PK\x03\x04" + bytes(26)), INVALID),
    "jpeg and html": Case(fixed(JPEG + b"<script>alert(1)</script>"), INVALID),
    "webp and text": Case(fixed(WEBP + b"text"), INVALID),
    "png and zeros": Case(fixed(PNG + bytes(100)), OK, PICTURE),
    "jpeg and zeros": Case(fixed(JPEG + bytes(100)), OK, JPEG_SHOWN),
    # damaged
    "a wrong checksum": Case(fixed(PNG[:-20] + bytes([PNG[-20] ^ 1]) + PNG[-19:]), INVALID),
    "no IEND": Case(lambda: png(SIZE, ROWS, after=b""), INVALID),
    "no IHDR": Case(fixed(SIGNATURE + PNG[33:]), INVALID),
    "no palette": Case(lambda: png((1, 1), b"\0\0", colour=3), INVALID),
    "an unknown critical chunk": Case(lambda: with_chunk(PNG, chunk(b"KEYS", b"x")), INVALID),
    "transparency after the data": Case(lambda: PNG[:-12] + chunk(b"tRNS", bytes(6)) + PNG[-12:], INVALID),
    "header of 3 bytes": Case(lambda: png(SIZE, ROWS, header=b"abc"), INVALID),
    "chunk of 4 GiB": Case(fixed(PNG[:33] + b"\xff\xff\xff\xffIDAT" + PNG[41:]), INVALID),
    "png of no width": Case(lambda: png((0, 16), bytes(16)), INVALID),
    "png of 3 bits": Case(lambda: png(SIZE, ROWS, bits=3), INVALID),
    "an unknown row filter": Case(lambda: png(SIZE, b"\x09" + ROWS[1:]), INVALID),
    "jpeg of no height": Case(lambda: jpeg_sized(24, 0), INVALID),
    "jpeg without tables": Case(lambda: JPEG[: JPEG.index(b"\xff\xdb")] + JPEG[JPEG.index(b"\xff\xc0") :], INVALID),
    "jpeg of 12 bits": Case(lambda: JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), INVALID),
    "arithmetic jpeg": Case(lambda: JPEG.replace(b"\xff\xc0\0\x11", b"\xff\xc9\0\x11"), INVALID),
    "junk between segments": Case(lambda: after_soi(JPEG, b"junk"), INVALID),
    "riff too long": Case(fixed(WEBP[:4] + struct.pack("<I", len(WEBP)) + WEBP[8:]), INVALID),
    "riff too short": Case(fixed(WEBP[:4] + struct.pack("<I", len(WEBP) - 12) + WEBP[8:]), INVALID),
    "riff of sound": Case(fixed(b"RIFF\x24\0\0\0WAVEfmt " + bytes(28)), INVALID),
    "webp of two pictures": Case(lambda: riff((b"VP8L", FRAME), (b"VP8L", FRAME)), INVALID),
    "webp without picture": Case(lambda: riff((b"EXIF", b"II*\0")), INVALID),
    # every kind of pixel
    "interlaced png": Case(lambda: interlaced(), OK, PICTURE),
    "progressive jpeg": Case(lambda: saved(PICTURE, "JPEG", progressive=True, quality=95), OK, JPEG_SHOWN),
    "grey png": Case(lambda: saved(GREY, "PNG"), OK, GREY_SHOWN),
    "grey jpeg": Case(lambda: saved(GREY, "JPEG", quality=95), OK, GREY_SHOWN, tolerance=8),
    "grey png of 16 bits": Case(lambda: saved(Image.fromarray(GREY16), "PNG"), OK, GREY_SHOWN),
    "rgb png of 16 bits": Case(lambda: png(SIZE, rows16(PICTURE), bits=16), OK, PICTURE),
    "rgba png of 16 bits": Case(lambda: png(SIZE, rows16(transparent(HALF)), bits=16, colour=6), OK, HALF_SHOWN, 1),
    "one bit": Case(lambda: saved((GREY > 99), "PNG"), OK, np.where(GREY_SHOWN > 99, 255, 0).astype(np.uint8)),
    "palette": Case(lambda: saved(Image.fromarray(GREY).convert("P"), "PNG"), OK, GREY_SHOWN),
    "palette with transparency": Case(
        lambda: png((2, 1), b"\0\0\1", colour=3, extra=PALETTE), OK, np.uint8([[[255] * 3, [4, 5, 6]]])
    ),
    "palette index out of range": Case(lambda: png((1, 1), b"\0\x09", colour=3, extra=chunk(b"PLTE", b"abc")), OK),
    "grey and alpha": Case(lambda: saved(np.dstack([GREY, GREY * 0]), "PNG"), OK, WHITE),
    "rgba, seen through": Case(lambda: saved(transparent(HALF), "PNG"), OK, HALF_SHOWN, 1),
    "rgba, invisible": Case(lambda: saved(transparent(HALF * 0), "PNG"), OK, WHITE),
    "rgba, opaque": Case(lambda: saved(transparent(HALF * 0 + 255), "PNG"), OK, PICTURE),
    "a transparent colour": Case(
        lambda: png((2, 1), b"\0abcxyz", extra=chunk(b"tRNS", b"\0a\0b\0c")), OK, np.uint8([[[255] * 3, list(b"xyz")]])
    ),
    "a transparent grey of 4 bits": Case(
        lambda: png((2, 1), b"\0\x5a", bits=4, colour=0, extra=chunk(b"tRNS", b"\0\x05")),
        OK,
        np.uint8([[[255] * 3, [170] * 3]]),
    ),
    "a transparent grey of 16 bits": Case(
        lambda: png((2, 1), b"\0\x12\x34\x12\x35", bits=16, colour=0, extra=chunk(b"tRNS", b"\x12\x34")),
        OK,
        np.uint8([[[255] * 3, [18] * 3]]),
    ),
    "a transparent colour of 16 bits": Case(
        lambda: png((1, 1), bytes(7), bits=16, extra=chunk(b"tRNS", bytes(6))), INVALID
    ),
    "webp with alpha, lossless": Case(lambda: saved(transparent(HALF), "WEBP", lossless=True), OK, HALF_SHOWN, 1),
    "webp with alpha, lossy": Case(lambda: saved(transparent(HALF * 0), "WEBP"), OK, WHITE),
    "webp with a profile": Case(lambda: saved(PICTURE, "WEBP", lossless=True, icc_profile=bytes(99)), OK, PICTURE),
    "cmyk jpeg": Case(lambda: saved(WHITE, "JPEG", "CMYK", quality=95), OK, WHITE),
    "ycck jpeg": Case(ycck, OK, np.full((16, 16, 3), (128, 0, 0), np.uint8), 3),
    # orientation
    **{f"orientation {n} in png": Case(lambda n=n: saved(PICTURE, "PNG", exif=exif(n)), OK, TURNED[n]) for n in TURNED},  # type: ignore[misc]
    "orientation 6 in webp": Case(lambda: saved(PICTURE, "WEBP", lossless=True, exif=exif(6)), OK, TURNED[6]),
    "orientation 6 in jpeg": Case(
        lambda: saved(PICTURE, "JPEG", quality=95, exif=exif(6)), OK, np.rot90(JPEG_SHOWN, -1)
    ),
    "orientation 9": Case(lambda: saved(PICTURE, "PNG", exif=exif(9)), OK, PICTURE),
    "exif of junk": Case(lambda: after_soi(JPEG, segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff")), OK, JPEG_SHOWN),
    "exif that ends early": Case(lambda: with_chunk(PNG, chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff\1")), OK, PICTURE),
}
