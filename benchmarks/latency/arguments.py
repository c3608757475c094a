"""The command line of `python -m benchmarks.latency`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from build_scripts.calibration import SHIPPED

DEFAULT_CONCURRENCIES = (1, 8)
"""Where no load is named."""


def rates(text: str) -> tuple[float, ...]:
    values = tuple(float(part) for part in text.split(","))
    if not all(0 < value < float("inf") for value in values):
        raise ValueError
    return values


def callers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(","))
    if min(numbers) < 1:
        raise ValueError
    return numbers


def above_zero(text: str) -> float:
    (value,) = rates(text)
    return value


def from_zero(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError
    return value


def share(text: str) -> float:
    value = above_zero(text)
    if value > 1:
        raise ValueError
    return value


def count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    served = parser.add_mutually_exclusive_group()
    served.add_argument("--url", action="append", metavar="HOST:PORT", help="a gRPC endpoint; again for more of them")
    served.add_argument(
        "--bundle", type=Path, default=Path("build/bundle"), help="served for the run where no --url is given"
    )
    asked = parser.add_argument_group("what is asked")
    asked.add_argument("--workload", default="verdicts", help="a YAML file, or the name of a shipped one (%(default)s)")
    asked.add_argument("--prompts", type=Path, default=SHIPPED, metavar="JSONL", help="texts (the calibration prompts)")
    asked.add_argument("--tokenizer", type=Path, metavar="BUNDLE", help="measures lengths in tokens, with --url")
    asked.add_argument("--seed", type=int, help="in the place of the workload's own")
    load = parser.add_argument_group("how much of it")
    load.add_argument("--rates", type=rates, default=(), metavar="R,R", help="open loop: requests a second")
    load.add_argument("--concurrencies", type=callers, default=(), metavar="N,N", help="closed loop (1,8)")
    load.add_argument("--seconds", type=above_zero, default=20.0, help="counted under each load (%(default)s)")
    load.add_argument("--settle", type=from_zero, default=3.0, metavar="S", help="before, not counted (%(default)s)")
    load.add_argument("--warm-up", type=count, default=32, metavar="N", help="requests before all (%(default)s)")
    judged = parser.add_argument_group("what it is held against")
    judged.add_argument("--slo-ms", type=above_zero, default=1000.0, help="a verdict is good until then (%(default)s)")
    judged.add_argument("--find-limit", action="store_true", help="search the highest rate that holds --slo-ms")
    judged.add_argument("--limit-share", type=share, default=0.99, help="of requests that must (%(default)s)")
    judged.add_argument("--reference", type=Path, metavar="JSON", help="latency.json of an earlier run")
    shown = parser.add_argument_group("what is left behind")
    shown.add_argument("--out", type=Path, metavar="FOLDER", help="for JSON, Markdown and plots")
    shown.add_argument("--server", metavar="TEXT", help="the server's machine, in words, for the report")
    shown.add_argument("--log", type=Path, default=Path(os.devnull), help="of a server that --bundle starts (none)")
    secured = parser.add_argument_group("TLS, with --url")
    secured.add_argument("--tls", action="store_true", help="so does each of the next four")
    secured.add_argument("--tls-ca", type=Path, metavar="F", help="authorities that may vouch for the server, in PEM")
    secured.add_argument("--tls-cert", type=Path, metavar="F", help="the client's own certificate, in PEM")
    secured.add_argument("--tls-key", type=Path, metavar="F", help="its key")
    secured.add_argument("--tls-server-name", metavar="NAME", help="the name in the server's certificate")
    return parser
