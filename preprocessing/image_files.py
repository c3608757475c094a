"""The outside of an image file: format, size, orientation, and the file again with nothing but its pixels.

Reads headers and chunk lengths, never a pixel. What passes is one still picture in one whole file: the magic
number decides about the format, checksums and lengths are right, and nothing but zero bytes stands behind the
end (a file that is also a ZIP or a page is refused, and so are a camera's second picture or video). Texts,
colour profiles, previews and all other metadata are dropped here and parsed by nobody; of EXIF the orientation
alone is read.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

from tritonguard.errors import InvalidImage

from preprocessing.png_data import raw_bytes

MOST_PARTS = 16_384
"""Chunks or segments of one file; 20 MiB of empty ones would keep a processor busy for seconds."""
MOST_SCANS = 32
"""Scans of a progressive JPEG; encoders write about ten, and each one costs a pass over the whole picture."""

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_SOF0, _SOF2, _DHT, _EOI, _SOS, _DQT, _DRI = 0xC0, 0xC2, 0xC4, 0xD9, 0xDA, 0xDB, 0xDD
_APP0, _APP1, _APP14, _APP15, _COMMENT = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
_JPEG_KEPT = (_SOF0, _SOF0 + 1, _SOF2, _DHT, _SOS, _DQT, _DRI, _APP0, _APP14, _EOI)  # 14 says how CMYK is stored
_SEGMENT = re.compile(rb"\xff+([^\x00\xff])")
# In coded data 0xFF00 stands for 0xFF, and restart marks belong to it.
_CODED_END = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_EXIF_HEAD = b"Exif\0\0"


@dataclass(frozen=True)
class ImageFile:
    """width, height: pixels as stored. bits: per sample. orientation: EXIF's 1 to 8, 1: as stored.

    content: a file of the same format and pixels, without any metadata.
    coded, coded_bytes: of a PNG, its compressed data in parts, and how long that is uncompressed by the header.
    """

    format: str
    width: int
    height: int
    bits: int
    orientation: int
    content: bytes
    coded: tuple[memoryview, ...] = ()
    coded_bytes: int = 0


def open_file(data: bytes) -> ImageFile:
    """Raises InvalidImage for everything but one whole, still PNG, JPEG or WebP."""
    try:
        if data.startswith(_PNG):
            return _read_png(data)
        if data.startswith(_JPEG):
            return _read_jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _read_webp(data)
    except (struct.error, IndexError):
        _refuse("cut off")
    raise InvalidImage("not a PNG, JPEG or WebP file")


def _refuse(why: str) -> NoReturn:
    raise InvalidImage(f"not a readable image: {why}")


def _check_end(data: bytes, end: int) -> None:
    if data.count(0, end) != len(data) - end:
        _refuse("data after its end")


def _read_png(data: bytes) -> ImageFile:
    seen: set[bytes] = set()
    kept: list[bytes] = [_PNG]
    coded: list[memoryview] = []
    header = exif = b""
    for name, start, end in _png_chunks(data):
        if (name == b"IHDR") != (not seen) or (name in (b"PLTE", b"tRNS") and seen & {name, b"IDAT"}):
            _refuse("a chunk out of place")
        if name == b"acTL":
            _refuse("animated")
        if name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(data[start:end])
        elif name[:1].isupper():
            _refuse("an unknown critical chunk")
        if name == b"IHDR":
            header = data[start + 8 : end - 4]
        elif name == b"IDAT":
            coded.append(memoryview(data)[start + 8 : end - 4])
        elif name == b"eXIf":
            exif = data[start + 8 : end - 4]
        seen.add(name)
    width, height, bits, colour, packing, filtering, interlace = struct.unpack(">IIBBBBB", header)
    if bits not in _PNG_DEPTHS.get(colour, ()) or packing or filtering or interlace > 1 or not (width and height):
        _refuse("a wrong header")
    if b"IDAT" not in seen or (colour == 3 and b"PLTE" not in seen):
        _refuse("a chunk is missing")
    if bits == 16 and colour == 2 and b"tRNS" in seen:
        _refuse("a transparent colour in 16 bits is not supported")
    length = raw_bytes(width, height, bits * _PNG_SAMPLES[colour], interlaced=bool(interlace))
    return ImageFile("PNG", width, height, bits, _orientation(exif), b"".join(kept), tuple(coded), length)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end) of every chunk, the last one IEND; lengths and checksums are right."""
    view, at = memoryview(data), len(_PNG)
    for _ in range(MOST_PARTS):
        size, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + size
        if end > len(data):
            _refuse("cut off")
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            _refuse("a wrong checksum")
        yield name, at, end
        if name == b"IEND":
            return _check_end(data, end)
        at = end
    _refuse("too many parts")


