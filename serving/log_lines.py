"""The server's output as log records, one per line.

Triton writes `I1125 21:36:15.659103 2608 server.cc:336] "message"` in UTC, and so do our models through it; what a
library prints can look like anything and is kept as it is. Pure: text in, text out.
"""

from __future__ import annotations

import json
import re
from ast import literal_eval
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

LogFormat = Literal["json", "text"]
MOST_BYTES = 8192
"""Of one line; what is longer is cut there and marked."""

_LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "fatal"}
_UNKNOWN = "unknown"
_GLOG = re.compile(
    r"(?P<level>[IWEF])(?P<month>\d\d)(?P<day>\d\d) (?P<time>\d\d:\d\d:\d\d\.\d{6}) +\d+ (?P<source>[^\s\]]+:\d+)\] ?"
    r"(?P<message>.*)",
    re.DOTALL | re.ASCII,
)
# How the adapter names a request: a Python literal, or the first 128 characters of one.
_OURS = re.compile(
    r"request (?:(?P<literal>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")|['\"](?P<cut>.{127})): (?P<rest>.*)", re.DOTALL
)
_TRITONS = re.compile(r"\[request id: (?P<id>[^\]]+)\] ")
_NO_ID = "<id_unknown>"
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True)
class LogRecord:
    """time: ISO 8601, UTC. level: info, warning, error, fatal, or unknown for a line of another form. source:
    file:line in the server, or who else wrote it. request_id: of the request it is about; None: of none. cut: the
    line was longer. more: further values, for events.
    """

    time: str
    level: str
    source: str
    message: str
    request_id: str | None = None
    cut: bool = False
    more: Mapping[str, str | float | int] = field(default_factory=dict)

    def line(self, form: LogFormat) -> str:
        """The record on one line of printable text, without a line end."""
        if form == "text":
            more = "".join(f" {name}={value}" for name, value in self.more.items())
            return printable(f"{self.time} {self.level} {self.source}] {self.message}{more}")
        values: dict[str, object] = {
            "time": self.time,
            "level": self.level,
            "source": self.source,
            "message": self.message,
        }
        if self.request_id is not None:
            values["request_id"] = self.request_id
        if self.cut:
            values["cut"] = True
        return json.dumps({**values, **{name: value for name, value in self.more.items() if name not in values}})


def read_line(raw: bytes, now: datetime) -> LogRecord:
    """The record that a line of the server's output stands for; raises nothing.

    raw: at most `MOST_BYTES` with its line end; without a line end and as long as that, it counts as cut.
    now: an aware time, for the year that Triton leaves out, and for lines without a time.
    """
    text, cut = _text(raw)
    parts = _GLOG.fullmatch(text)
    time = _time(parts, now) if parts else None
    if parts is None or time is None:
        return LogRecord(_iso(now), _UNKNOWN, "output", text, _request_id(text)[0], cut)
    request_id, message = _request_id(_unquoted(parts["message"]))
    return LogRecord(time, _LEVELS[parts["level"]], parts["source"], message, request_id, cut)


def copied_line(raw: bytes) -> str:
    """The line as it is, for `--log-format text`: printable, without a line end, with a mark where it was cut."""
    text, cut = _text(raw)
    return printable(text) + (" [cut]" if cut else "")


def event(kind: str, message: str, now: datetime, *, level: str = "info", **more: str | float | int) -> LogRecord:
    """A record of the launcher's own: what happened to the server."""
    return LogRecord(_iso(now), level, "tritonguard-serve", message, more={"event": kind, **more})


def printable(text: str) -> str:
    """Control characters and line separators escaped; a tab stays."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def _text(raw: bytes) -> tuple[str, bool]:
    whole = raw.endswith(b"\n")
    cut = not whole and len(raw) >= MOST_BYTES
    return raw[:-1].removesuffix(b"\r").decode("utf-8", "replace") if whole else raw.decode("utf-8", "replace"), cut


def _time(parts: re.Match[str], now: datetime) -> str | None:
    now = now.astimezone(UTC)
    candidates = []
    # The year that brings it nearest: a line of New Year's Eve can be read in January.
    for year in (now.year - 1, now.year, now.year + 1):
        try:
            candidates.append(
                datetime.fromisoformat(f"{year:04}-{parts['month']}-{parts['day']}T{parts['time']}+00:00")
            )
        except ValueError:
            continue
    return _iso(min(candidates, key=lambda each: abs(each - now))) if candidates else None


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _unquoted(message: str) -> str:
    # Triton escapes what it logs as a JSON string.
    if message.startswith('"') and message.endswith('"'):
        try:
            value = json.loads(message)
        except ValueError:
            return message
        if isinstance(value, str):
            return value
    return message


def _request_id(message: str) -> tuple[str | None, str]:
    """The id of the request that a message is about, and the message without it."""
    if found := _OURS.match(message):
        if found["literal"] is None:
            return found["cut"], found["rest"]
        try:
            return str(literal_eval(found["literal"])), found["rest"]
        except (ValueError, SyntaxError):
            return None, message
    if (found := _TRITONS.match(message)) and found["id"] != _NO_ID:
        return found["id"], message[found.end() :]
    return None, message
