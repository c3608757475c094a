from __future__ import annotations

import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_corpus import CASES, JPEG, LOSSY, OK, PICTURE, PNG, TOO_LARGE, WEBP
from image_makers import saved
from PIL import Image as Pillow
from PIL import ImageFile as PillowFile
from tritonguard.errors import GuardError, ImageTooLarge, InvalidImage, InvalidRequest

from preprocessing.image_files import open_file
from preprocessing.images import Image, ImageLimits, model_pixels, read_image, read_images
from preprocessing.png_data import raw_bytes

ROOT = Path(__file__).parents[2]
SMALL = ImageLimits(most_pixels=1 << 18)


def outcome(data: bytes, limits: ImageLimits = SMALL) -> str:
    """What becomes of a file; anything but an image and the two errors fails the test."""
    try:
        image = read_image(data, limits)
    except (InvalidImage, ImageTooLarge) as error:
        return error.kind
    assert image.pixels.dtype == np.uint8
    assert image.pixels.shape[2:] == (3,)
    return OK


def test_the_corpus_is_large_and_has_every_outcome() -> None:
    assert len(CASES) >= 120
    assert {case.expected for case in CASES.values()} == {"ok", "invalid_image", "image_too_large"}
    assert sum(case.expected == OK for case in CASES.values()) >= 40


@pytest.mark.parametrize("name", CASES)
def test_what_becomes_of_a_file(name: str) -> None:
    case = CASES[name]
    data = case.make()
    if case.expected != OK:
        with pytest.raises(InvalidRequest) as caught:
            read_image(data)
        assert caught.value.kind == case.expected
        assert not caught.value.__cause__
        return
    image = read_image(data)
    assert (image.pixels.dtype, image.pixels.flags.writeable, len(image.sha256)) == (np.uint8, False, 64)
    if case.shows is not None:
        assert image.pixels.shape == case.shows.shape
        assert np.abs(image.pixels.astype(int) - case.shows).max() <= case.tolerance


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.expected == TOO_LARGE])
def test_what_is_too_large_is_refused_before_any_pixel_is_decoded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pillow, "open", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(ImageTooLarge):
        read_image(CASES[name].make())


def test_the_same_pixels_are_the_same_image_in_every_file() -> None:
    files = [PNG, WEBP, saved(PICTURE, "PNG", "RGBA", compress_level=1), CASES["interlaced png"].make()]
    assert len({read_image(data).sha256 for data in files}) == 1
    assert read_image(saved(PICTURE ^ 1, "PNG")).sha256 != read_image(PNG).sha256


def test_the_hash_knows_the_shape() -> None:
    same_bytes = [np.zeros(shape, np.uint8) for shape in ((2, 8, 3), (8, 2, 3), (4, 4, 3))]
    assert len({read_image(saved(pixels, "PNG")).sha256 for pixels in same_bytes}) == 3


def test_limits_are_exact() -> None:
    height, width, _ = PICTURE.shape
    fits = ImageLimits(most_bytes=len(PNG), most_pixels=height * width, most_side=width, most_images=2)
    assert read_image(PNG, fits).pixels.shape == PICTURE.shape
    assert len(list(read_images([PNG, PNG], fits))) == 2
    for changed in ({"most_bytes": len(PNG) - 1}, {"most_pixels": height * width - 1}, {"most_side": width - 1}):
        with pytest.raises(ImageTooLarge):
            read_image(PNG, ImageLimits(**changed))
    with pytest.raises(ImageTooLarge, match=r"3 images.*at most 2") as caught:
        read_images([PNG] * 3, fits)
    assert caught.value.field == "images"


@pytest.mark.parametrize(
    "wrong", [{"most_bytes": 0}, {"most_side": 0}, {"most_images": 0}, {"most_pixels": 0}, {"most_pixels": 10**8}]
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"limit is below|most_pixels is above"):
        ImageLimits(**wrong)


