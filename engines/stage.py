"""The decode and verdict stages: MODEL_INPUT -> DECODED tensors, DECODED and CONTEXT -> VERDICT tensors."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
from tritonguard import tensors as wire
from tritonguard.errors import GuardError, InternalError
from tritonguard.judgement import Judged, blind, decide_parts, join
from tritonguard.label import Label
from tritonguard.policy import Policy
from tritonguard.request import Mode
from tritonguard.verdict import Record, Verdict, to_tensors

from engines.answer_cache import AnswerCache
from engines.answer_key import Place, place_of
from engines.answers import Answers
from engines.bundle import Bundle
from engines.program import Encode, Program, program_for
from engines.protocol import Answer, Job
from engines.scheduler import Results, Scheduler

Tensors = Mapping[str, wire.Array]
Decode = Callable[[Sequence[int]], str]
Result = dict[str, wire.Array] | GuardError
Done = Callable[[Result], None]


class DecodeStage:
    """MODEL_INPUT tensors through one engine, which answers in its own time.

    encode: plain text -> token ids; decode: token ids -> text, special tokens spelled out; end: id of the end of a
    turn; marks: ids that reasoning may not hold (`program_for`); all of the bundle's tokenizer. image_size: pixels of
    the tower's side. cache: of answers; None: none are kept, whatever a policy says.
    """

    def __init__(
        self,
        bundle: Bundle,
        scheduler: Scheduler,
        *,
        encode: Encode,
        decode: Decode,
        end: int,
        marks: Callable[[], frozenset[int]] = frozenset,
        image_size: int = 0,
        cache: AnswerCache | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._cache = cache or AnswerCache()
        self._decode = decode
        self._image_size = image_size
        self._info = {
            "bundle_revision": bundle.revision,
            "model_revision": bundle.model_revision,
            "engine": bundle.target,
            "precision": bundle.precision,
            "reasoning_source": bundle.reasoning_source,
        }

        @lru_cache(maxsize=256)
        def program(mode: Mode, has_response: bool, names: tuple[str, ...] | None, budget: int) -> Program:
            return program_for(
                mode,
                has_response=has_response,
                encode=encode,
                end=end,
                names=names,
                think_budget=budget,
                marks=marks() if mode is Mode.THINK else frozenset(),
            )

        self._program = program

    def submit(self, tensors: Tensors, done: Done, *, usual: bool = True) -> None:
        """Decode one request. usual: see `Scheduler.submit`. `done` is called once, from any thread: with the DECODED
        tensors, or with the typed reason why there are none (`Scheduler.submit`; InternalError where the stage before
        broke the contract). What is in the cache is answered at once, however long the queue is; of two equal requests
        that come before there is an answer, both are run.
        """
        try:
            asked = json.loads(wire.require_text(tensors, "ANSWER"))
            priority = int(asked["priority"])
            place = place_of(tensors, asked, self._info) if self._cache.most_bytes else None
            known = None if place is None else self._cache.get(place.key)
            jobs = self._jobs(tensors, asked) if known is None else []
        except GuardError as error:
            return done(error)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return done(InternalError.of(error))
        if known is not None:
            return done(self._decoded(known, cached=True))
        if not jobs:
            return done(self._result([], asked, None))

        def tell(answers: Results) -> None:
            done(self._result(answers, asked, place))

        self._scheduler.submit(jobs, tell, priority=priority, usual=usual)

    def run(self, tensors: Tensors, *, usual: bool = True) -> Result:
        """Like `submit`, waiting for the result."""
        result: Future[Result] = Future()
        self.submit(tensors, result.set_result, usual=usual)
        return result.result()

    def warm_up(self, tensors: Tensors) -> None:
        """Like `run`, before the first caller: first calls allocate, compile and fill caches, so that what they take
        says nothing about those that come. Raises GuardError."""
        result = self.run(tensors, usual=False)
        if isinstance(result, GuardError):
            raise result

    def close(self) -> None:
        """Finish what is here; what comes later is refused with Unavailable."""
        self._scheduler.close()
        self._cache.clear()

    def statistics(self) -> dict[str, float]:
        """What waits and runs, what the engine counts of itself, and what is kept of its answers."""
        return {**self._scheduler.statistics(), **self._cache.statistics()}

    def counters(self) -> dict[str, dict[str, int]]:
        """What has been counted so far, each by result: requests answered (from the cache too), and looked up there."""
        lookups = self._cache.lookups()
        answers = Counter(self._scheduler.answers()) + Counter(ok=lookups["hit"])
        return {"answers": dict(answers), "answer_cache_lookups": lookups}

    def _jobs(self, row: Tensors, answer: Mapping[str, Any]) -> list[Job]:
        ids, lengths, prefixes = (_required(row, name) for name in ("INPUT_IDS", "PROMPT_LENGTHS", "PREFIX_LENGTHS"))
        if int(lengths.sum()) != len(ids):
            raise InternalError("the prompts' lengths are not those of the ids")
        pixels = self._pixels(wire.unpack_bytes(row, "PIXELS") or b"")
        prompts = np.split(ids, np.cumsum(lengths)[:-1]) if len(lengths) else []
        return [
            Job(
                ids=prompt,
                prefix_length=int(prefix),
                program=self._program(
                    Mode(asked["mode"]),
                    answer["has_response"],
                    None if asked["names"] is None else tuple(asked["names"]),
                    answer["think_budget"],
                ),
                pixels=pixels if asked["sees"] else None,
                deadline_ns=wire.require_int(row, "DEADLINE_NS"),
            )
            for prompt, prefix, asked in zip(prompts, prefixes, answer["prompts"], strict=True)
        ]

    def _result(self, results: Sequence[Answer | GuardError], asked: Mapping[str, Any], place: Place | None) -> Result:
        """All prompts of a request are answered, or it is not. Answers with an indeterminate label are not kept."""
        try:
            answers: list[Answer] = []
            timings: dict[str, float] = {}
            for result in results:
                if isinstance(result, GuardError):
                    return result
                answers.append(result)
                for phase, milliseconds in result.timings_ms.items():
                    timings[phase] = timings.get(phase, 0.0) + milliseconds
            said = self._said(answers)
            if place is not None and self._are_judged(said, asked):
                self._cache.put(place.key, said, ttl_s=place.ttl_s)
            reused = sum(answer.prefix_reused for answer in answers)
            return self._decoded(said, prefix_reused=reused, timings_ms=timings)
        except Exception as error:
            return InternalError.of(error)

    def _pixels(self, raw: bytes) -> wire.Array | None:
        """uint8 [images, size, size, 3]. Raises InternalError for bytes that are no whole number of images."""
        if not raw:
            return None
        size = self._image_size
        if not size or len(raw) % (size * size * 3):
            raise InternalError("the pixels are not of the tower's size")
        return np.frombuffer(raw, np.uint8).reshape(-1, size, size, 3)

    def _are_judged(self, said: Answers, asked: Mapping[str, Any]) -> bool:
        labels = said.labels(asked, reasoning_source=self._info["reasoning_source"])
        return not any(label.is_indeterminate for label in labels)

    def _said(self, answers: Sequence[Answer]) -> Answers:
        logprobs = np.concatenate([np.empty((0, 2), np.float32), *(answer.choice_logprobs for answer in answers)])
        return Answers(
            choice_logprobs=logprobs,
            texts=tuple(self._decode(answer.ids).encode() for answer in answers),
            truncated=tuple(answer.truncated for answer in answers),
            bounded=tuple(answer.bounded for answer in answers),
        )

    def _decoded(
        self,
        said: Answers,
        *,
        cached: bool = False,
        prefix_reused: int = 0,
        timings_ms: Mapping[str, float] = MappingProxyType({}),
    ) -> dict[str, wire.Array]:
        info = {
            **self._info,
            "prefix_reused": prefix_reused,
            "truncated": said.truncated,
            "bounded": said.bounded,
            "cached": cached,
            "timings_ms": dict(timings_ms),
        }
        return {
            "CHOICE_LOGPROBS": wire.pack("CHOICE_LOGPROBS", said.choice_logprobs),
            "OUTPUT_TEXT": wire.pack("OUTPUT_TEXT", said.texts),
            "DECODE_INFO": wire.pack_text("DECODE_INFO", json.dumps(info)),
        }


# Most requests come under the same few, and reading one takes a quarter of the stage's time.
_policy = lru_cache(maxsize=64)(Policy.from_json)


def conclude(tensors: Tensors) -> dict[str, wire.Array]:
    """The verdict stage: a label for each part of the policy, joined; the decision; the record.

    Raises InternalError or MalformedTensor when the stages before broke the contract.
    """
    context = json.loads(wire.require_text(tensors, "CONTEXT"))
    info = json.loads(wire.require_text(tensors, "DECODE_INFO"))
    policy = _policy(context["policy"])
    floor = policy if context["floor"] is None else _policy(context["floor"])
    labels = _labels(tensors, context, info)
    parts = [Judged(name, floor if name == "floor" else policy, labels[name]) for name in context["parts"]]
    record = Record(
        contract_version=wire.CONTRACT_VERSION,
        request_id=context["request_id"],
        policy_name=policy.name,
        policy_sha256=policy.sha256,
        judged=tuple(context["parts"]),
        floor_sha256=None if context["floor"] is None else floor.sha256,
        image_sha256=tuple(context["image_sha256"]),
        model_revision=info["model_revision"],
        bundle_revision=info["bundle_revision"],
        engine=info["engine"],
        precision=info["precision"],
        prompt_tokens=context["prompt_tokens"],
        prefix_tokens=info["prefix_reused"],
        cached=info["cached"],
        timings_ms={
            "preprocess": context["preprocess_ms"],
            **info["timings_ms"],
            "server": (time.monotonic_ns() - context["received_ns"]) / 1e6,
        },
    )
    return to_tensors(Verdict(join(parts), decide_parts(parts), record))


def _labels(tensors: Tensors, context: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Label]:
    """The label of each part by its name, from its prompts' answers."""
    answers = Answers(
        _required(tensors, "CHOICE_LOGPROBS"),
        tuple(_required(tensors, "OUTPUT_TEXT")),
        tuple(info["truncated"]),
        tuple(info["bounded"]),
    )
    seen: dict[str, Label] = {}
    text_only: dict[str, Label] = {}
    labels = answers.labels(context, reasoning_source=info["reasoning_source"])
    for asked, label in zip(context["prompts"], labels, strict=True):
        (seen if asked["sees"] else text_only)[asked["part"]] = label
    vision = context["vision"]
    if vision is None:
        return text_only
    if vision == "trained":
        return seen
    reason = f"vision_{vision}"
    return {
        name: blind(text_only.get(name), reason=reason, has_response=context["has_response"])
        for name in context["parts"]
    }


def _required(tensors: Tensors, name: str) -> wire.Array:
    row = wire.unpack(tensors, name)
    if row is None:
        raise InternalError(f"no {name}")
    return row
