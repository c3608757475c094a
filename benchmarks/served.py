"""Requests through a running guard: several at a time, and none that an answers file already holds.

The guard is a server started here from a bundle, or one that already runs (`--url`). A long run can keep its
replies in a file of JSON lines: interrupted and started again with the same file it asks only what is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rich.progress import track
from tritonguard import Guard, GuardError, GuardRequest, Label
from tritonguard.examples import EXAMPLES

from serving.launch import ServerSettings, TritonServer

DEADLINE_S = 600.0
"""Of every request: long enough for several that think to wait for each other."""

_LOG_EVERY_S = 30.0
T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """id: of its reply in the answers file, unique over all that a command asks."""

    id: str
    request: GuardRequest


@dataclass(frozen=True)
class Reply:
    """label: indeterminate with the error's kind where no server answered (`answered` False).

    seconds: from sending to the verdict, waiting behind other requests included. timings_ms: the server's, by
    stage. bundle: revision of the bundle that answered.
    """

    id: str
    label: Label
    answered: bool
    seconds: float
    timings_ms: dict[str, float] = field(default_factory=dict)
    bundle: str | None = None

    def to_json(self) -> str:
        return json.dumps({**vars(self), "label": self.label.model_dump(mode="json")}, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> Reply:
        values: dict[str, Any] = json.loads(line)
        return cls(**{**values, "label": Label.model_validate(values["label"])})


class Answers:
    """Replies by id, kept in a file where there is one. Thread-safe.

    path: None keeps them in memory only. bundle: revision of the bundle that answers now; what another one
    answered stays in the file and is asked again. Replies that no server gave are never kept.
    """

    def __init__(self, path: Path | None = None, *, bundle: str | None = None) -> None:
        self._path = path
        self._known: dict[str, Reply] = {}
        self._lock = threading.Lock()
        for line in whole_lines(path) if path is not None else ():
            reply = Reply.from_json(line)
            if reply.bundle == bundle:
                self._known[reply.id] = reply

    def get(self, id: str) -> Reply | None:
        return self._known.get(id)

    def add(self, reply: Reply) -> None:
        if not reply.answered:
            return
        with self._lock:
            self._known[reply.id] = reply
            if self._path is not None:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(reply.to_json() + "\n")


def whole_lines(path: Path) -> list[str]:
    """The lines of an answers file, none where there is no file. A last one that was cut is taken out of it."""
    if not path.exists():
        return []
    whole, newline, cut = path.read_text(encoding="utf-8").rpartition("\n")
    if cut:
        # The run before was ended in the middle of a line.
        path.write_text(whole + newline, encoding="utf-8")
    # Not splitlines: a reasoning may hold other line ends, which JSON leaves as they are.
    return [line for line in whole.split("\n") if line]


def ask(guard: Guard, question: Question) -> Reply:
    """One reply; an error is one too, so that a row that fails doesn't end a run of hours."""
    request = question.request
    began = time.monotonic()
    try:
        verdict = guard.check_request(request)
    except GuardError as error:
        label = Label.indeterminate(error.kind, has_response=request.response is not None)
        return Reply(question.id, label, False, time.monotonic() - began)
    record = verdict.record
    # Only a server knows its model: a verdict that `on_error` stood in for has none.
    answered = record.model_revision is not None
    seconds = time.monotonic() - began
    return Reply(question.id, verdict.label, answered, seconds, dict(record.timings_ms), record.bundle_revision)


def ask_all(
    guard: Guard, questions: Sequence[Question], *, concurrency: int, title: str, answers: Answers | None = None
) -> list[Reply]:
    """A reply for each question, in order. What `answers` holds is not asked again; what is new is added."""
    kept = answers or Answers()

    def asked(question: Question) -> Reply:
        reply = ask(guard, question)
        # In this thread, so that an interrupt loses nothing that a server has answered.
        kept.add(reply)
        return reply

    replies = {question.id: known for question in questions if (known := kept.get(question.id)) is not None}
    left = [question for question in questions if question.id not in replies]
    if len(left) < len(questions):
        print(f"{title}: {len(replies)} of {len(questions)} are already answered", file=sys.stderr)
    pool = ThreadPoolExecutor(concurrency)
    try:
        futures = [pool.submit(asked, question) for question in left]
        for future in followed(as_completed(futures), total=len(left), title=title):
            reply = future.result()
            replies[reply.id] = reply
    finally:
        # An interrupt must not wait for everything that was not even sent.
        pool.shutdown(cancel_futures=True)
    return [replies[question.id] for question in questions]


def followed(items: Iterable[T], *, total: int, title: str) -> Iterator[T]:
    """Yield `items` under a bar with rate and ETA; in a log, a line every half a minute."""
    if sys.stderr.isatty():
        yield from track(items, total=total, description=title)
        return
    began = said = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - said >= _LOG_EVERY_S or count == total:
            said = now
            rate = count / max(now - began, 1e-9)
            left = (total - count) / rate / 60
            print(f"{title}: {count} of {total}, {rate:.2f}/s, {left:.0f} minutes left", file=sys.stderr, flush=True)


@contextmanager
def connected(url: str | None, bundle: Path) -> Iterator[Guard]:
    """A client of the server at `url` (host:port); None: of one that serves `bundle` meanwhile."""
    with ExitStack() as stack:
        if url is None:
            settings = ServerSettings(bundle)
            url = stack.enter_context(TritonServer(settings)).endpoints.grpc
        yield stack.enter_context(Guard(url, deadline_s=DEADLINE_S))


def bundle_revision(guard: Guard) -> str | None:
    """Of the bundle that answers. Raises RuntimeError when none does."""
    reply = ask(guard, Question("bundle", GuardRequest(prompt=EXAMPLES[0].prompt, deadline_s=DEADLINE_S)))
    if not reply.answered:
        raise RuntimeError(f"the server does not answer: {reply.label.indeterminate_reason}")
    return reply.bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command that scores the served guard takes."""
    parser.add_argument("--pool", type=Path, required=True, help="folder of labelled JSONL files")
    parser.add_argument("--adapter", type=Path, default=Path("adapters/embedded"), help="its split is used")
    parser.add_argument("--bundle", type=Path, default=Path("build/bundle"), help="served for the measurement")
    parser.add_argument("--url", help="host:port of a server that already runs, instead of serving --bundle")
    parser.add_argument("--limit", type=int, help="random rows of each set (default: all)")
    parser.add_argument("--concurrency", type=int, default=8, help="requests at a time (%(default)s)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
