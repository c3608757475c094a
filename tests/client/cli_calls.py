"""One call of the `tritonguard` command against a server in memory, for the tests of the command."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from answers import by_text
from tritonguard import GuardRequest, MockTransport, Verdict
from tritonguard.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command against an in-memory server: its exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*argv: str, handler: Callable[[GuardRequest], Verdict] = by_text, stdin: bytes = b"") -> Any:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main(argv, transport=MockTransport(handler))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def steady(output: bytes) -> list[dict[str, Any]]:
    """The lines of an output without what differs from run to run: request ids and timings."""
    found = lines(output.decode("utf-8"))
    for line in found:
        line.get("record", {}).update(request_id="", timings_ms={})
    return found
