"""All that `Guard` and `AsyncGuard` know and decide; they themselves only do the steps."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tritonguard.endpoints import Endpoints
from tritonguard.errors import GuardError, IndeterminateVerdict, InvalidRequest
from tritonguard.health import Health, examined
from tritonguard.policy import Policy
from tritonguard.request import GuardRequest
from tritonguard.retries import Retries, attempts
from tritonguard.steps import Steps
from tritonguard.verdict import Verdict, verdict_on_error

logger = logging.getLogger("tritonguard")
logger.addHandler(logging.NullHandler())


class Calls:
    """Defaults of requests, standing of endpoints, count of what `on_error` decided; safe to share.

    names: of the endpoints. The rest as in `Guard`, whose rule about a policy beside a policy_name is here.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        deadline_s: float,
        policy: Policy | None,
        policy_name: str | None,
        retries: Retries,
    ) -> None:
        if policy and policy_name is not None and policy != Policy(on_error=policy.on_error):
            raise InvalidRequest("policy: beside a policy_name it can only set on_error", field="policy")
        self.names = tuple(names)
        self._deadline_s = deadline_s
        self._policy = policy or Policy()
        self._policy_name = policy_name
        self._retries = retries
        self._endpoints = Endpoints(len(self.names))
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def request(
        self,
        *,
        policy: Policy | None,
        policy_name: str | None,
        deadline_s: float | None,
        request_id: str | None,
        **values: Any,
    ) -> GuardRequest:
        """The request of `check`'s arguments; None leaves the default. Raises InvalidRequest."""
        if policy is None and policy_name is None:
            policy_name = self._policy_name
        if policy is None:
            policy = Policy() if policy_name is not None else self._policy
        if request_id is not None:
            values["request_id"] = request_id
        deadline_s = self._deadline_s if deadline_s is None else deadline_s
        values["images"] = tuple(values["images"])
        return GuardRequest.create(policy=policy, policy_name=policy_name, deadline_s=deadline_s, **values)

    def checked(self, request: GuardRequest) -> Steps[Verdict]:
        """The steps of `check_request`: the server's verdict, or what `on_error` makes of a failure."""
        try:
            verdict = yield from attempts(request, self._endpoints, self._retries)
        except GuardError as error:
            if isinstance(error, IndeterminateVerdict) and error.verdict is not None:
                raise  # the answer came, and the policy that decided about it says so
            verdict = verdict_on_error(error, self._fallback(request))
        if verdict.on_error_applied:
            self._count(verdict)
        return verdict

    def health(self) -> Steps[Health]:
        """The first healthy endpoint's; where none is, the first one's."""
        first: Health | None = None
        for endpoint in range(len(self.names)):
            health = yield from examined(endpoint, deadline_s=self._deadline_s)
            if health.healthy:
                return health
            first = first or health
        assert first is not None  # there is at least one endpoint
        return first

    def health_of_each(self) -> Steps[dict[str, Health]]:
        """By name of the endpoint, one after the other."""
        each = {}
        for endpoint, name in enumerate(self.names):
            each[name] = yield from examined(endpoint, deadline_s=self._deadline_s)
        return each

    @property
    def counts(self) -> dict[str, int]:
        """How often `on_error` decided, by decision."""
        with self._lock:
            return dict(self._counts)

    def _fallback(self, request: GuardRequest) -> GuardRequest:
        """The request as it is decided without a server: a policy that lives there can't be asked."""
        if request.policy_name is None:
            return request
        return request.model_copy(update={"policy": self._policy, "policy_name": None})

    def _count(self, verdict: Verdict) -> None:
        with self._lock:
            self._counts[verdict.decision.value] += 1
        logger.warning("request %s: %s (%s)", verdict.record.request_id, verdict.decision.value, verdict.reason)
