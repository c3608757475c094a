"""The decode and verdict stages: MODEL_INPUT -> DECODED tensors, DECODED and CONTEXT -> VERDICT tensors."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache

from tritonguard import tensors as wire
from tritonguard.errors import GuardError, InternalError
from tritonguard.policy import Policy
from tritonguard.request import Mode
from tritonguard.verdict import Record, Verdict, decide, label_from_choices, to_tensors

from engines.bundle import Bundle
from engines.program import Encode, Program, program_for
from engines.protocol import Answer, Engine, Job

Tensors = Mapping[str, wire.Array]


class DecodeStage:
    """MODEL_INPUT rows through one engine. `encode`: plain text -> token ids of the bundle's tokenizer."""

    def __init__(self, bundle: Bundle, engine: Engine, encode: Encode) -> None:
        self._engine = engine
        self._info = {
            "bundle_revision": bundle.revision,
            "model_revision": bundle.model_revision,
            "engine": bundle.target,
            "precision": bundle.precision,
        }

        @lru_cache(maxsize=16)
        def program(mode: Mode, has_response: bool) -> Program:
            return program_for(mode, has_response=has_response, encode=encode)

        self._program = program

    def run(self, rows: Sequence[Tensors]) -> list[dict[str, wire.Array] | GuardError]:
        """One result per row, in order: DECODED tensors, or the typed reason why there are none."""
        jobs = [self._job_or_error(row) for row in rows]
        answers = iter(self._engine.run([job for job in jobs if isinstance(job, Job)]))
        results = [next(answers) if isinstance(job, Job) else job for job in jobs]
        return [result if isinstance(result, GuardError) else self._decoded(result) for result in results]

    def _job_or_error(self, row: Tensors) -> Job | GuardError:
        """A row that breaks the contract fails alone, not the batch that it came in."""
        try:
            return self._job(row)
        except GuardError as error:
            return error
        except (ValueError, KeyError, TypeError):
            return InternalError()

    def _job(self, row: Tensors) -> Job:
        ids = wire.unpack(row, "INPUT_IDS")
        answer = json.loads(wire.require_text(row, "ANSWER"))
        if ids is None:
            raise InternalError("no input ids")
        return Job(
            ids=ids,
            prefix_length=wire.require_int(row, "PREFIX_LENGTH"),
            program=self._program(Mode(answer["mode"]), answer["has_response"]),
            deadline_ns=wire.require_int(row, "DEADLINE_NS"),
        )

    def _decoded(self, answer: Answer) -> dict[str, wire.Array]:
        info = {**self._info, "prefix_reused": answer.prefix_reused, "timings_ms": answer.timings_ms}
        return {
            "CHOICE_LOGPROBS": wire.pack("CHOICE_LOGPROBS", answer.choice_logprobs),
            "DECODE_INFO": wire.pack_text("DECODE_INFO", json.dumps(info)),
        }


def conclude(tensors: Tensors) -> dict[str, wire.Array]:
    """The verdict stage: label from the choices' log-probabilities, decision under the policy, record.

    Raises InternalError or MalformedTensor when the stages before broke the contract.
    """
    context = json.loads(wire.require_text(tensors, "CONTEXT"))
    info = json.loads(wire.require_text(tensors, "DECODE_INFO"))
    logprobs = wire.unpack(tensors, "CHOICE_LOGPROBS")
    if logprobs is None:
        raise InternalError("no choices")
    policy = Policy.from_json(context["policy"])
    label = label_from_choices(logprobs, has_response=context["has_response"])
    record = Record(
        contract_version=wire.CONTRACT_VERSION,
        request_id=context["request_id"],
        policy_name=policy.name,
        policy_sha256=policy.sha256,
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
    return to_tensors(Verdict(label, decide(label, policy), record))
