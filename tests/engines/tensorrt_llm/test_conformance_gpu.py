"""The conformance suite on the real engine: TensorRT-LLM 1.2.1 on a GPU, with the bundle in $TRITONGUARD_GPU_BUNDLE."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from conformance import GPU, Case, Subject
from conformance_suite import CASES
from tritonguard.policy_parts import BUILT_IN, CATEGORY_NAMES
from tritonguard.request import Mode

from engines.bundle import Bundle, open_engine
from engines.program import Forced, FreeText, NameList, Program, program_for
from preprocessing.prompt import PromptBuilder, template_arguments

FOLDER = os.environ.get("TRITONGUARD_GPU_BUNDLE")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not FOLDER, reason="needs a GPU and a bundle for it: name its folder in TRITONGUARD_GPU_BUNDLE"),
]
_WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "says", "nothing", "of", "it")
_NAMES = {
    "disjoint": CATEGORY_NAMES[:3],
    "shared": ("Violence", "Violence in sports", "Violence in films", "Violent speech"),
    "prefix": ("Fraud", "Fraud and scams", "Privacy"),
    "single": CATEGORY_NAMES[:1],
    "many": CATEGORY_NAMES,
}


class RealWords:
    """Prompts and programs in the tokens of a bundle (`conformance.Words`); prompts are the guard's own, filled up."""

    def __init__(self, bundle: Bundle) -> None:
        self._builder = PromptBuilder(bundle.folder, max_tokens=bundle.capabilities.max_tokens)
        self._size = bundle.image_size

    @property
    def verdict(self) -> Program:
        return self._program(Mode.VERDICT)

    @property
    def pair(self) -> Program:
        return self._program(Mode.VERDICT, has_response=True)

    def names(self, shape: str, *, most: int = 24, pair: bool = False) -> Program:
        program = self._program(Mode.CATEGORIES, has_response=pair, names=_NAMES[shape])
        return _with_budget(program, most)

    def line(self, most: int) -> Program:
        return _with_budget(self._program(Mode.CATEGORIES, names=None), most)

    def thinking(self, budget: int, *, pair: bool = False, without: frozenset[int] = frozenset()) -> Program:
        return self._program(Mode.THINK, has_response=pair, think_budget=budget, marks=without)

    def ids(
        self, length: int, *, seed: int = 0, images: int = 0, program: Program | None = None
    ) -> npt.NDArray[np.int32]:
        """A prompt that asks about random words, of this length where the template leaves them room."""
        words = np.random.default_rng(seed).choice(_WORDS, length).tolist()
        kinds = program.kinds if program else frozenset()
        mode = Mode.THINK if "FreeText" in kinds else Mode.CATEGORIES if "NameList" in kinds else Mode.VERDICT
        arguments = template_arguments(mode, BUILT_IN)

        def asking(count: int) -> list[int]:
            return self._builder.tokens(" ".join(words[:count]), None, arguments, images=images)

        return np.array(asking(max(1, length - len(asking(1)) + 1)), np.int32)

    def pixels(self, images: int, *, seed: int = 0) -> npt.NDArray[np.uint8]:
        shape = (images, self._size, self._size, 3)
        return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)

    def _program(self, mode: Mode, *, has_response: bool = False, **values: object) -> Program:
        builder = self._builder
        return program_for(
            mode,
            has_response=has_response,
            encode=builder.encode_text,
            end=builder.end_of_turn,
            **values,  # type: ignore[arg-type]
        )


def _with_budget(program: Program, most: int) -> Program:
    *before, names = program.segments
    assert isinstance(names, NameList)
    return Program((*before, NameList(names.head, names.items, names.separator, names.end, most)))


@pytest.fixture(scope="module")
def subject() -> Iterator[Subject]:
    bundle = Bundle.open(Path(FOLDER or ""), weights=False)
    engine = open_engine(bundle)

    def fresh() -> None:
        raise AssertionError("a second engine does not fit the GPU")

    yield Subject(GPU, engine, RealWords(bundle), fresh)  # type: ignore[arg-type]
    engine.close()


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES if GPU in case.on])
def test_gpu(subject: Subject, case: Case) -> None:
    case.check(subject)


def test_the_programs_of_a_real_bundle_have_the_parts_of_the_suite(subject: Subject) -> None:
    words = subject.words
    kinds = [[type(segment) for segment in words.thinking(4).segments[:2]], [type(words.pair.segments[0])]]
    assert kinds == [[Forced, FreeText], [Forced]]