def _read_jpeg(data: bytes) -> ImageFile:
    kept: list[bytes] = [data[:2]]
    frame = exif = b""
    scans = 0
    for marker, start, end in _jpeg_segments(data):
        if marker in _JPEG_KEPT:
            kept.append(data[start:end])
        elif not (_APP0 < marker <= _APP15 or marker == _COMMENT):
            _refuse("a kind of JPEG that is not supported")
        scans += marker == _SOS
        if _SOF0 <= marker <= _SOF2:
            if frame:
                _refuse("a segment out of place")
            frame = data[start + 4 : end]
        elif marker == _APP1 and data.startswith(_EXIF_HEAD, start + 4):
            exif = exif or data[start + 4 + len(_EXIF_HEAD) : end]
    bits, height, width, layers = struct.unpack_from(">BHHB", frame)
    if bits != 8 or layers not in (1, 3, 4) or not (width and height) or not scans:
        _refuse("a wrong header")
    if scans > MOST_SCANS:
        _refuse("too many scans")
    return ImageFile("JPEG", width, height, bits, _orientation(exif), b"".join(kept))


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of every segment, a scan's coded data with it, the last one EOI."""
    at = 2
    for _ in range(MOST_PARTS):
        mark = _SEGMENT.match(data, at)
        if mark is None:
            _refuse("cut off" if at >= len(data) else "a segment out of place")
        marker, start = mark[1][0], mark.end() - 2
        if marker == _EOI:
            yield marker, start, mark.end()
            return _check_end(data, mark.end())
        size = int(struct.unpack_from(">H", data, mark.end())[0])
        end = mark.end() + size
        if marker == 1 or 0xD0 <= marker <= 0xD8 or size < 2:
            _refuse("a segment out of place")
        if marker == _SOS:
            coded_end = _CODED_END.search(data, end)
            if coded_end is None:
                _refuse("cut off")
            end = coded_end.start()
        if end > len(data):
            _refuse("cut off")
        yield marker, start, end
        at = end
    _refuse("too many parts")


def _read_webp(data: bytes) -> ImageFile:
    bodies: dict[bytes, bytes] = {}
    for name, body in _webp_chunks(data):
        if name in (b"ANIM", b"ANMF"):
            _refuse("animated")
        if name in bodies and name in (b"VP8X", b"VP8 ", b"VP8L", b"ALPH"):
            _refuse("a chunk out of place")
        bodies.setdefault(name, body)
    coded: list[bytes] = [name for name in _WEBP_SIZES if name in bodies]
    if len(coded) != 1 or next(iter(bodies)) not in (b"VP8X", *coded):
        _refuse("a chunk out of place")
    name = coded[0]
    width, height = _WEBP_SIZES[name](bodies[name])
    if not (width and height):
        _refuse("a wrong header")
    parts: list[tuple[bytes, bytes]] = [(name, bodies[name])]
    if b"VP8X" in bodies:
        flags, w, h = bodies[b"VP8X"][0], *(_uint24(bodies[b"VP8X"], at) + 1 for at in (4, 7))
        if flags & 2 or (w, h) != (width, height):
            _refuse("animated" if flags & 2 else "a wrong header")
        if name == b"VP8 " and b"ALPH" in bodies:
            canvas = struct.pack("<BHBHBHB", 16, 0, 0, (w - 1) & 0xFFFF, (w - 1) >> 16, (h - 1) & 0xFFFF, (h - 1) >> 16)
            parts = [(b"VP8X", canvas), (b"ALPH", bodies[b"ALPH"]), *parts]
    content = b"WEBP" + b"".join(
        name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2) for name, body in parts
    )
    content = b"RIFF" + struct.pack("<I", len(content)) + content
    exif = bodies.get(b"EXIF", b"").removeprefix(_EXIF_HEAD)
    return ImageFile("WEBP", width, height, 8, _orientation(exif), content)


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, body) of every chunk; the lengths of file and chunks are right."""
    file_end = 8 + int(struct.unpack_from("<I", data, 4)[0])
    if file_end > len(data):
        _refuse("cut off")
    _check_end(data, file_end)
    at = 12
    for _ in range(MOST_PARTS):
        if at >= file_end:
            return
        name, size = struct.unpack_from("<4sI", data, at)
        if at + 8 + size > file_end:
            _refuse("cut off")
        yield name, data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    _refuse("too many parts")


def _vp8_size(body: bytes) -> tuple[int, int]:
    if body[3:6] != b"\x9d\x01\x2a":
        _refuse("a wrong header")
    width, height = struct.unpack_from("<HH", body, 6)
    return width & 0x3FFF, height & 0x3FFF


def _vp8l_size(body: bytes) -> tuple[int, int]:
    if body[0] != 0x2F:
        _refuse("a wrong header")
    packed = int(struct.unpack_from("<I", body, 1)[0])
    return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1


_WEBP_SIZES: dict[bytes, Callable[[bytes], tuple[int, int]]] = {b"VP8 ": _vp8_size, b"VP8L": _vp8l_size}


def _uint24(body: bytes, at: int) -> int:
    return int.from_bytes(body[at : at + 3], "little")


def _orientation(exif: bytes) -> int:
    """The first directory's orientation; 1 where there is none or anything about it is odd, as viewers do."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, number, value = struct.unpack_from(f"{order}HHIH", exif, at)
            if tag == 0x0112 and (kind, number) == (3, 1) and 1 <= value <= 8:
                return int(value)
    except struct.error:
        pass
    return 1
