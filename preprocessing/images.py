"""Image intake: the bytes of a PNG, JPEG or WebP -> RGB pixels, within limits known before any pixel is decoded.

Pixels are what a viewer shows on a white page: EXIF orientation applied, transparency over white, grey,
palette, CMYK and 16-bit samples as 8-bit RGB (the high byte of 16). Colour profiles and gamma are ignored, as
the model's own processor ignores them. Nothing is fetched: an address or a path is no image.

Peak memory beyond the file's own bytes, measured: 8 bytes a pixel for a PNG or JPEG, 10 where it is turned or
progressive, 12 for a progressive CMYK, 18 for a WebP: 450 MB at the default limit.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from tritonguard import limits as contract
from tritonguard.errors import ImageTooLarge, InvalidImage, InvalidRequest

from preprocessing.image_files import ImageFile, open_file
from preprocessing.png_data import inflates_to

Pixels = npt.NDArray[np.uint8]

# Above it Pillow itself warns, and above twice of it refuses.
_PILLOWS_MOST_PIXELS = 1024 * 1024 * 1024 // 4 // 3
_ROWS = 256  # converted at a time: no second copy of the whole picture
_TURNS = {  # EXIF orientation -> (transpose first, step along rows, step along columns)
    1: (False, 1, 1),
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, 1, -1),
    7: (True, -1, -1),
    8: (True, -1, 1),
}


@dataclass(frozen=True)
class ImageLimits:
    """What is accepted. most_bytes: of one file; most_pixels, most_side: of one picture; most_images: of one request.

    Raises ValueError for a limit below 1, or more pixels than Pillow decodes without a warning (89 million).
    """

    most_bytes: int = contract.MAX_IMAGE_BYTES
    most_pixels: int = contract.MAX_IMAGE_PIXELS
    most_side: int = contract.MAX_IMAGE_SIDE
    most_images: int = contract.MAX_IMAGES

    def __post_init__(self) -> None:
        if min(self.most_bytes, self.most_pixels, self.most_side, self.most_images) < 1:
            raise ValueError("an image limit is below 1")
        if self.most_pixels > _PILLOWS_MOST_PIXELS:
            raise ValueError(f"most_pixels is above {_PILLOWS_MOST_PIXELS}")


DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True, eq=False)
class Image:
    """pixels: uint8 [height, width, 3], RGB, read-only. sha256: hex, of the shape and the pixels.

    Two files with the same pixels are one image, whatever their format and metadata.
    """

    pixels: Pixels
    sha256: str


def read_images(files: Sequence[bytes], limits: ImageLimits = DEFAULT_LIMITS) -> Iterator[Image]:
    """The images of one request, decoded one at a time as they are asked for.

    Raises like `read_image`, with the field `images.<number>`; ImageTooLarge at once for too many.
    """
    if len(files) > limits.most_images:
        raise ImageTooLarge(f"{len(files)} images, this server takes at most {limits.most_images}", field="images")
    return (_numbered(number, data, limits) for number, data in enumerate(files))


def _numbered(number: int, data: bytes, limits: ImageLimits) -> Image:
    try:
        return read_image(data, limits)
    except InvalidRequest as error:
        raise type(error)(error.message, field=f"images.{number}") from None


def read_image(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Image:
    """Raises ImageTooLarge (bytes, pixels, side) and InvalidImage (everything else), and nothing else.

    A JPEG whose coded data is damaged inside an otherwise whole file is decoded as far as it goes, which is
    also what a viewer shows; no decoder reports it.
    """
    if len(data) > limits.most_bytes:
        raise ImageTooLarge(f"the file has {len(data)} bytes, this server takes at most {limits.most_bytes}")
    file = open_file(data)
    if max(file.width, file.height) > limits.most_side or file.width * file.height > limits.most_pixels:
        raise ImageTooLarge(
            f"{file.width} x {file.height} pixels, this server takes at most {limits.most_pixels} "
            f"and {limits.most_side} along a side"
        )
    try:
        pixels = _decode(file)
    except InvalidImage:
        raise
    except MemoryError:
        raise ImageTooLarge("not enough memory for this image") from None
    except Exception:
        # Whatever a decoder stumbles over, it is the file's fault; its text could hold the file's bytes.
        raise InvalidImage("not a readable image: its pixels can't be decoded") from None
    digest = hashlib.sha256(f"{pixels.shape[0]} x {pixels.shape[1]} x 3 uint8\n".encode())
    digest.update(pixels.data)
    return Image(pixels, digest.hexdigest())


def model_pixels(image: Image, size: int) -> Pixels:
    """The square that the vision tower sees: uint8 [size, size, 3], still to be scaled to [-1, 1].

    As Gemma 3's image processor resizes: bilinear with antialiasing, the aspect ratio is not kept, no crops.
    """
    return np.asarray(Pillow.fromarray(image.pixels).resize((size, size), Pillow.Resampling.BILINEAR))


def _decode(file: ImageFile) -> Pixels:
    # In steps of constant memory: nothing is kept, so a compressed bomb ends here.
    if file.coded and not inflates_to(file.coded, file.coded_bytes):
        raise InvalidImage("not a readable image: its data is not as long as its header says")
    pixels = np.empty((file.height, file.width, 3), np.uint8)
    with Pillow.open(io.BytesIO(file.content), formats=[file.format]) as picture:
        if picture.size != (file.width, file.height) or getattr(picture, "n_frames", 1) != 1:
            raise InvalidImage("not a readable image: its header contradicts itself")
        picture.load()
        key = picture.info.get("transparency")
        if picture.mode == "L" and file.bits < 8 and isinstance(key, int):
            # The file counts the transparent grey in its own bits, the samples are spread over eight by now.
            picture.info["transparency"] = key * 255 // (2**file.bits - 1)
        for top in range(0, file.height, _ROWS):
            bottom = min(top + _ROWS, file.height)
            pixels[top:bottom] = _rgb(picture.crop((0, top, file.width, bottom)))
    transpose, down, across = _TURNS[file.orientation]
    turned = pixels.transpose(1, 0, 2) if transpose else pixels
    pixels = np.ascontiguousarray(turned[::down, ::across])
    pixels.flags.writeable = False
    return pixels


def _rgb(part: Pillow.Image) -> Pixels:
    """uint8 [height, width, 3] of a part of a decoded picture, over white where it is transparent."""
    if part.mode == "I;16":
        grey = np.asarray(part)
        high = (grey >> 8).astype(np.uint8)
        if (key := part.info.get("transparency")) is not None:
            high[grey == key] = 255
        return np.repeat(high[..., None], 3, axis=2)
    if part.mode not in ("1", "L", "P", "LA", "RGB", "RGBA", "CMYK"):
        raise InvalidImage("not a readable image: a colour mode that is not supported")
    if part.mode in ("LA", "RGBA") or "transparency" in part.info:
        cover = part.convert("RGBA")
        part = Pillow.new("RGB", part.size, "white")
        part.paste(cover, (0, 0), cover)
    return np.asarray(part.convert("RGB"))
