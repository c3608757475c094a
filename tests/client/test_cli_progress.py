"""What a bulk run says on the way and at its end: counts, rate, remaining time."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from tritonguard.cli_progress import progress_line, watching
from tritonguard.cli_tally import Fate, Tally


def test_two_bundles_in_one_output_are_told() -> None:
    tally = Tally()
    for revision in ("a", "b", "a"):
        tally.add(Fate(decision="allow", revision=revision))
    assert "2 different bundles: a, b" in tally.summary()
    assert tally.to_dict()["bundle_revisions"] == ["a", "b"]


def test_progress_says_rate_remaining_time_and_counts() -> None:
    tally = Tally()
    for number in range(40):
        tally.add(Fate(decision="allow"), kept=number < 20)
    told = progress_line(tally, total=100, elapsed_s=10.0)
    assert told == "40/100 rows, 2.0/s, 0:30 left, allow 40, review 0, block 0, errors 0"
    assert progress_line(tally, total=None, elapsed_s=10.0).startswith("40/? rows, 2.0/s, allow")
    assert "left" not in progress_line(Tally(), total=5, elapsed_s=0.0)
    assert "1:01:01 left" in progress_line(tally, total=40 + 3661, elapsed_s=20.0)


def test_progress_is_a_line_now_and_then_where_nobody_watches() -> None:
    now = 0.0
    tally, screen = Tally(), io.StringIO()
    with watching(tally, total=30, console=Console(file=screen, width=40), every_s=10.0, clock=lambda: now) as tell:
        for _ in range(30):
            now += 1.0
            tally.add(Fate(decision="block"))
            tell()
    told = screen.getvalue().splitlines()
    assert [line.split(" ")[0] for line in told] == ["10/30", "20/30", "30/30"]


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")  # rich draws nothing on TERM=dumb
    tally, screen = Tally(), io.StringIO()
    with watching(tally, total=4, console=Console(file=screen, force_terminal=True, width=120)) as tell:
        for _ in range(4):
            tally.add(Fate(decision="review"))
            tell()
    assert "4/4 rows" in screen.getvalue()
    assert "review 4" in screen.getvalue()
