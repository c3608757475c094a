"""The calibration set: what the whole model reads while ModelOpt watches the text model's activations.

Prompts as the server renders them, each with its answer as far as a label gives it: scales hold for the tokens of an
answer, too. And images, each before the text of one of the rows. Ids and pixels are those of `preprocessing`.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonguard.errors import BundleError, InvalidRequest
from tritonguard.examples import EXAMPLES

from build_scripts.answers import MAX_TOKENS
from build_scripts.calibration import CalibrationSet
from build_scripts.parity_corpus import Row
from engines.program import Choice, Forced, Program, program_for
from preprocessing.images import model_pixels, read_image
from preprocessing.prompt import PromptBuilder

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Calibration:
    """drawn: the rows. images: {file name: its bytes}; each is put before one of the rows' texts."""

    drawn: CalibrationSet
    images: Mapping[str, bytes]

    def describe(self) -> dict[str, Any]:
        """For a manifest: with the files, it says what was read."""
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in self.images.items()}
        return {**self.drawn.describe(), "images": hashes}


@dataclass(frozen=True)
class ModelPrompt:
    """ids int64 [n]: prompt and answer. pixels uint8 [images, side, side, 3], RGB; None: no image."""

    ids: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.uint8] | None = None


def shipped_images() -> dict[str, bytes]:
    """Those of the example requests."""
    return {example.image: example.request().images[0] for example in EXAMPLES if example.image}


def images_of(folder: Path) -> dict[str, bytes]:
    """Every PNG, JPEG and WebP of a folder, by name. Raises BundleError: none, or one that can't be read."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    except OSError as error:
        raise BundleError(f"--images {folder}: {error.strerror}") from error
    if not paths:
        raise BundleError(f"--images {folder} holds no image ({', '.join(_SUFFIXES)})")
    images = {path.name: path.read_bytes() for path in paths}
    for name, data in images.items():
        try:
            read_image(data)
        except InvalidRequest as error:
            raise BundleError(f"--images {folder}: {name}: {error.message}") from None
    return images


def model_prompts(calibration: Calibration, folder: Path, *, image_size: int) -> list[ModelPrompt]:
    """The rows in the order of the draw, then the images; folder: tokenizer and template. image_size: pixels a side.

    Raises GuardError (`PromptBuilder.build`, `program_for`): a row that is too long, files that don't fit together.
    """
    builder = PromptBuilder(folder, max_tokens=MAX_TOKENS)
    rows = calibration.drawn.rows
    prompts = [ModelPrompt(_ids(row, builder, ())) for row in rows]
    for row, data in zip(itertools.cycle(rows), calibration.images.values(), strict=False):
        pixels = model_pixels(read_image(data), image_size)
        prompts.append(ModelPrompt(_ids(row, builder, (data,)), pixels[None]))
    return prompts


def answer_ids(program: Program, known: Sequence[bool | None]) -> list[int]:
    """The answer's ids as far as they are certain: forced ones, and choices whose label (unsafe, by side) is known."""
    labels = iter(known)
    ids: list[int] = []
    for segment in program.segments:
        if isinstance(segment, Forced):
            ids += segment.ids
        elif isinstance(segment, Choice) and (unsafe := next(labels)) is not None:
            ids.append(segment.unsafe if unsafe else segment.safe)
        else:
            break
    return ids


def _ids(row: Row, builder: PromptBuilder, images: tuple[bytes, ...]) -> npt.NDArray[np.int64]:
    request = row.request.model_copy(update={"images": images})
    program = program_for(
        row.mode,
        has_response=row.has_response,
        encode=builder.encode_text,
        end=builder.end_of_turn,
        names=row.part.names,
    )
    return np.array([*builder.build(request, row.part).ids, *answer_ids(program, row.known)], np.int64)
