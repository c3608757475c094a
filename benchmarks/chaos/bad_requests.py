"""Every kind of bad request is refused as the table says, tells nothing, and the next good one is judged right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.chaos.bad_kinds import KINDS, Kind
from benchmarks.chaos.bad_makers import Maker
from benchmarks.chaos.marks import insides
from benchmarks.chaos.report import Part, say
from benchmarks.chaos.server import Run
from benchmarks.chaos.texts import Known, canary, good, judged, new_id
from benchmarks.chaos.wire import Outcome, Sent

OF_EACH, OF_EACH_SHORT = 20, 2

Send = Callable[[Sent], Outcome]


def problems(kind: Kind, outcome: Outcome, *, mark: str, folders: Iterable[Path] = ()) -> list[str]:
    """What is wrong with the answer to a bad request of that kind; [] for the answer that it must get."""
    if outcome.kind is None:
        return ["answered instead of refused"]
    found = []
    if outcome.kind != kind.error:
        found.append(f"{outcome.kind} ({outcome.code}) instead of {kind.error}")
    if kind.code and outcome.code != kind.code:
        found.append(f"status {outcome.code} instead of {kind.code}")
    found += [f"its text tells {what}" for what in insides(outcome.text, folders)]
    if mark in outcome.text:
        found.append("its text holds text of the request")
    return found


def canary_problems(send: Send, known: Sequence[Known]) -> list[str]:
    """What is wrong with the verdicts on a safe and an unsafe text just now."""
    found = []
    for one in canary(known):
        request_id = new_id()
        word = judged(send(good(one.prompt, request_id=request_id)), one, request_id)
        if word != "right":
            found.append(f"the next good request ({one.label}) was answered {word}")
    return found


def try_kind(send: Send, kind: Kind, maker: Maker, *, count: int, folders: Iterable[Path] = ()) -> list[list[str]]:
    """The problems of each of `count` generated requests of a kind."""
    return [problems(kind, send(kind.make(maker)), mark=maker.mark, folders=folders) for _ in range(count)]


def run_bad_requests(run: Run, send: Send, kinds: Sequence[Kind] = KINDS) -> Part:
    """The part `bad`: `OF_EACH` requests of every kind, each kind followed by two good ones."""
    part, known, marks = Part("bad"), run.judge_at_rest(send), run.marks
    count = OF_EACH_SHORT if run.short else OF_EACH

    def seen(sent: Sent) -> Outcome:
        outcome = send(sent)
        marks.look("error messages", outcome.text)
        return outcome

    for number, kind in enumerate(kinds, start=1):
        # Of each kind's own seed: what one kind draws does not change what the next one sends.
        maker = Maker(run.random(kind.name), marks.mark)
        tried = try_kind(seen, kind, maker, count=count, folders=run.server_folders)
        bad = Counter(problem for found in tried for problem in found)
        refused = sum(not found for found in tried)
        part.counts["refused as the table says"] += refused
        part.counts["not so"] += count - refused
        part.short += [f"{kind.name} ({kind.wrong}): {times} of {count}: {what}" for what, times in bad.items()]
        after = canary_problems(seen, known)
        part.counts["right verdicts after"] += 2 - len(after)
        part.short += [f"{kind.name}: {what}" for what in after]
        say(f"bad {number}/{len(kinds)} {kind.name}: {refused} of {count} as the table says")
    part.counts["kinds"] = len(kinds)
    return part
