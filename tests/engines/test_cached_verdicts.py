"""From request to verdict through the real stages: what may be answered from memory, and what never is."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_stand_in import StandIn
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tritonguard import Caching, GuardRequest, Policy, Verdict
from tritonguard.errors import DeadlineExceeded, GuardError, Overloaded, Unavailable
from tritonguard.request import to_tensors
from tritonguard.verdict import verdict_from_tensors

from engines.answer_cache import AnswerCache
from engines.bundle import Bundle
from engines.program import Choice, Forced, FreeText
from engines.protocol import Answer, Job
from engines.scheduler import NEVER_NS, Scheduler
from engines.stage import DecodeStage, conclude
from preprocessing.policies import PolicyStore
from preprocessing.prompt import PromptBuilder
from preprocessing.stage import PrepareStage

WAIT_S = 10.0
SIZE = 28
ONE_MB = 1_000_000
CACHING = Caching(ttl_s=60)
CACHED = Policy(name="cached", cache=CACHING)


class Oracle(StandIn):
    """Answers a program by a probability that is the prompt's own.

    asked: jobs so far. contradicts: the text says another thing than the probability. error: what it gives instead.
    go: what a call waits for; began: told of each call.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.contradicts = False
        self.error: GuardError | None = None
        self.began = threading.Semaphore(0)
        self.go: threading.Semaphore | None = None

    def run(self, jobs: Sequence[Job]) -> list[Answer | GuardError]:
        self.asked += len(jobs)
        self.began.release()
        if self.go is not None:
            assert self.go.acquire(timeout=WAIT_S)
        return [self.error or self._answer(job) for job in jobs]

    def _answer(self, job: Job) -> Answer:
        seen = job.ids.tobytes() + (b"" if job.pixels is None else job.pixels.tobytes())
        p_unsafe = hashlib.sha256(seen).digest()[0] / 256 + 1 / 512
        unsafe = (p_unsafe >= 0.5) is not self.contradicts
        ids: list[int] = []
        for segment in job.program.segments:
            match segment:
                case Forced(forced):
                    ids += forced
                case Choice():
                    ids.append(segment.unsafe if unsafe else segment.safe)
                case FreeText():
                    ids += [*ids[:2], *segment.end]
        rows = [[np.log(1 - p_unsafe), np.log(p_unsafe)]] * len(job.program.choices)
        return Answer(np.array(rows, np.float32), tuple(ids), job.prefix_length, timings_ms={"prefill": 5.0})


class Server:
    """The three stages over one engine and one cache."""

    def __init__(
        self,
        builder: PromptBuilder,
        *,
        engine: Oracle | None = None,
        vision: str = "trained",
        cache: AnswerCache | None = None,
        revision: str = "r1",
        most_waiting: int = 8,
        **store: Any,
    ) -> None:
        self.engine = engine or Oracle()
        self.done_ns = 0
        policies = PolicyStore(**{"allow_callers": True, **store})
        self._prepare = PrepareStage(builder, policies, vision=vision, image_size=SIZE, done_ns=lambda: self.done_ns)
        manifest = {
            "target": "openvino",
            "precision": "f32",
            "revision": revision,
            "inputs": {"checkpoint_revision": "m"},
            "reasoning_source": "model",
        }
        self.stage = DecodeStage(
            Bundle(Path(), manifest),
            Scheduler(self.engine, most_waiting=most_waiting),
            encode=builder.encode_text,
            decode=builder.decode_text,
            end=builder.end_of_turn,
            image_size=SIZE,
            cache=AnswerCache(ONE_MB) if cache is None else cache,
        )

    def prepared(self, **values: Any) -> dict[str, Any]:
        return self._prepare.run(
            to_tensors(GuardRequest.create(**{"prompt": "How are you?", "policy": CACHED, **values}))
        )

    def check(self, **values: Any) -> Verdict:
        prepared = self.prepared(**values)
        decoded = self.stage.run(prepared)
        if isinstance(decoded, GuardError):
            raise decoded
        return verdict_from_tensors(conclude({**prepared, **decoded}))

    def is_cached(self, **values: Any) -> bool:
        return self.check(**values).record.cached


@pytest.fixture(scope="session")
def builder(base_folder: Path) -> PromptBuilder:
    return PromptBuilder(base_folder, max_tokens=100_000)


@pytest.fixture
def server(builder: PromptBuilder) -> Server:
    return Server(builder)