def test_images_of_a_request_are_decoded_one_by_one_and_named_in_errors() -> None:
    images = read_images([PNG, b"https://example.org/x.png", PNG])
    assert next(images).pixels.shape == PICTURE.shape
    with pytest.raises(InvalidImage) as caught:
        next(images)
    assert (caught.value.field, "example" in str(caught.value)) == ("images.1", False)


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (MemoryError(), "image_too_large"),
        (RecursionError(), "invalid_image"),
        (Pillow.DecompressionBombError("secret"), "invalid_image"),
        (OSError("secret"), "invalid_image"),
        (SyntaxError("secret"), "invalid_image"),
        (AssertionError("secret"), "invalid_image"),
    ],
)
def test_whatever_a_decoder_raises_is_one_of_the_two_errors(
    raised: Exception, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise raised

    monkeypatch.setattr(PillowFile.ImageFile, "load", fail)
    with pytest.raises(GuardError) as caught:
        read_image(PNG)
    assert (caught.value.kind, "secret" in str(caught.value)) == (kind, False)


def test_truncated_files_are_not_patched_up() -> None:
    assert PillowFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize("data", [PNG, JPEG, WEBP, LOSSY], ids=["png", "jpeg", "webp", "lossy webp"])
def test_no_beginning_of_a_file_is_an_image(data: bytes) -> None:
    assert {outcome(data[:end]) for end in range(len(data))} == {"invalid_image"}


def test_metadata_is_gone_from_what_the_decoder_reads() -> None:
    for form in ("PNG", "JPEG", "WEBP"):
        tags = Pillow.Exif()
        tags[0x010E] = "a description"
        data = saved(PICTURE, form, exif=tags, icc_profile=b"a profile" * 9)
        file = open_file(data)
        assert b"a description" in data
        assert b"a description" not in file.content
        assert b"a profile" not in file.content
        assert outcome(file.content) == OK


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 4, 8, 24, 64]))
def test_the_passes_of_an_interlaced_png_hold_every_pixel_once(width: int, height: int, bits: int) -> None:
    plain = raw_bytes(width, height, bits, interlaced=False)
    assert plain == height * (1 + -(-width * bits // 8))
    if bits % 8 == 0:
        interlaced = raw_bytes(width, height, bits, interlaced=True)
        filters = interlaced - width * height * bits // 8
        assert 1 <= filters <= 15 * -(-height // 8)


EDITS = st.lists(
    st.tuples(st.sampled_from(["set", "cut", "insert", "double"]), st.floats(0, 1), st.binary(min_size=1, max_size=8)),
    min_size=1,
    max_size=6,
)


def edited(data: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    for kind, where, value in edits:
        at = round(where * len(data))
        length = len(value) if kind in ("set", "cut") else 0
        inside = {"set": value, "cut": b"", "insert": value, "double": data[at : at + 64]}[kind]
        data = data[:at] + inside + data[at + length :]
    return data


def with_right_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what is in them now, so that a change is looked at."""
    out, at = bytearray(data), 8
    while at + 12 <= len(out):
        end = at + 12 + int.from_bytes(out[at : at + 4], "big")
        if end > len(out):
            break
        out[end - 4 : end] = zlib.crc32(out[at + 4 : end - 4]).to_bytes(4, "big")
        at = end
    return bytes(out)


FILES = [
    PNG,
    JPEG,
    WEBP,
    LOSSY,
    *(
        CASES[name].make()
        for name in (
            "interlaced png",
            "palette with transparency",
            "progressive jpeg",
            "ycck jpeg",
            "orientation 6 in jpeg",
            "webp with alpha, lossy",
            "a transparent grey of 16 bits",
        )
    ),
]


@settings(deadline=None)
@given(st.sampled_from(FILES), EDITS, st.booleans())
def test_no_change_of_a_file_raises_anything_but_the_two_errors(
    data: bytes, edits: list[tuple[str, float, bytes]], repaired: bool
) -> None:
    changed = edited(data, edits)
    outcome(with_right_checksums(changed) if repaired and changed.startswith(PNG[:8]) else changed)


@given(st.sampled_from([b"", PNG[:8], PNG[:33], JPEG[:3], JPEG[:20], WEBP[:12], WEBP[:20]]), st.binary(max_size=300))
def test_no_bytes_raise_anything_but_the_two_errors(start: bytes, rest: bytes) -> None:
    outcome(start + rest)


def test_the_models_square() -> None:
    wide = Image(np.dstack([np.full((10, 40), level, np.uint8) for level in (0, 128, 255)]), "")
    square = model_pixels(wide, 56)
    assert (square.shape, square.dtype) == ((56, 56, 3), np.uint8)
    assert np.unique(square.reshape(-1, 3), axis=0).tolist() == [[0, 128, 255]]
    same = Image(PICTURE[:16, :16], "")
    assert (model_pixels(same, 16) == same.pixels).all()


def test_fine_detail_is_averaged_not_skipped_when_an_image_shrinks() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    square = model_pixels(Image(stripes, ""), 32)
    assert np.abs(square.astype(int) - 128).max() <= 4


MEASURE = """
import sys
sys.path[:0] = ["tests/preprocessing"]
import numpy as np
from image_corpus import CASES
from image_makers import saved
from preprocessing.images import model_pixels, read_image
from tritonguard.errors import ImageTooLarge, InvalidImage

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

def growth(files):
    before = peak()
    for data in files:
        try:
            model_pixels(read_image(data), 64)
        except (ImageTooLarge, InvalidImage):
            pass
    return peak() - before

files = [case.make() for case in CASES.values()]
noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8).repeat(16, 0).repeat(16, 1)
print(growth(files), growth([saved(noise, "WEBP", method=0)]), noise.size // 3)
"""


def test_the_memory_of_the_whole_corpus_and_of_a_pixel_is_bounded() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", MEASURE],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    corpus, one, pixels = map(int, done.stdout.split())
    assert corpus < 64 * 2**20
    # The corpus has raised the peak before: what is left to see is what the large picture needs beyond it.
    assert one < 22 * pixels
    assert corpus + one > 8 * pixels  # the measure sees something
