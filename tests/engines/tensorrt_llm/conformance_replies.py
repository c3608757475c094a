"""Cases of what the package answers: ends, prompts that are others, log-probabilities that can't be.

Those that name an entry of `behaviour.json` have their source there. On the double, which goes wrong as the entry says.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
from conformance import DOUBLE, Subject, case
from double_faults import fault, requests, writes
from tiny_bundle import BOS, EOS, SAFE, UNSAFE
from tritonguard.errors import InternalError

from engines.program import Choice

_ON = (DOUBLE,)


@case("behaviour.json stop_ids_trimmed, logprobs_kept_of_trimmed_stop", on=_ON)
def what_ended_a_draft_is_among_its_ids(subject: Subject) -> None:
    job = subject.job(subject.words.thinking(20), seed=3)
    short = replace(subject.answer(subject.job(subject.words.thinking(2), seed=3)), truncated=False)
    with fault(subject, alter=writes(job, short)):
        answer, seen = requests(subject, job)
    assert answer.ids == short.ids
    assert not answer.truncated
    assert seen[0].sampling_params.include_stop_str_in_output


@case("behaviour.json end_id_stays", on=_ON, stays=(True, False))
def an_answer_that_ends_with_eos(subject: Subject, stays: bool) -> None:
    def ends(ids: tuple[int, ...], logits: Any) -> Any:
        lifted = logits.copy()
        lifted[EOS] += 60 * (len(ids) == 26)
        return lifted

    from tensorrt_llm import _behaviour

    table = {**_behaviour.TABLE, "end_id_stays": {"value": stays}}
    job = subject.job(subject.words.pair, 24, seed=2)
    plain = subject.answer(job)
    with fault(subject, alter=ends), mock.patch.object(_behaviour, "TABLE", table):
        assert subject.answer(job).ids == plain.ids


@case("behaviour.json finish_precedence: a stop token as the last one that is asked for", on=_ON)
def a_stop_token_at_the_last_place(subject: Subject) -> None:
    job = subject.job(subject.words.thinking(3), seed=3)
    ended = replace(subject.answer(subject.job(subject.words.thinking(2), seed=3)), truncated=False)
    with fault(subject, alter=writes(job, ended)):
        answer = subject.answer(job)
    assert answer.ids == ended.ids
    assert not answer.truncated


@case("tensorrt-llm.md §7.4: after each request assert out.prompt_token_ids == ids", on=_ON, images=(0, 1))
def a_prompt_that_the_package_took_for_another_is_an_error(subject: Subject, images: int) -> None:
    with fault(subject, misread=lambda ids: [BOS, *ids]):
        result = subject.result(subject.job(subject.words.verdict, images=images))
    assert isinstance(result, InternalError)


def nothing(top: dict[int, Any]) -> dict[int, Any]:
    return {}


def all_certain(top: dict[int, Any]) -> dict[int, Any]:
    return {id: replace(entry, logprob=0.0) for id, entry in top.items()}


def safe_alone(top: dict[int, Any]) -> dict[int, Any]:
    return {SAFE: replace(next(iter(top.values())), logprob=-1e-4)} if next(iter(top)) != SAFE else nothing(top)


def positive(top: dict[int, Any]) -> dict[int, Any]:
    return {id: replace(entry, logprob=-entry.logprob) for id, entry in top.items()}


def infinite(top: dict[int, Any]) -> dict[int, Any]:
    return {id: replace(entry, logprob=-np.inf) for id, entry in top.items()}


def rest_impossible(top: dict[int, Any]) -> dict[int, Any]:
    return {id: entry if entry.rank == 1 else replace(entry, logprob=-np.inf) for id, entry in top.items()}


def lifted(ids: tuple[int, ...], logits: Any) -> Any:
    """A model that writes a choice's option of its own accord."""
    lifted = logits.copy()
    lifted[[SAFE, UNSAFE]] += 60
    return lifted


@case(
    "DESIGN.md §3: nothing ever turns garbage into safe; behaviour.json logprobs_full_vocabulary_fp32",
    on=_ON,
    report=(nothing, all_certain, safe_alone, positive, infinite, rest_impossible),
)
def log_probabilities_that_can_not_be_are_no_verdict(subject: Subject, report: Any) -> None:
    alter = lifted if report is rest_impossible else None
    for program in (subject.words.verdict, subject.words.pair):
        with fault(subject, report=report, alter=alter):
            result = subject.result(subject.job(program, seed=5))
        assert isinstance(result, InternalError) or np.isnan(result.choice_logprobs).all()  # type: ignore[union-attr]


@case("tensorrt-llm.md 0b.6: where a choice's token is missing, bound it by the K-th value and say so", on=_ON)
def an_option_that_is_not_reported_is_bounded_and_said_to_be(subject: Subject) -> None:
    for seed in range(6):
        job = subject.job(subject.words.verdict, seed=seed)
        expected = subject.agrees(job)
        assert not expected.bounded
        at = int(np.argmin(expected.choice_logprobs[0]))
        hidden = (SAFE, UNSAFE)[at]

        def report(top: dict[int, Any], hidden: int = hidden) -> dict[int, Any]:
            return {id: entry for id, entry in top.items() if entry.rank < top[hidden].rank}

        with fault(subject, report=report):
            answer = subject.answer(job)
        assert answer.bounded
        assert answer.ids == expected.ids
        assert answer.choice_logprobs[0, at] >= expected.choice_logprobs[0, at] - 1e-3
        assert np.isfinite(answer.choice_logprobs).all()


@case("DESIGN.md §3: nothing ever turns garbage into safe", on=_ON)
def logits_that_are_no_numbers_are_no_verdict(subject: Subject) -> None:
    with fault(subject, alter=lambda ids, logits: np.full_like(logits, np.nan)):
        answer = subject.answer(subject.job(subject.words.names("shared", pair=True)))
    assert np.isnan(answer.choice_logprobs).all()


@case("engines/local/answering.py _says: a tie says unsafe", on=_ON)
def a_tie_says_unsafe(subject: Subject) -> None:
    def tied(ids: tuple[int, ...], logits: Any) -> Any:
        equal = logits.copy()
        equal[[SAFE, UNSAFE]] = logits.max() + 1
        return equal

    with fault(subject, alter=tied):
        answer = subject.answer(subject.job(subject.words.pair))
    np.testing.assert_allclose(answer.choice_logprobs, np.log(0.5), atol=1e-5)
    assert [id for id in answer.ids if id in (SAFE, UNSAFE)] == [UNSAFE, UNSAFE]


@case("tensorrt-llm.md §5.3: finish_reason is checked", on=_ON, ended=("timed_out", "cancelled"))
def a_request_that_the_package_ended_is_no_answer(subject: Subject, ended: str) -> None:
    with fault(subject, ended=ended):
        assert isinstance(subject.result(subject.job(subject.words.verdict)), InternalError)


@case("DESIGN.md §3: nothing ever turns garbage into safe: a choice between ids that the model has not", on=_ON)
def options_that_are_no_tokens_are_no_verdict(subject: Subject) -> None:
    program = subject.words.verdict
    unknown = replace(program, segments=(program.segments[0], Choice("user", 5000, 5001)))
    assert np.isnan(subject.answer(subject.job(unknown)).choice_logprobs).all()