def picture(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({}, id="prompt"),
        pytest.param({"response": "Fine."}, id="pair"),
        pytest.param({"mode": "think"}, id="think"),
        pytest.param({"images": [picture("red")]}, id="image"),
        pytest.param(
            {"policy": Policy(name="two", custom_policy="No chess.", also_builtin=True, cache=CACHING)}, id="two parts"
        ),
    ],
)
def test_the_same_request_is_answered_again_without_the_engine(server: Server, values: dict[str, Any]) -> None:
    first = server.check(**values)
    asked = server.engine.asked
    second = server.check(**values, priority=3, deadline_s=77.0)
    assert (first.record.cached, second.record.cached) == (False, True)
    assert (second.label, second.outcome) == (first.label, first.outcome)
    assert not second.label.is_indeterminate
    assert server.engine.asked == asked
    # The record is this request's own.
    assert second.record.request_id != first.record.request_id
    assert ("prefill" in first.record.timings_ms, "prefill" in second.record.timings_ms) == (True, False)
    assert second.record.prefix_tokens == 0
    assert server.stage.counters() == {"answers": {"ok": 2}, "answer_cache_lookups": {"hit": 1, "miss": 1}}
    assert server.stage.statistics()["answer_cache_entries"] == 1


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "How are you!"},
        {"response": "Fine."},
        {"mode": "categories"},
        {"mode": "think"},
        {"images": [picture("red")]},
        {"tenant": "a"},
        {"policy": Policy(name="other", cache=CACHING)},
        {"policy": Policy(name="cached", version="1.0.1", cache=CACHING)},
        {"policy": Policy(name="cached", thresholds={"user": 0.4}, cache=CACHING)},
        {"policy": Policy(name="cached", on_error="allow", cache=CACHING)},
        {"policy": Policy(name="cached", cache=Caching(ttl_s=61))},
        {"policy": Policy(name="cached", suppress=("Profanity",), cache=CACHING)},
    ],
    ids=str,
)
def test_another_request_is_never_answered_from_it(server: Server, change: dict[str, Any]) -> None:
    server.check()
    assert not server.is_cached(**change)
    assert server.is_cached(**change)
    assert server.is_cached()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"mode": "think", "think_budget": 8}, {"mode": "think", "think_budget": 9}),
        ({"images": [picture("red")]}, {"images": [picture("blue")]}),
        ({"images": [picture("red"), picture("blue")]}, {"images": [picture("blue"), picture("red")]}),
        ({"tenant": "a"}, {"tenant": "b"}),
        ({"prompt": "a", "response": "b c"}, {"prompt": "a b", "response": "c"}),
    ],
)
def test_nor_the_other_way_round(server: Server, one: dict[str, Any], other: dict[str, Any]) -> None:
    server.check(**one)
    assert not server.is_cached(**other)


POLICIES = (
    CACHED,
    Policy(name="early", thresholds={"user": 0.25}, cache=CACHING),
    Policy(name="chess", custom_policy="No talk about chess.", cache=CACHING),
    Policy(name="topics", custom_taxonomy=("Chess",), also_builtin=True, cache=CACHING),
    Policy(),
)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["bread", "tea"]), st.sampled_from(POLICIES), st.sampled_from([None, "a", "b"])),
        min_size=2,
        max_size=12,
    )
)
def test_whoever_asks_whatever_gets_the_verdict_that_the_engine_would_give(
    builder: PromptBuilder, requests: list[tuple[str, Policy, str | None]]
) -> None:
    server, plain = Server(builder), Server(builder, cache=AnswerCache(0))
    try:
        asked: set[tuple[str, str, str | None]] = set()
        for prompt, policy, tenant in requests:
            values = {"prompt": prompt, "policy": policy, "tenant": tenant}
            kept, fresh = server.check(**values), plain.check(**values)
            assert (kept.label, kept.outcome) == (fresh.label, fresh.outcome)
            assert kept.record.policy_sha256 == policy.sha256
            question = (prompt, policy.sha256, tenant)
            assert kept.record.cached == (question in asked and policy.cache is not None)
            assert not fresh.record.cached
            asked.add(question)
    finally:
        server.stage.close()
        plain.stage.close()


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"policy": Policy()}, id="built-in"),
        pytest.param({"policy": Policy(name="own", custom_policy="No chess.")}, id="own"),
    ],
)
def test_a_policy_without_the_switch_never_caches_whatever_the_floor_says(
    builder: PromptBuilder, values: dict[str, Any]
) -> None:
    server = Server(builder, floor=Policy(name="floor", thresholds={"user": 0.3}, cache=CACHING))
    assert [server.is_cached(**values) for _ in range(2)] == [False, False]
    assert server.stage.counters()["answer_cache_lookups"] == {"hit": 0, "miss": 0}


def test_another_floor_is_another_question(builder: PromptBuilder) -> None:
    cache = AnswerCache(ONE_MB)
    floors = [None, Policy(), Policy(thresholds={"user": 0.3})]
    servers = [Server(builder, cache=cache, floor=floor) for floor in floors]
    policy = Policy(name="chess", custom_policy="No chess.", cache=CACHING)
    assert [server.is_cached(policy=policy) for server in (*servers, *servers)] == [False] * 3 + [True] * 3


