"""The client.

    with Guard("127.0.0.1:8001") as guard:
        verdict = guard.check("How do I bake bread?")
        if verdict.blocked:
            ...

Requests are built and replies are read by pure functions (`request.to_tensors`, `read_reply`), so that
another client (asynchronous, say) differs only in how it waits.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from tritonguard.errors import GuardError, IndeterminateVerdict, InternalError, InvalidRequest
from tritonguard.health import Health, examine
from tritonguard.policy import Policy
from tritonguard.request import DEFAULT_DEADLINE_S, GuardRequest, Mode, to_tensors
from tritonguard.tensors import Array
from tritonguard.transport import GrpcTransport, Transport
from tritonguard.verdict import ON_ERROR, Verdict, verdict_from_tensors, verdict_on_error

DEFAULT_URL = "127.0.0.1:8001"
DEFAULT_MODEL = "guard"

logger = logging.getLogger("tritonguard")
logger.addHandler(logging.NullHandler())


class Guard:
    """A connection to a guard server; a context manager, safe to share between threads.

    url: host:port of Triton's gRPC endpoint. deadline_s: seconds per request where a call gives none.
    model: name of the ensemble. policy: of calls that bring none; None: the built-in one.
    policy_name: a policy on the server, for calls that bring neither a policy nor a name. Beside it, `policy`
    can only say with its `on_error` what happens when no answer comes: what the named policy says of that is
    not known here. Anything more raises InvalidRequest.
    transport: another way to the server, such as `MockTransport`; `url` and `model` are then unused.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        model: str = DEFAULT_MODEL,
        policy: Policy | None = None,
        policy_name: str | None = None,
        transport: Transport | None = None,
    ) -> None:
        if policy and policy_name is not None and policy != Policy(on_error=policy.on_error):
            raise InvalidRequest("policy: beside a policy_name it can only set on_error", field="policy")
        self._transport: Transport = GrpcTransport(url, model=model) if transport is None else transport
        self._deadline_s = deadline_s
        self._policy = policy or Policy()
        self._policy_name = policy_name
        self._closed = False
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __enter__(self) -> Guard:
        self._refuse_closed()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the connection. Closing twice is harmless; using a closed Guard raises RuntimeError."""
        if not self._closed:
            self._closed = True
            self._transport.close()

    def check(
        self,
        prompt: str,
        *,
        response: str | None = None,
        images: Iterable[bytes] = (),
        policy: Policy | None = None,
        policy_name: str | None = None,
        mode: Mode | str = Mode.VERDICT,
        think_budget: int | None = None,
        deadline_s: float | None = None,
        priority: int = 0,
        tenant: str | None = None,
        request_id: str | None = None,
    ) -> Verdict:
        """Judge one exchange. The arguments are the fields of `GuardRequest`; None leaves the default.

        policy, policy_name: one's own policy, or in its place the name of one on the server; neither: this
        Guard's.
        Raises InvalidRequest, PromptTooLong, Unimplemented, UnsupportedContract and InternalError. A missed
        deadline, an unavailable or overloaded server and an indeterminate label go by the policy's
        `on_error`: `block` (default) and `allow` give a verdict with `on_error_applied`, `raise` raises
        DeadlineExceeded, Unavailable, Overloaded or IndeterminateVerdict. Under a named policy the server's
        `on_error` decides about an indeterminate label, and this Guard's own policy about an answer that does
        not come.
        """
        if policy is None and policy_name is None:
            policy_name = self._policy_name
        if policy is None:
            policy = Policy() if policy_name is not None else self._policy
        values: dict[str, Any] = {
            "prompt": prompt,
            "response": response,
            "images": tuple(images),
            "policy": policy,
            "policy_name": policy_name,
            "mode": mode,
            "think_budget": think_budget,
            "deadline_s": self._deadline_s if deadline_s is None else deadline_s,
            "priority": priority,
            "tenant": tenant,
        }
        if request_id is not None:
            values["request_id"] = request_id
        return self.check_request(GuardRequest.create(**values))

    def check_request(self, request: GuardRequest) -> Verdict:
        """Judge a ready request; raises what `check` raises."""
        try:
            verdict = self._judge(request)
        except GuardError as error:
            if isinstance(error, IndeterminateVerdict) and error.verdict is not None:
                raise  # the answer came, and the policy that decided about it says so
            verdict = verdict_on_error(error, self._fallback(request))
        if verdict.on_error_applied:
            self._count(verdict)
        return verdict

    def health(self) -> Health:
        """Whether the server can judge: its own word and two real verdicts. Raises no GuardError."""
        self._refuse_closed()
        readiness = self._transport.readiness(deadline_s=self._deadline_s)
        return examine(readiness, self._judge, deadline_s=self._deadline_s)

    @property
    def on_error_counts(self) -> dict[str, int]:
        """How often `on_error` decided on this Guard, by decision: `{"allow": 2, "block": 1}`."""
        with self._lock:
            return dict(self._counts)

    def _judge(self, request: GuardRequest) -> Verdict:
        """The server's verdict, or the error as it is, before `on_error`."""
        self._refuse_closed()
        reply = self._transport.infer(to_tensors(request), deadline_s=request.deadline_s, request_id=request.request_id)
        return read_reply(reply, request)

    def _fallback(self, request: GuardRequest) -> GuardRequest:
        """The request as it is decided without a server: a policy that lives there can't be asked."""
        if request.policy_name is None:
            return request
        return request.model_copy(update={"policy": self._policy, "policy_name": None})

    def _count(self, verdict: Verdict) -> None:
        with self._lock:
            self._counts[verdict.decision.value] += 1
        logger.warning("request %s: %s (%s)", verdict.record.request_id, verdict.decision.value, verdict.reason)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise RuntimeError("this Guard is closed")


def read_reply(reply: Mapping[str, Array], request: GuardRequest) -> Verdict:
    """The verdict that the VERDICT tensors of a reply hold, held against the request that it answers.

    Raises InternalError for a reply that is malformed or answers something else than was asked, and
    IndeterminateVerdict (with the verdict) where the policy's `on_error` is `raise` and decided. Of a named
    policy the server alone knows `on_error`; the reason of its decision says which it was.
    """
    request_id = request.request_id
    try:
        verdict = verdict_from_tensors(reply)
    except InternalError as error:
        error.request_id = request_id
        raise
    if verdict.record.request_id != request_id:
        raise InternalError("reply: answers another request", field="record", request_id=request_id)
    if (verdict.label.response_safety is None) != (request.response is None):
        raise InternalError("reply: judges other sides than asked", field="label", request_id=request_id)
    named = request.policy_name is not None
    if named and verdict.record.policy_name != request.policy_name:
        raise InternalError("reply: judged under another policy", field="record", request_id=request_id)
    if verdict.on_error_applied:
        if verdict.reason.startswith(f"{ON_ERROR}raise:") if named else request.policy.on_error == "raise":
            raise IndeterminateVerdict(
                f"indeterminate: {verdict.label.indeterminate_reason}", request_id=request_id, verdict=verdict
            )
        # The server may be stricter than the caller's policy (its operator's floor), never laxer.
        if verdict.allowed and not named and request.policy.on_error != "allow":
            raise InternalError("reply: allowed on an error against the policy", field="outcome", request_id=request_id)
    return verdict
