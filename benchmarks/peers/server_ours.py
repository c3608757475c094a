"""Ours as a caller has it: texts through the client to a Triton with all stages, beside the peers' servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from tritonguard import Guard, GuardError, Label, Retries
from tritonguard.label import Safety
from tritonguard.policy_parts import PolicyPart
from tritonguard.request import GuardRequest

from benchmarks.peers.closed_loop import Run, closed_loop
from benchmarks.peers.pool import Runner
from benchmarks.peers.protocol import PeerError
from benchmarks.peers.question import CHECK, Question
from benchmarks.peers.roster import OURS, Peer, Setting
from benchmarks.peers.texts import Source
from benchmarks.peers.workloads import Questions
from benchmarks.served import bundle_revision
from engines.program import CATEGORIES_HEAD, RESPONSE_HEAD, SEPARATOR, USER_HEAD, Encode
from preprocessing.prompt import PromptBuilder
from serving.errors import LaunchError
from serving.launch import DEFAULT_QUEUE, ServerSettings, TritonServer

DEADLINE_S = 300.0


class ServedQuestions(Questions):
    """The same questions, and the request that each of them is."""

    def __init__(self, builder: PromptBuilder, source: Source, *, seed: int) -> None:
        super().__init__(builder, source, seed=seed)
        self._requests: dict[tuple[tuple[int, ...], str], GuardRequest] = {}

    def request(self, question: Question) -> GuardRequest:
        """Also of one whose number of tokens was changed since it was drawn."""
        return self._requests[question.ids, question.mode]

    def _question(self, request: GuardRequest, part: PolicyPart) -> Question:
        question = super()._question(request, part)
        own = {"policy": part.policy, "deadline_s": DEADLINE_S}
        self._requests[question.ids, question.mode] = request.model_copy(update=own)
        return question


class Servers:
    """A runner of rounds: ours is asked in this process, a peer by the others. A context manager; our server is started
    at its first run and kept."""

    def __init__(
        self,
        others: Runner,
        questions: ServedQuestions,
        encode: Encode,
        *,
        most: int,
        checks: Mapping[str, tuple[Peer, Runner]] | None = None,
    ) -> None:
        """encode: plain text -> token ids. most: requests under way at once. checks: by a peer's name, who else says
        what its weights choose, where its server can't."""
        self._others, self._questions, self._encode, self._most = others, questions, encode, most
        self._checks = checks or {}
        self._resources = ExitStack()
        self._guard: Guard | None = None

    def __enter__(self) -> Servers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    def run(self, peer: Peer, setting: Setting, questions: Sequence[Question], concurrency: int, way: str) -> Run:
        """Raises PeerError."""
        if peer.name != OURS:
            asked, runner = self._checks.get(peer.name, (peer, self._others)) if way == CHECK else (peer, self._others)
            return runner.run(asked, setting, questions, concurrency, way)
        labels: dict[tuple[int, ...], Label] = {}
        try:
            guard = self._started(Path(setting["bundle"]))

            def ask(question: Question) -> Sequence[int]:
                labels[question.ids] = guard.check_request(self._questions.request(question)).label
                return ()

            run = closed_loop(questions, concurrency, ask)
        except (GuardError, LaunchError) as error:
            raise PeerError(str(error)) from error
        # Only now: to write an answer down is not the server's work.
        return Run(run.ms, run.seconds, [self._encode(written(labels[question.ids])) for question in questions])

    def _started(self, bundle: Path) -> Guard:
        if self._guard is None:
            queue = max(self._most, DEFAULT_QUEUE)
            settings = ServerSettings(bundle, queue=queue)
            server = self._resources.enter_context(TritonServer(settings))
            # A second try would hide an error, and its time would be the first one's.
            self._guard = self._resources.enter_context(Guard(server.endpoints.grpc, retries=Retries(attempts=1)))
            bundle_revision(self._guard)
        return self._guard


def written(label: Label) -> str:
    """The answer that a label was read from. Raises PeerError for a side that was not judged."""
    sides = [(USER_HEAD, label.user_safety), (RESPONSE_HEAD, label.response_safety)]
    if any(side is Safety.INDETERMINATE for _, side in sides):
        raise PeerError(f"ours gave no verdict: {label.indeterminate_reason}")
    text = "".join(f"{head} {side.value}" for head, side in sides if side is not None)
    return text + (f"{CATEGORIES_HEAD} {f'{SEPARATOR} '.join(label.categories)}" if label.categories else "")
