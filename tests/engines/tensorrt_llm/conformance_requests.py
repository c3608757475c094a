"""Cases of what reaches the package: exact ids, images, parameters, lengths, batches.

Those that name an entry of `behaviour.json` have their source there. On the double, which goes wrong as the entry says.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from conformance import DOUBLE, Subject, case, same
from double_faults import PATIENCE_S, begin, fault, held, in_one_step, requests, writes
from tiny_bundle import BOS, END, EOS, IMAGE_MARK, UPPER
from tritonguard.errors import InternalError, PromptTooLong

from engines.protocol import Answer

_ON = (DOUBLE,)


@case("behaviour.json block_reuse_with_image", on=_ON)
def the_same_prompt_again_with_an_image(subject: Subject) -> None:
    job = subject.job(subject.words.verdict, 40, seed=6, images=1)
    same(subject.answer(job), subject.agrees(job))


@case("behaviour.json cuda_graph_stale_plan", on=_ON)
def eight_decode_together(subject: Subject) -> None:
    jobs = [subject.job(subject.words.thinking(8), seed=seed) for seed in range(8)]
    for job, result in zip(jobs, in_one_step(subject, jobs), strict=True):
        assert isinstance(result, Answer), result
        assert subject.definition is not None
        same(result, subject.definition.answer(job))
    assert subject.controls.most_together >= 8


@case("behaviour.json mixed_logprobs", on=_ON)
def every_kind_of_request_in_one_step(subject: Subject) -> None:
    words = subject.words
    programs = (words.verdict, words.pair, words.thinking(6), words.names("shared"), words.line(4))
    results = in_one_step(subject, [subject.job(program, seed=8) for program in programs])
    assert [type(result) for result in results] == [Answer] * len(programs)
    assert {seen.sampling_params.logprobs for seen in subject.controls.seen} == {20}


@case("behaviour.json no_max_tokens_serialises, max_tokens_default", on=_ON)
def every_request_says_how_long_it_may_get(subject: Subject) -> None:
    words = subject.words
    for program, most in ((words.verdict, 1), (words.pair, 4), (words.thinking(50), 50)):
        _, seen = requests(subject, subject.job(program, seed=1))
        assert seen[0].sampling_params.max_tokens == most
    assert all(seen.sampling_params.max_tokens for seen in subject.controls.seen)
    assert subject.controls.serialised == 0


@case("behaviour.json ids_with_image_reencoded, both_keys_drop_image, ids_kept_without_image", on=_ON, images=(0, 1, 2))
def the_package_reads_exactly_these_ids(subject: Subject, images: int) -> None:
    job = subject.job(subject.words.pair, seed=3, images=images)
    # Decoded and tokenised anew, this one would be another.
    job = replace(job, ids=np.append(job.ids, [UPPER, UPPER]).astype(np.int32))
    subject.agrees(job)
    answer, seen = requests(subject, job)
    for request in seen:
        said = request.ids[len(job.ids) :]
        assert request.ids[: len(job.ids)] == tuple(job.ids.tolist())
        assert said == answer.ids[: len(said)]
        assert request.images == images


@case("behaviour.json double_bos, image_mark_in_text", on=_ON)
def a_prompt_has_one_bos_and_the_image_marks_that_it_has(subject: Subject) -> None:
    job = subject.job(subject.words.verdict, seed=3, images=1)
    job = replace(job, ids=np.append(job.ids, [IMAGE_MARK]).astype(np.int32))
    subject.agrees(job)
    (request,) = requests(subject, job)[1]
    assert request.ids.count(BOS) == 1
    assert request.ids.count(IMAGE_MARK) == 2


@case("behaviour.json hashing_flag_read_outside_try, image_features_not_taken", on=_ON)
def images_are_handed_in_as_pixels_and_not_hashed(subject: Subject) -> None:
    _, seen = requests(subject, subject.job(subject.words.verdict, images=1))
    assert [(request.images, request.hashed) for request in seen] == [(1, False)]


@case("behaviour.json length_checked_against_max_num_tokens, prompt_between_limits, max_tokens_clipped", on=_ON)
def a_prompt_without_room_for_its_answer_never_reaches_the_package(subject: Subject) -> None:
    most, words = subject.controls.args.max_seq_len, subject.words
    for program, longest in ((words.verdict, 3), (words.pair, 6), (words.thinking(20), 27)):
        subject.agrees(subject.job(program, most - longest))
        before = len(subject.controls.seen)
        for length in (most - longest + 1, most - 1, most, 2 * most):
            assert isinstance(subject.result(subject.job(program, length)), PromptTooLong)
        assert len(subject.controls.seen) == before


@case("behaviour.json too_long_is_request_error, request_error_is_runtime_error", on=_ON)
def the_package_finds_a_prompt_too_long(subject: Subject) -> None:
    most = subject.controls.args.max_num_tokens
    subject.controls.args.max_num_tokens = 16
    try:
        assert isinstance(subject.result(subject.job(subject.words.verdict, 30)), PromptTooLong)
    finally:
        subject.controls.args.max_num_tokens = most


@case("behaviour.json step_error_fails_batch: pixels that are not the prompt's", on=_ON)
def a_wrong_image_is_found_out_before_it_fails_its_neighbours(subject: Subject) -> None:
    good = subject.job(subject.words.verdict, seed=1)
    bad = replace(subject.job(subject.words.verdict, seed=2, images=1), pixels=subject.words.pixels(2))
    before = len(subject.controls.seen)
    with held(subject):
        running = begin(subject.result, good)
        subject.controls.wait_for(lambda controls: len(controls.seen) > before, PATIENCE_S)
        assert isinstance(begin(subject.result, bad).result(PATIENCE_S), InternalError)
    assert isinstance(running.result(PATIENCE_S), Answer)


@case("behaviour.json end_id_filled_from_tokenizer", on=_ON)
def the_ends_are_said_and_not_left_to_the_tokenizer(subject: Subject) -> None:
    _, (request,) = requests(subject, subject.job(subject.words.verdict))
    params = request.sampling_params
    assert params.end_id == EOS
    assert END in params.stop_token_ids


@case("tensorrt-llm.md 0b.10: one request for a pair that the model writes by itself", on=_ON)
def what_the_model_writes_by_itself_takes_one_request(subject: Subject) -> None:
    words = subject.words
    for program in (words.pair, words.names("shared", pair=True), words.verdict):
        job = subject.job(program, seed=11)
        expected = subject.agrees(job)
        with fault(subject, alter=writes(job, expected)):
            answer, seen = requests(subject, job)
        assert answer.ids == expected.ids
        np.testing.assert_allclose(answer.choice_logprobs, expected.choice_logprobs, atol=1e-3)
        assert len(seen) == 1


@case("DESIGN.md §4: what follows a choice is conditional on it; a draft decides nothing", on=_ON)
def a_draft_that_goes_another_way_is_read_no_further(subject: Subject) -> None:
    words = subject.words
    for seed in range(6):
        job = subject.job(words.pair, seed=seed)
        expected = subject.agrees(job)
        other = replace(expected, ids=(*expected.ids[:3], expected.ids[3] + 1, *expected.ids[4:]))
        with fault(subject, alter=writes(job, other)):
            answer = subject.answer(job)
        assert answer.ids[:-1] == expected.ids[:-1]
        np.testing.assert_allclose(answer.choice_logprobs, expected.choice_logprobs, atol=1e-3)


@case("behaviour.json logprobs_before_temperature: greedy, whatever the temperature", on=_ON)
def the_same_job_has_the_same_answer(subject: Subject) -> None:
    jobs = [subject.job(subject.words.thinking(12), seed=seed) for seed in range(3)]
    for job in jobs:
        subject.agrees(job)