def test_another_bundle_is_another_question(builder: PromptBuilder) -> None:
    cache = AnswerCache(ONE_MB)
    old, new = Server(builder, cache=cache), Server(builder, cache=cache, revision="r2")
    old.check()
    assert not new.is_cached()
    assert old.is_cached()


def test_what_is_indeterminate_is_not_kept(server: Server) -> None:
    server.engine.contradicts = True
    assert server.check().label.is_indeterminate
    server.engine.contradicts = False
    verdict = server.check()
    assert not verdict.label.is_indeterminate
    assert not verdict.record.cached


def test_one_indeterminate_part_is_enough_not_to_keep_it(builder: PromptBuilder) -> None:
    class Half(Oracle):
        def _answer(self, job: Job) -> Answer:
            self.contradicts = not self.contradicts
            return super()._answer(job)

    server = Server(builder, engine=Half())
    policy = Policy(name="two", custom_policy="No chess.", also_builtin=True, cache=CACHING)
    assert [server.is_cached(policy=policy) for _ in range(2)] == [False, False]
    assert server.engine.asked == 4


def test_an_error_is_not_kept(server: Server) -> None:
    server.engine.error = DeadlineExceeded("late")
    with pytest.raises(DeadlineExceeded):
        server.check()
    server.engine.error = None
    assert not server.is_cached()
    assert server.is_cached()


@pytest.mark.parametrize("vision", ["untrained", "none"])
def test_images_that_cannot_be_judged_are_not_kept(builder: PromptBuilder, vision: str) -> None:
    server = Server(builder, vision=vision)
    for _ in range(2):
        verdict = server.check(images=[picture("red")])
        assert verdict.label.is_indeterminate
        assert not verdict.record.cached
    assert server.stage.statistics()["answer_cache_entries"] == 0


def test_the_operators_nothing_is_stronger_than_a_policy(builder: PromptBuilder) -> None:
    server = Server(builder, cache=AnswerCache(0))
    assert [server.is_cached() for _ in range(2)] == [False, False]
    assert server.stage.counters()["answer_cache_lookups"] == {"hit": 0, "miss": 0}


def test_what_is_known_is_answered_beside_a_full_queue(builder: PromptBuilder) -> None:
    server = Server(builder, most_waiting=1)
    known = server.check()
    assert server.engine.began.acquire(timeout=WAIT_S)
    server.engine.go = threading.Semaphore(0)
    try:
        server.stage.submit(server.prepared(prompt="runs"), lambda result: None)
        assert server.engine.began.acquire(timeout=WAIT_S)
        server.stage.submit(server.prepared(prompt="waits"), lambda result: None)
        server.done_ns = NEVER_NS
        verdict = server.check(deadline_s=0.5)
        assert verdict.record.cached
        assert verdict.label == known.label
        with pytest.raises(Overloaded, match=r"are waiting$"):
            server.check(prompt="has no place")
        # One that could not be known is refused at the door, as ever.
        with pytest.raises(Overloaded, match="for this deadline"):
            server.check(policy=Policy())
    finally:
        server.engine.go.release(9)
        server.stage.close()


def test_equal_requests_that_come_before_there_is_an_answer_are_both_run(server: Server) -> None:
    server.engine.go = threading.Semaphore(0)
    decoded: list[Any] = []
    answered = threading.Semaphore(0)

    def done(result: Any) -> None:
        decoded.append(result)
        answered.release()

    for _ in range(2):
        server.stage.submit(server.prepared(), done)
    server.engine.go.release(2)
    assert all(answered.acquire(timeout=WAIT_S) for _ in range(2))
    assert server.engine.asked == 2
    assert not any(isinstance(result, GuardError) for result in decoded)
    assert server.is_cached()


def test_a_closed_stage_refuses_what_it_knew(server: Server) -> None:
    server.check()
    server.stage.close()
    with pytest.raises(Unavailable):
        server.check()


def test_a_reload_of_a_named_policy_leaves_its_old_answers_behind(builder: PromptBuilder, tmp_path: Path) -> None:
    def write(threshold: float) -> None:
        (tmp_path / ".partial").write_text(f"name: n\nthresholds: {{user: {threshold}}}\ncache: {{ttl_s: 60}}\n")
        (tmp_path / ".partial").replace(tmp_path / "n.yaml")

    write(0.5)
    server = Server(builder, folder=tmp_path, look_every_s=0.0, settle_s=0.0)
    named: dict[str, Any] = {"policy": Policy(), "policy_name": "n"}
    assert [server.is_cached(**named) for _ in range(2)] == [False, True]
    write(0.75)
    assert [server.is_cached(**named) for _ in range(2)] == [False, True]
