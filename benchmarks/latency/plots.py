"""Lines over loads as small SVG files, written by hand: no plotting library is needed to look at them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from benchmarks.latency.figures import Point

WIDTH, HEIGHT, LEFT, EDGE = 640, 400, 64, 48
COLOURS = ("steelblue", "darkorange", "firebrick", "seagreen")
_TICKS = 5
_MOST_NAMED = 12
"""Places on the x axis that are named one by one."""

Line = Sequence[tuple[float, float]]


def plots(points: Sequence[Point]) -> dict[str, str]:
    """SVG texts by file name: latency and throughput of each loop that has at least two loads."""
    files = {}
    loops = {
        "open": ([(point.load.rate, point) for point in points if point.load.rate is not None], "offered requests/s"),
        "closed": (
            [(float(point.load.concurrency), point) for point in points if point.load.concurrency is not None],
            "callers",
        ),
    }
    for loop, (placed, x) in loops.items():
        if len({load for load, _ in placed}) < 2:
            continue
        placed = sorted(placed, key=lambda one: one[0])
        latency = {
            name: [(load, value) for load, point in placed if (value := getattr(point.latency, name)) is not None]
            for name in ("p50", "p95", "p99")
        }
        slo = placed[0][1].slo_ms
        throughput = {
            "verdicts/s": [(load, point.verdicts_per_s) for load, point in placed],
            f"within {slo:g} ms": [(load, point.goodput_per_s) for load, point in placed],
        }
        files[f"{loop}-latency.svg"] = chart(latency, x=x, y="ms", logarithmic=True)
        files[f"{loop}-throughput.svg"] = chart(throughput, x=x, y="requests/s")
    return files


def chart(lines: Mapping[str, Line], *, x: str, y: str, logarithmic: bool = False, doubling: bool = False) -> str:
    """Named lines of (x, y) with y >= 0; logarithmic: the y axis, on which values below 0.1 lie at 0.1; doubling: an x
    axis on which each doubling takes the same room, from 1 on."""
    everything = [place for line in lines.values() for place in line]
    most_x = max((place[0] for place in everything), default=1.0) or 1.0
    low, high = _bounds([place[1] for place in everything], logarithmic=logarithmic)

    def across(value: float) -> float:
        share = math.log2(max(value, 1.0)) / (math.log2(max(most_x, 2.0))) if doubling else value / most_x
        return LEFT + (WIDTH - LEFT - EDGE) * share

    def up(value: float) -> float:
        share = (_scale(value, logarithmic) - low) / (high - low)
        return HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * share

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
        'font-size="12"><rect width="100%" height="100%" fill="white"/>',
        f'<path d="M{LEFT} {EDGE}V{HEIGHT - EDGE}H{WIDTH - EDGE}" stroke="black" fill="none"/>',
    ]
    for value in _ticks(low, high, logarithmic):
        parts.append(
            f'<path d="M{LEFT} {up(value):.1f}H{WIDTH - EDGE}" stroke="lightgray"/>'
            f'<text x="{LEFT - 6}" y="{up(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    loads = sorted({place[0] for place in everything})
    for load in loads if len(loads) <= _MOST_NAMED else _ticks(0.0, most_x, False):
        parts.append(f'<text x="{across(load):.1f}" y="{HEIGHT - EDGE + 16}" text-anchor="middle">{load:.4g}</text>')
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        corners = [f"{across(load):.1f} {up(value):.1f}" for load, value in line]
        if corners:
            parts.append(f'<path d="M{"L".join(corners)}" stroke="{colour}" stroke-width="2" fill="none"/>')
        parts += [
            f'<circle cx="{across(load):.1f}" cy="{up(value):.1f}" r="3" fill="{colour}"/>' for load, value in line
        ]
        parts.append(f'<text x="{LEFT + 90 * number}" y="{EDGE - 28}" fill="{colour}">{escape(name)}</text>')
    parts += [
        f'<text x="{WIDTH - EDGE}" y="{HEIGHT - 8}" text-anchor="end">{escape(x)}</text>',
        f'<text x="{LEFT}" y="{EDGE - 8}" text-anchor="end">{escape(y)}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _scale(value: float, logarithmic: bool) -> float:
    return math.log10(max(value, 0.1)) if logarithmic else value


def _bounds(values: Sequence[float], *, logarithmic: bool) -> tuple[float, float]:
    """On the scale; a whole number of decades where it is logarithmic."""
    if not logarithmic:
        return 0.0, max([*values, 0.0]) * 1.05 or 1.0
    scaled = [_scale(value, True) for value in values] or [0.0]
    low = math.floor(min(scaled))
    return low, max(math.ceil(max(scaled)), low + 1)


def _ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    if logarithmic:
        return [10.0**decade for decade in range(round(low), round(high) + 1)]
    raw = high / _TICKS
    step = 10.0 ** math.floor(math.log10(raw))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= raw)
    return [number * step for number in range(int(high / step) + 1)]
