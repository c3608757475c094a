"""The decode and verdict stages: MODEL_INPUT -> DECODED tensors, DECODED and CONTEXT -> VERDICT tensors."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import lru_cache
from typing import Any

import numpy as np
from tritonguard import tensors as wire
from tritonguard.errors import GuardError, InternalError
from tritonguard.judgement import Judged, blind, decide_parts, join, read_answer
from tritonguard.label import Label
from tritonguard.policy import Policy
from tritonguard.request import Mode
from tritonguard.verdict import Record, Verdict, to_tensors

from engines.bundle import Bundle
from engines.program import Encode, Program, program_for
from engines.protocol import Answer, Job
from engines.scheduler import Scheduler

Tensors = Mapping[str, wire.Array]
Decode = Callable[[Sequence[int]], str]
Result = dict[str, wire.Array] | GuardError
Done = Callable[[Result], None]


class DecodeStage:
    """MODEL_INPUT tensors through one engine, which answers in its own time.

    encode: plain text -> token ids; decode: token ids -> text, special tokens spelled out; end: id of the end of a
    turn; marks: ids that reasoning may not hold (`program_for`); all of the bundle's tokenizer. image_size: pixels of
    the tower's side.
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
    ) -> None:
        self._scheduler = scheduler
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

    def submit(self, tensors: Tensors, done: Done) -> None:
        """Decode one request. `done` is called once, from any thread: with the DECODED tensors, or with the typed
        reason why there are none (`Scheduler.submit`; InternalError where the stage before broke the contract).
        """
        try:
            jobs, priority = self._jobs(tensors)
        except GuardError as error:
            return done(error)
        except (ValueError, KeyError, TypeError) as error:
            return done(InternalError.of(error))
        if not jobs:
            return done(self._decoded([]))
        self._scheduler.submit(jobs, lambda answers: done(self._result(answers)), priority=priority)

    def run(self, tensors: Tensors) -> Result:
        """Like `submit`, waiting for the result."""
        result: Future[Result] = Future()
        self.submit(tensors, result.set_result)
        return result.result()

    def close(self) -> None:
        """Finish what is here; what comes later is refused with Unavailable."""
        self._scheduler.close()

    def _jobs(self, row: Tensors) -> tuple[list[Job], int]:
        ids, lengths, prefixes = (_required(row, name) for name in ("INPUT_IDS", "PROMPT_LENGTHS", "PREFIX_LENGTHS"))
        answer = json.loads(wire.require_text(row, "ANSWER"))
        if int(lengths.sum()) != len(ids):
            raise InternalError("the prompts' lengths are not those of the ids")
        pixels = self._pixels(wire.unpack_bytes(row, "PIXELS") or b"")
        prompts = np.split(ids, np.cumsum(lengths)[:-1]) if len(lengths) else []
        jobs = [
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
        return jobs, int(answer["priority"])

    def _result(self, answers: Sequence[Answer | GuardError]) -> Result:
        """All prompts of a request are answered, or it is not."""
        try:
            for answer in answers:
                if isinstance(answer, GuardError):
                    return answer
            return self._decoded([answer for answer in answers if isinstance(answer, Answer)])
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

    def _decoded(self, answers: Sequence[Answer]) -> dict[str, wire.Array]:
        timings: dict[str, float] = {}
        for answer in answers:
            for phase, milliseconds in answer.timings_ms.items():
                timings[phase] = timings.get(phase, 0.0) + milliseconds
        info = {
            **self._info,
            "prefix_reused": sum(answer.prefix_reused for answer in answers),
            "truncated": [answer.truncated for answer in answers],
            "bounded": [answer.bounded for answer in answers],
            "timings_ms": timings,
        }
        logprobs = np.concatenate([np.empty((0, 2), np.float32), *(answer.choice_logprobs for answer in answers)])
        return {
            "CHOICE_LOGPROBS": wire.pack("CHOICE_LOGPROBS", logprobs),
            "OUTPUT_TEXT": wire.pack("OUTPUT_TEXT", [self._decode(answer.ids).encode() for answer in answers]),
            "DECODE_INFO": wire.pack_text("DECODE_INFO", json.dumps(info)),
        }


def conclude(tensors: Tensors) -> dict[str, wire.Array]:
    """The verdict stage: a label for each part of the policy, joined; the decision; the record.

    Raises InternalError or MalformedTensor when the stages before broke the contract.
    """
    context = json.loads(wire.require_text(tensors, "CONTEXT"))
    info = json.loads(wire.require_text(tensors, "DECODE_INFO"))
    policy = Policy.from_json(context["policy"])
    floor = policy if context["floor"] is None else Policy.from_json(context["floor"])
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
        timings_ms={
            "preprocess": context["preprocess_ms"],
            **info["timings_ms"],
            "server": (time.monotonic_ns() - context["received_ns"]) / 1e6,
        },
    )
    return to_tensors(Verdict(join(parts), decide_parts(parts), record))


def _labels(tensors: Tensors, context: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Label]:
    """The label of each part by its name, from its prompts' answers."""
    has_response, prompts = context["has_response"], context["prompts"]
    texts, logprobs = _required(tensors, "OUTPUT_TEXT"), _required(tensors, "CHOICE_LOGPROBS")
    choices = 2 if has_response else 1
    if not len(texts) == len(prompts) == len(info["truncated"]) == len(info["bounded"]) or len(
        logprobs
    ) != choices * len(prompts):
        raise InternalError("there is not one answer for each prompt")
    seen: dict[str, Label] = {}
    text_only: dict[str, Label] = {}
    for index, asked in enumerate(prompts):
        label = read_answer(
            logprobs[index * choices : (index + 1) * choices],
            texts[index].decode("utf-8"),
            mode=Mode(asked["mode"]),
            has_response=has_response,
            names=asked["names"],
            reasoning_source=info["reasoning_source"],
            truncated=info["truncated"][index],
            bounded=info["bounded"][index],
        )
        (seen if asked["sees"] else text_only)[asked["part"]] = label
    vision = context["vision"]
    if vision is None:
        return text_only
    if vision == "trained":
        return seen
    reason = f"vision_{vision}"
    return {name: blind(text_only.get(name), reason=reason, has_response=has_response) for name in context["parts"]}


def _required(tensors: Tensors, name: str) -> wire.Array:
    row = wire.unpack(tensors, name)
    if row is None:
        raise InternalError(f"no {name}")
    return row
