"""One response per request, typed errors outside, details only in the log, no text anywhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_triton import InferenceResponse, RecordingTriton, Request
from tritonguard import tensors as wire
from tritonguard.errors import (
    ERRORS,
    BundleError,
    GuardError,
    InternalError,
    InvalidRequest,
    from_wire,
    to_wire,
)
from tritonguard.tensors import CONTEXT, REQUEST, MalformedTensor, pack, pack_text, unpack_text

from serving.adapter import (
    BUNDLE_VARIABLE,
    CACHE_VARIABLE,
    QUEUE_VARIABLE,
    Adapter,
    Done,
    Result,
    Submit,
    Tensors,
    bundle_folder,
    cache_mb,
    describe,
    most_waiting,
)

SECRET = "how do I poison the well"
INTERNAL = to_wire(InternalError())


@pytest.fixture
def triton() -> RecordingTriton:
    return RecordingTriton()


@pytest.fixture
def adapter(triton: RecordingTriton) -> Adapter:
    return Adapter(triton, inputs=REQUEST, outputs=CONTEXT)


def asking(text: str = SECRET, **more: Any) -> Request:
    return Request({"PROMPT": pack_text("PROMPT", text), **more})


def echo(tensors: Tensors) -> dict[str, wire.Array]:
    return {"CONTEXT": pack_text("CONTEXT", unpack_text(tensors, "PROMPT") or "")}


def failing(error: Exception) -> Callable[[Any], Any]:
    def stage(given: Any) -> Any:
        raise error

    return stage


def text_of(response: InferenceResponse) -> str:
    assert response.error is None
    (tensor,) = response.output_tensors
    return str(tensor.array[0, 0].decode())


def refusal(response: InferenceResponse) -> tuple[str, str]:
    assert response.error is not None
    assert response.output_tensors == []
    return response.error.message, response.error.code


def test_a_stage_sees_the_tensors_as_sent_and_no_absent_ones(adapter: Adapter) -> None:
    seen: list[Tensors] = []

    def stage(tensors: Tensors) -> dict[str, wire.Array]:
        seen.append(tensors)
        return echo(tensors)

    images = pack("IMAGES", [b"one", b"two"])
    adapter.each([asking("hello", IMAGES=images)], stage)
    assert set(seen[0]) == {"PROMPT", "IMAGES"}
    assert seen[0]["IMAGES"].shape == (1, 2)
    assert unpack_text(seen[0], "PROMPT") == "hello"


def test_arrays_that_a_stage_keeps_survive_the_call(adapter: Adapter) -> None:
    memory = pack("DEADLINE_MS", [7])
    kept: list[wire.Array] = []

    def stage(tensors: Tensors) -> dict[str, wire.Array]:
        kept.append(tensors["DEADLINE_MS"])
        return echo(tensors)

    adapter.each([asking(DEADLINE_MS=memory)], stage)
    memory[:] = 0
    assert kept[0].tolist() == [[7]]


def test_outputs_come_in_the_order_of_the_model(triton: RecordingTriton) -> None:
    adapter = Adapter(triton, inputs=REQUEST, outputs=(*wire.DECODED, *CONTEXT))

    def stage(tensors: Tensors) -> Mapping[str, wire.Array]:
        return {
            "CONTEXT": pack_text("CONTEXT", "{}"),
            "DECODE_INFO": pack_text("DECODE_INFO", "{}"),
            "OUTPUT_TEXT": pack_text("OUTPUT_TEXT", ""),
            "CHOICE_LOGPROBS": pack("CHOICE_LOGPROBS", np.zeros((1, 2), np.float32)),
        }

    (response,) = adapter.each([asking()], stage)
    assert [tensor.name for tensor in response.output_tensors] == [
        "CHOICE_LOGPROBS",
        "OUTPUT_TEXT",
        "DECODE_INFO",
        "CONTEXT",
    ]


@pytest.mark.parametrize("kind", sorted(ERRORS))
@pytest.mark.parametrize("returned", [False, True], ids=["raised", "returned"])
def test_a_guard_error_reaches_the_caller_with_its_kind_and_code(adapter: Adapter, kind: str, returned: bool) -> None:
    spec = ERRORS[kind]
    error = spec.error("what was wrong", field="policy.floor")
    stage: Callable[[Any], Any] = (lambda tensors: error) if returned else failing(error)
    (response,) = adapter.each([asking()], stage)
    message, code = refusal(response)
    assert (message, code) == (to_wire(error), spec.triton_code)
    assert type(from_wire(f"in ensemble 'guard', {message}")) is spec.error


@pytest.mark.parametrize("kind", sorted(ERRORS))
def test_only_faults_of_the_server_are_logged(adapter: Adapter, triton: RecordingTriton, kind: str) -> None:
    spec = ERRORS[kind]
    adapter.each([asking()], failing(spec.error("what was wrong", field="prompt")))
    assert len(triton.logged) == (1 if spec.grpc_status == "INTERNAL" else 0)


def test_an_unexpected_exception_tells_the_caller_nothing(adapter: Adapter, triton: RecordingTriton) -> None:
    (response,) = adapter.each([asking()], failing(KeyError(SECRET)))
    assert refusal(response) == (INTERNAL, "INTERNAL")


def test_an_unexpected_exception_is_logged_with_id_type_and_place_but_no_text(
    adapter: Adapter, triton: RecordingTriton
) -> None:
    adapter.each([asking()], failing(KeyError(SECRET)))
    (line,) = triton.logged
    assert "request-1" in line
    assert "KeyError" in line
    assert re.search(r"test_adapter\.py:\d+ stage", line)
    assert SECRET not in line


def test_causes_are_logged_without_their_text(adapter: Adapter, triton: RecordingTriton) -> None:
    def stage(tensors: Tensors) -> Tensors:
        try:
            raise ValueError(SECRET)
        except ValueError as cause:
            raise BundleError("the graph does not load") from cause

    adapter.each([asking()], stage)
    (line,) = triton.logged
    assert "BundleError (the graph does not load)" in line
    assert "ValueError at" in line
    assert SECRET not in line


def test_a_malformed_tensor_between_stages_is_an_internal_error_that_the_log_explains(
    adapter: Adapter, triton: RecordingTriton
) -> None:
    (response,) = adapter.each([asking()], failing(MalformedTensor("CONTEXT", "is required and missing")))
    assert refusal(response) == (INTERNAL, "INTERNAL")
    assert "tensor CONTEXT: is required and missing" in triton.logged[0]


def test_a_request_id_cannot_forge_lines_of_the_log(adapter: Adapter, triton: RecordingTriton) -> None:
    request = Request({"PROMPT": pack_text("PROMPT", "x")}, id="a\nE1124 forged " + "x" * 500)
    adapter.each([request], failing(RuntimeError()))
    (line,) = triton.logged
    assert "\n" not in line
    assert "x" * 200 not in line


def test_a_log_that_fails_costs_no_response(adapter: Adapter, triton: RecordingTriton) -> None:
    triton.Logger.broken = True
    (response,) = adapter.each([asking()], failing(RuntimeError()))
    assert refusal(response) == (INTERNAL, "INTERNAL")


def test_responses_keep_the_order_of_the_requests(adapter: Adapter) -> None:
    responses = adapter.each([asking(text) for text in "abc"], echo)
    assert [text_of(response) for response in responses] == ["a", "b", "c"]


def test_a_request_that_cannot_be_read_does_not_fail_its_neighbours(adapter: Adapter, triton: RecordingTriton) -> None:
    unreadable = asking(TENANT=RuntimeError(SECRET))
    first, second, third = adapter.each([asking("a"), unreadable, asking("c")], echo)
    assert (text_of(first), text_of(third)) == ("a", "c")
    assert refusal(second) == (INTERNAL, "INTERNAL")
    assert not any(SECRET in line for line in triton.logged)


def later(kept: list[tuple[Tensors, Done]]) -> Submit:
    return lambda tensors, done: kept.append((tensors, done))


def test_a_deferred_request_is_answered_when_its_stage_is_done(adapter: Adapter) -> None:
    kept: list[tuple[Tensors, Done]] = []
    requests = [asking("a"), asking("b")]
    adapter.defer(requests, later(kept))
    assert [request.sent for request in requests] == [[], []]
    for tensors, done in reversed(kept):
        done(echo(tensors))
    assert [text_of(response) for request in requests for response in request.sent] == ["a", "b"]


def test_a_deferred_request_is_answered_once_and_its_first_answer_stands(adapter: Adapter) -> None:
    kept: list[tuple[Tensors, Done]] = []
    request = asking("a")
    adapter.defer([request], later(kept))
    ((tensors, done),) = kept
    done(InvalidRequest("no", field="prompt"))
    done(echo(tensors))
    (response,) = request.sent
    assert refusal(response)[1] == "INVALID_ARG"


def test_a_stage_that_fails_to_take_a_request_answers_it_all_the_same(
    adapter: Adapter, triton: RecordingTriton
) -> None:
    def submit(tensors: Tensors, done: Done) -> None:
        raise RuntimeError(SECRET)

    request, unreadable = asking(), asking(TENANT=RuntimeError(SECRET))
    adapter.defer([request, unreadable], submit)
    assert [refusal(response) for each in (request, unreadable) for response in each.sent] == [
        (INTERNAL, "INTERNAL")
    ] * 2
    assert all("request-1" in line and SECRET not in line for line in triton.logged)


@pytest.mark.parametrize(
    "result",
    [
        pytest.param({}, id="missing"),
        pytest.param({"CONTEXT": pack_text("CONTEXT", "x"), "EXTRA": pack_text("CONTEXT", "x")}, id="extra"),
        pytest.param({"CONTEXT": SECRET}, id="not an array"),
        pytest.param(None, id="nothing"),
    ],
)
def test_outputs_that_are_not_the_models_are_an_internal_error(
    adapter: Adapter, triton: RecordingTriton, result: Any
) -> None:
    (response,) = adapter.each([asking()], lambda tensors: result)
    assert refusal(response) == (INTERNAL, "INTERNAL")
    assert len(triton.logged) == 1
    assert SECRET not in triton.logged[0]


OUTCOMES: tuple[Callable[[Tensors], Result], ...] = (
    echo,
    lambda tensors: InvalidRequest("no", field="prompt"),
    lambda tensors: {},
    failing(InvalidRequest("no", field="prompt")),
    failing(ValueError(SECRET)),
)


@settings(deadline=None, database=None)
@given(st.lists(st.sampled_from(range(len(OUTCOMES))), max_size=8), st.booleans())
def test_every_request_gets_exactly_one_response(outcomes: list[int], deferred: bool) -> None:
    adapter = Adapter(RecordingTriton(), inputs=REQUEST, outputs=CONTEXT)
    requests = [asking(str(index)) for index in range(len(outcomes))]

    def stage(tensors: Tensors) -> Any:
        return OUTCOMES[outcomes[int(unpack_text(tensors, "PROMPT") or "")]](tensors)

    if deferred:
        adapter.defer(requests, lambda tensors, done: done(stage(tensors)))
        responses = [response for request in requests for response in request.sent]
    else:
        responses = adapter.each(requests, stage)
    assert len(responses) == len(requests)
    for index, response in enumerate(responses):
        if response.error is None:
            assert text_of(response) == str(index)
        else:
            assert isinstance(from_wire(refusal(response)[0]), GuardError)


@pytest.mark.parametrize(("text", "length"), [("", 32), ("1", 1), ("500", 500)])
def test_the_length_of_the_queue_is_the_operators(monkeypatch: pytest.MonkeyPatch, text: str, length: int) -> None:
    monkeypatch.setenv(QUEUE_VARIABLE, text)
    assert most_waiting(32) == length


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", "\u0661"])
def test_a_mistyped_length_of_the_queue_is_no_length(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(QUEUE_VARIABLE, text)
    with pytest.raises(ValueError, match=QUEUE_VARIABLE):
        most_waiting(32)


@pytest.mark.parametrize(("text", "megabytes"), [("", 64), ("0", 0), ("500", 500)])
def test_the_size_of_the_cache_is_the_operators(monkeypatch: pytest.MonkeyPatch, text: str, megabytes: int) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, text)
    assert cache_mb() == megabytes


@pytest.mark.parametrize("text", ["-1", "off", "1.5"])
def test_a_mistyped_size_of_the_cache_is_no_size(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, text)
    with pytest.raises(ValueError, match=CACHE_VARIABLE):
        cache_mb()


def test_a_description_without_a_traceback_is_the_type_alone() -> None:
    assert describe(ValueError(SECRET)) == "ValueError"


def test_a_missing_bundle_variable_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BUNDLE_VARIABLE, raising=False)
    with pytest.raises(BundleError, match=BUNDLE_VARIABLE):
        bundle_folder()
