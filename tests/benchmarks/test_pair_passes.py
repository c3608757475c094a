"""One pass and two passes over the same exchange, on a tiny random model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from tiny_engine import PAIR, PROGRAM, SAFE, UNSAFE, job, load_tiny
from tritonguard import DeadlineExceeded

from benchmarks.pair_passes import Comparison, Judged, chosen, margins, one_pass, two_passes
from build_scripts.training_replies import Exchange
from engines.protocol import Answer, Capabilities, Job
from preprocessing.prompt import ModelInput


class Script:
    """An engine that answers jobs with given logits, unsafe over safe, and keeps what it was asked."""

    capabilities = Capabilities(frozenset(), 2, "none", 512)

    def __init__(self, *answers: Sequence[float]) -> None:
        self._answers = list(answers)
        self.jobs: list[Job] = []

    def run(self, jobs: Sequence[Job]) -> list[Answer]:
        self.jobs += jobs
        rows = self._answers.pop(0)
        return [Answer(np.array([(0.0, margin) for margin in rows], np.float32), (), 0) for _ in jobs]


PROMPT = ModelInput(np.array([11, 12, 13], np.int32), 2)


@pytest.mark.parametrize(("user", "said"), [(1.5, UNSAFE), (0.0, UNSAFE), (-1.5, SAFE)])
def test_two_passes_put_what_was_said_into_the_second_prompt(user: float, said: int) -> None:
    engine = Script([user], [-2.0])
    assert two_passes(engine, PROMPT, PAIR).margins == (user, -2.0)
    first, second = engine.jobs
    assert first.program == PROGRAM
    assert second.ids.tolist() == [11, 12, 13, 5, 6, said]
    assert second.ids.dtype == np.int32
    assert len(second.program.choices) == 1


def test_two_passes_need_a_pair_program() -> None:
    with pytest.raises(ValueError, match="response"):
        two_passes(Script(), PROMPT, PROGRAM)


def test_an_error_of_the_engine_is_raised() -> None:
    class Late(Script):
        def run(self, jobs: Sequence[Job]) -> list[Answer]:
            return [DeadlineExceeded("late")]  # type: ignore[list-item]

    with pytest.raises(DeadlineExceeded):
        margins(Late(), Job(PROMPT.ids, 0, PAIR))


def test_both_ways_agree_on_the_real_engine(tmp_path_factory: pytest.TempPathFactory) -> None:
    engine = load_tiny(tmp_path_factory.mktemp("tiny") / "checkpoint")
    built = [ModelInput(job(24 + seed, prefix=20, seed=seed).ids, 20) for seed in range(6)]
    one = [one_pass(engine, prompt, PAIR) for prompt in built]
    two = [two_passes(engine, prompt, PAIR) for prompt in built]
    assert Comparison.of(one, two).holds(1e-3)
    assert len({judged.margins for judged in one}) == 6


def test_a_comparison_counts_labels_and_takes_the_largest_difference() -> None:
    one = [Judged((1.0, -1.0), 10.0), Judged((0.1, 3.0), 20.0), Judged((-2.0, -2.0), 60.0)]
    two = [Judged((1.0, -1.25), 30.0), Judged((-0.1, 3.0), 40.0), Judged((-2.0, -2.0), 50.0)]
    result = Comparison.of(one, two)
    assert (result.exchanges, result.differing, result.one_pass_ms, result.two_passes_ms) == (3, 1, 20.0, 40.0)
    assert result.most == pytest.approx(0.25)
    assert result.p99 <= result.most


@pytest.mark.parametrize(
    ("other", "holds"),
    [((1.0, -1.0), True), ((1.0005, -1.0), True), ((1.01, -1.0), False), ((float("nan"), -1.0), False)],
)
def test_it_holds_only_within_the_tolerance(other: tuple[float, float], holds: bool) -> None:
    assert Comparison.of([Judged((1.0, -1.0), 1.0)], [Judged(other, 1.0)]).holds(1e-3) == holds


def test_another_label_never_holds_however_close_it_is() -> None:
    assert not Comparison.of([Judged((1e-5, 1.0), 1.0)], [Judged((-1e-5, 1.0), 1.0)]).holds(1e-3)


def exchanges(name: str, count: int) -> list[Exchange]:
    return [Exchange(f"{name}:{n}", name, "en", "p", "r", None, False, ()) for n in range(count)]


@pytest.mark.parametrize(("trained", "held_out", "expected"), [(50, 50, (5, 5)), (3, 50, (3, 7)), (50, 2, (8, 2))])
def test_half_of_the_exchanges_are_held_out_where_there_are_as_many(
    trained: int, held_out: int, expected: tuple[int, int]
) -> None:
    drawn = chosen(exchanges("trained", trained), exchanges("held out", held_out), 10)
    assert len({exchange.id for exchange in drawn}) == 10
    assert tuple(sum(e.source == source for e in drawn) for source in ("trained", "held out")) == expected
