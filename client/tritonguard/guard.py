"""The client.

    with Guard("127.0.0.1:8001") as guard:
        verdict = guard.check("How do I bake bread?")
        if verdict.blocked:
            ...

What is decided is in `calls`, `retries` and `replies`; here is only how a thread does the steps.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from tritonguard.calls import Calls
from tritonguard.endpoints import endpoint_names
from tritonguard.errors import GuardError, InvalidRequest
from tritonguard.grpc_transport import GrpcTransport
from tritonguard.health import Health
from tritonguard.policy import Policy
from tritonguard.replies import read_reply
from tritonguard.request import DEFAULT_DEADLINE_S, GuardRequest, Mode
from tritonguard.retries import DEFAULT_RETRIES, Retries
from tritonguard.steps import Ask, Result, Send, Step, Steps
from tritonguard.tls import Tls
from tritonguard.transport import Transport
from tritonguard.verdict import Verdict

__all__ = ["DEFAULT_MODEL", "DEFAULT_URL", "Guard", "read_reply"]

DEFAULT_URL = "127.0.0.1:8001"
DEFAULT_MODEL = "guard"
OWN_TRANSPORT = "transport"
"""Name of the endpoint where the caller brings a transport in place of a url."""


class Guard:
    """A connection to guard servers; a context manager, safe to share between threads.

    url: host:port of Triton's gRPC endpoint, or of several that serve the same: each request goes to the one
    with the fewest in flight, and one that fails is set aside for a while.
    deadline_s: seconds per request where a call gives none; connecting and retries are within it.
    model: name of the ensemble. policy: of calls that bring none; None: the built-in one.
    policy_name: a policy on the server, for calls that bring neither a policy nor a name. Beside it, `policy`
    can only say with its `on_error` what happens when no answer comes: what the named policy says of that is
    not known here. Anything more raises InvalidRequest.
    tls: None for a plain connection. retries: of requests that found no server (see `Retries`).
    transport: another way to the server, such as `tritonguard.testing.MockTransport`; `url`, `model` and `tls`
    are then unused.
    """

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        model: str = DEFAULT_MODEL,
        policy: Policy | None = None,
        policy_name: str | None = None,
        tls: Tls | None = None,
        retries: Retries = DEFAULT_RETRIES,
        transport: Transport | None = None,
    ) -> None:
        names = endpoint_names(url) if transport is None else (OWN_TRANSPORT,)
        self._calls = Calls(names, deadline_s=deadline_s, policy=policy, policy_name=policy_name, retries=retries)
        self._transports: list[Transport] = (
            [GrpcTransport(name, model=model, tls=tls) for name in names] if transport is None else [transport]
        )
        self._closed = False

    def __enter__(self) -> Guard:
        self._refuse_closed()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the connections. Closing twice is harmless; using a closed Guard raises RuntimeError."""
        if not self._closed:
            self._closed = True
            for transport in self._transports:
                transport.close()

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
        Raises InvalidRequest and its kinds, Unimplemented and UnsupportedContract: the caller's to mend.
        A failure of the service goes by the policy's `on_error`: `block` (default) and `allow` give a verdict
        with `on_error_applied`, `raise` raises DeadlineExceeded, Unavailable, Overloaded, IndeterminateVerdict,
        InternalError or BundleError. Under a named policy the server's `on_error` decides about an
        indeterminate label, and this Guard's own policy about an answer that does not come.
        """
        request = self._calls.request(
            prompt=prompt,
            response=response,
            images=images,
            policy=policy,
            policy_name=policy_name,
            mode=mode,
            think_budget=think_budget,
            deadline_s=deadline_s,
            priority=priority,
            tenant=tenant,
            request_id=request_id,
        )
        return self.check_request(request)

    def check_request(self, request: GuardRequest) -> Verdict:
        """Judge a ready request; raises what `check` raises."""
        return self._do(self._calls.checked(request))

    def check_many(
        self, requests: Iterable[GuardRequest], *, concurrency: int = 8
    ) -> Generator[Verdict | GuardError, None, None]:
        """The answer to each request, in their order: a verdict, or the error that `check_request` raises.

        concurrency: most requests under way at once; at most twice as many are read ahead of the answer that
        is due. A request's deadline counts from when it is sent. Closing the iterator early sends nothing more
        and waits for what is under way. An exception of `requests` itself is raised after the answers to all
        that came before it. Raises InvalidRequest for a concurrency below 1.
        """
        if concurrency < 1:
            raise InvalidRequest("concurrency: at least 1", field="concurrency")
        self._refuse_closed()
        return self._many(iter(requests), concurrency)

    def health(self) -> Health:
        """Whether a server can judge: its own word and two real verdicts. Raises no GuardError.

        Of several endpoints: the health of the first that is healthy, or of the first one where none is.
        """
        return self._do(self._calls.health())

    def health_of_each(self) -> dict[str, Health]:
        """The health of each endpoint by its host:port (`transport` for a transport of one's own)."""
        return self._do(self._calls.health_of_each())

    @property
    def on_error_counts(self) -> dict[str, int]:
        """How often `on_error` decided on this Guard, by decision: `{"allow": 2, "block": 1}`."""
        return self._calls.counts

    def _do(self, steps: Steps[Result]) -> Result:
        try:
            step = next(steps)
            while True:
                try:
                    answer = self._perform(step)
                except GuardError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            result: Result = end.value
            return result
        finally:
            steps.close()

    def _perform(self, step: Step) -> Any:
        self._refuse_closed()
        if isinstance(step, Send):
            transport = self._transports[step.endpoint]
            return transport.infer(step.tensors, deadline_s=step.deadline_s, request_id=step.request_id)
        if isinstance(step, Ask):
            return self._transports[step.endpoint].readiness(deadline_s=step.deadline_s)
        return time.sleep(step.seconds)

    def _many(self, requests: Iterable[GuardRequest], concurrency: int) -> Generator[Verdict | GuardError, None, None]:
        source, failure, ended = iter(requests), None, False
        due: deque[Future[Verdict | GuardError]] = deque()
        pool = ThreadPoolExecutor(concurrency, thread_name_prefix="tritonguard")
        try:
            while due or not ended:
                if not ended and len(due) < 2 * concurrency:
                    try:
                        due.append(pool.submit(self._answer, next(source)))
                    except StopIteration:
                        ended = True
                    except Exception as error:
                        ended, failure = True, error
                if due and (ended or due[0].done() or len(due) >= 2 * concurrency):
                    yield due.popleft().result()
            if failure is not None:
                raise failure
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _answer(self, request: GuardRequest) -> Verdict | GuardError:
        try:
            return self.check_request(request)
        except GuardError as error:
            return error

    def _refuse_closed(self) -> None:
        if self._closed:
            raise RuntimeError("this Guard is closed")
