"""What is read at one place of a draft, and what is not believed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from drafting_model import SAFE, UNSAFE, USER

from engines.tensorrt_llm.draft import Step

OTHER = 9


def step(id: int, **logprobs: float) -> Step:
    return Step(id, {{"safe": SAFE, "unsafe": UNSAFE}.get(name, OTHER): value for name, value in logprobs.items()})


def test_a_choice_is_normalised_over_its_two_options() -> None:
    row, bounded = step(SAFE, safe=math.log(0.6), other=math.log(0.2), unsafe=math.log(0.1)).read(USER)
    np.testing.assert_allclose(np.exp(row), [6 / 7, 1 / 7], rtol=1e-6)
    assert row.dtype == np.float32
    assert not bounded


def test_a_missing_option_is_bounded_by_the_least_likely_that_is_there() -> None:
    row, bounded = step(SAFE, safe=math.log(0.6), other=math.log(0.1)).read(USER)
    np.testing.assert_allclose(np.exp(row), [6 / 7, 1 / 7], rtol=1e-6)
    assert bounded


def test_a_bound_is_no_more_than_the_mass_that_is_left() -> None:
    row, bounded = step(UNSAFE, unsafe=math.log(0.8), other=math.log(0.19)).read(USER)
    np.testing.assert_allclose(np.exp(row), [0.01 / 0.81, 0.80 / 0.81], rtol=1e-4)
    assert bounded


def test_a_certain_choice_still_has_a_finite_bound() -> None:
    row, bounded = step(SAFE, safe=0.0, other=-60.0).read(USER)
    assert np.isfinite(row).all()
    assert row[0] > row[1]
    assert bounded


def test_a_choice_of_which_nothing_is_known_is_nan() -> None:
    row, bounded = step(OTHER, other=-0.1).read(USER)
    assert np.isnan(row).all()
    assert not bounded


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.5])
def test_a_list_with_a_value_that_is_no_log_probability_is_not_believed(value: float) -> None:
    for damaged in (step(SAFE, safe=value, unsafe=-2.0), step(SAFE, safe=-0.1, unsafe=-3.0, other=value)):
        row, _ = damaged.read(USER)
        assert np.isnan(row).all()
        assert damaged.known == {}


def test_a_list_with_more_mass_than_one_is_not_believed() -> None:
    assert np.isnan(step(SAFE, safe=-0.1, unsafe=-0.2).read(USER)[0]).all()


def test_a_list_of_which_another_token_was_written_belongs_to_another_place() -> None:
    for shifted in (step(UNSAFE, safe=-0.1, unsafe=-3.0), step(OTHER, safe=-0.1, unsafe=-3.0)):
        assert np.isnan(shifted.read(USER)[0]).all()


def test_of_equally_likely_tokens_either_may_be_the_one_that_was_written() -> None:
    row, _ = step(UNSAFE, safe=math.log(0.4), unsafe=math.log(0.4)).read(USER)
    np.testing.assert_allclose(np.exp(row), 0.5)


def test_the_best_option_is_what_was_written_then_the_likeliest_known() -> None:
    listed = Step(5, {5: -0.3, 6: -2.0, 7: -2.5})
    assert listed.best({5, 7}) == 5
    assert listed.best({7, 6}) == 6
    assert listed.best({8}) is None
    assert Step(5, {}).best({5}) == 5
    assert Step(5, {6: math.nan}).best({6}) is None
