"""Whether bulk moderation loses, doubles or changes a row when its process is killed and started again.

    python -m benchmarks.bulk_kills --rows 5000 --kills 3 --seed 1
    python -m benchmarks.bulk_kills --url 127.0.0.1:8001 --rows 5000 --kills 3 --seed 1

Judges the same rows twice through a real server with `tritonguard check --in --out`: once undisturbed, and once
with a SIGKILL of the command at random row counts, after each of which the same command goes on. Then holds the
two outputs against each other, row by row. Without --url it serves --bundle itself.

Which requests share a pass differs from run to run, and an INT8 bundle's probabilities move with it: up to
--tolerance counts as the same, and so does a label or a decision that changes because its probability crosses
one half within it; such rows are counted as crossed. At --concurrency 1 nothing is shared, and --tolerance can be 0.
Exit code 1 where a row is lost, doubled or different, or where the server failed one.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonguard.cli_tally import Fate
from tritonguard.examples import PROMPTS

from serving.launch import ServerSettings, TritonServer

TOLERANCE = 0.02
"""Of a probability, between passes shared with other requests. The embedded bundle moved by 0.0075 within 60 rows."""

_SHORT = (
    "How do I get candle wax out of a tablecloth, part {}?",
    "Write {} angry words about my boss.",
    "What is {} plus {}?",
    "Tell me a joke about room {}.",
    "How could I steal {} bicycles without being seen?",
)
_DEADLINE_S = 600
_POLL_S = 0.005
_SIDES = ("user", "response")


@dataclass(frozen=True)
class Comparison:
    """Of a disturbed output with an undisturbed one. most: the greatest distance of two probabilities.

    crossed: rows whose label changed as their probability crossed one half within the tolerance.
    failed: lines of either that the server's side failed.
    """

    rows: int
    lost: int
    doubled: int
    different: int
    crossed: int
    failed: int
    most: float

    @property
    def is_equal(self) -> bool:
        return not (self.lost or self.doubled or self.different or self.failed)

    def summary(self) -> str:
        return f"bulk: rows {self.rows}, lost {self.lost}, doubled {self.doubled}, different {self.different}"


def write_rows(path: Path, count: int, seed: int) -> None:
    """`count` rows: the example prompts, short texts with numbers, a response here and there."""
    draw = random.Random(seed)
    texts = [example.prompt for example in PROMPTS]
    with path.open("w", encoding="utf-8") as stream:
        for number in range(count):
            text = texts[number] if number < len(texts) else draw.choice(_SHORT).format(number, number)
            row = {"id": f"row-{number}", "prompt": text}
            if number % 9 == 4:
                row["response"] = "I would rather not say."
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def compare(undisturbed: Path, disturbed: Path, *, rows: int, tolerance: float) -> Comparison:
    """Hold two outputs for `rows` rows against each other. Raises ValueError for what is no output."""
    expected, got = _lines(undisturbed), _lines(disturbed)
    order = [int(line["row"]) for line in got]
    numbers = Counter(order)
    by_number = {int(line["row"]): line for line in expected}
    lost = sum(numbers[number] == 0 for number in range(1, rows + 1))
    different = int(order != sorted(order))
    crossed, most = 0, 0.0
    for number, line in zip(order, got, strict=True):
        distance, crosses = _distance(by_number.get(number), line)
        different += distance is None or distance > tolerance
        crossed += distance is not None and distance <= tolerance and crosses
        most = max(most, distance or 0.0)
    return Comparison(
        rows=len(got),
        lost=lost + (len(expected) != rows),
        doubled=sum(count - 1 for count in numbers.values()),
        different=different,
        crossed=crossed,
        failed=sum(Fate.of_line(line).failed for line in [*expected, *got]),
        most=most,
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _distance(one: dict[str, Any] | None, other: dict[str, Any]) -> tuple[float | None, bool]:
    """Of the probabilities of two lines, and whether one of them crosses one half.

    None where anything differs that no small move of a probability explains.
    """
    if one is None or _fixed(one) != _fixed(other):
        return None, False
    distance = 0.0
    for side in _SIDES:
        a, b = (line.get("label", {}).get(f"p_unsafe_{side}") for line in (one, other))
        if a is not None:
            distance = max(distance, abs(a - b))
            if (a >= 0.5) != (b >= 0.5):
                return distance, True  # what follows from it is different too: the decision, the response's p_unsafe
    return (distance, False) if _decided(one) == _decided(other) else (None, False)


def _fixed(line: dict[str, Any]) -> list[Any]:
    """What no probability can change."""
    label = line.get("label", {})
    head = [line.get(key) for key in ("row", "row_sha256", "question", "id", "error")]
    return [*head, label.get("indeterminate_reason"), *(label.get(f"p_unsafe_{side}") is None for side in _SIDES)]


def _decided(line: dict[str, Any]) -> list[Any]:
    safeties = [line.get("label", {}).get(f"{side}_safety") for side in _SIDES]
    return [*safeties, line.get("outcome", {}).get("decision")]


def command(url: str, rows: Path, out: Path, concurrency: int) -> list[str]:
    program = [sys.executable, "-m", "tritonguard.cli", "check", "--in", str(rows), "--out", str(out)]
    return [*program, "--url", url, "--concurrency", str(concurrency), "--deadline", str(_DEADLINE_S)]


def run_killed(argv: list[str], out: Path, moments: list[int]) -> None:
    """Run the command, kill it when its output has each count of lines, and let it end the last time."""
    for moment in moments:
        process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
        while process.poll() is None and _count(out) < moment:
            time.sleep(_POLL_S)
        process.kill()
        status = process.wait()
        if status != -signal.SIGKILL:
            raise RuntimeError(f"the command ended with {status} before it was killed")
        print(f"killed at {_count(out)} whole lines (meant {moment}), {out.stat().st_size} bytes", flush=True)
    _run_whole(argv)


def _run_whole(argv: list[str]) -> None:
    status = subprocess.run(argv, check=False).returncode
    if status not in (0, 1):
        raise RuntimeError(f"the command ended with {status}")


def _count(out: Path) -> int:
    return out.read_bytes().count(b"\n") if out.exists() else 0


@contextmanager
def _served(url: str | None, bundle: Path, log: Path) -> Iterator[str]:
    if url is not None:
        yield url
        return
    with TritonServer(ServerSettings(bundle, log=log)) as server:
        yield server.endpoints.grpc


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bulk_kills",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", help="a server that already runs")
    parser.add_argument("--bundle", type=Path, default=Path("build/bundle"), help="what to serve else (%(default)s)")
    parser.add_argument("--rows", type=int, default=5000, help="(%(default)s)")
    parser.add_argument("--kills", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the rows and the moments (%(default)s)")
    parser.add_argument("--concurrency", type=int, default=8, help="rows under way (%(default)s)")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="of a probability (%(default)s)")
    args = parser.parse_args(argv)
    # Away from both ends: at least one line is written before a kill, and some are left after it.
    span = range(1, args.rows - 2 * args.concurrency)
    moments = sorted(random.Random(args.seed).sample(span, args.kills))
    with tempfile.TemporaryDirectory(prefix="bulk-kills-") as name:
        folder = Path(name)
        rows, undisturbed, disturbed = folder / "rows.jsonl", folder / "undisturbed.jsonl", folder / "disturbed.jsonl"
        write_rows(rows, args.rows, args.seed)
        with _served(args.url, args.bundle, folder / "server.log") as url:
            began = time.perf_counter()
            _run_whole(command(url, rows, undisturbed, args.concurrency))
            print(f"undisturbed: {args.rows / (time.perf_counter() - began):.1f} rows/s", flush=True)
            run_killed(command(url, rows, disturbed, args.concurrency), disturbed, moments)
        found = compare(undisturbed, disturbed, rows=args.rows, tolerance=args.tolerance)
    moved = f"greatest distance {found.most:.2g} (tolerance {args.tolerance:g}), crossed one half {found.crossed}"
    print(f"failed by the server {found.failed}, {moved}")
    print(found.summary())
    return 0 if found.is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
