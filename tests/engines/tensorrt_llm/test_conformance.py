"""The conformance suite, run by the local engine and by the engine on the double of TensorRT-LLM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from conformance import DOUBLE, GPU, LOCAL, Case, Subject
from conformance_suite import CASES
from definition import Definition
from subjects import double_subject, local_subject
from tiny_bundle import NARROW, Tiny


@pytest.fixture(scope="module")
def subjects(narrow: Tiny) -> Iterator[dict[str, Subject]]:
    definition = Definition(narrow.folder, NARROW)
    with local_subject(narrow, definition) as local, double_subject(narrow, definition) as on_double:
        yield {LOCAL: local, DOUBLE: on_double}


def of(engine: str) -> list[pytest.param]:
    return [pytest.param(case, id=case.name) for case in CASES if engine in case.on]


@pytest.mark.parametrize("case", of(LOCAL))
def test_local(subjects: dict[str, Subject], case: Case) -> None:
    case.check(subjects[LOCAL])


@pytest.mark.parametrize("case", of(DOUBLE))
def test_double(subjects: dict[str, Subject], case: Case) -> None:
    case.check(subjects[DOUBLE])


def test_the_suite_has_at_least_sixty_cases_and_each_names_its_source() -> None:
    assert len(CASES) >= 60
    assert all(case.source.strip() for case in CASES)
    assert not [name for name, count in Counter(case.name for case in CASES).items() if count > 1]
    assert sum({LOCAL, DOUBLE, GPU} <= case.on for case in CASES) >= 40
