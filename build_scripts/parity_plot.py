"""The margins of B over those of A as a small SVG, written by hand: no plotting library is needed to look at it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from build_scripts.parity_figures import Pair

SIZE, EDGE = 520, 48
KEPT, FLIPPED = "steelblue", "firebrick"
_SPARE = 1.05


def plot(pairs: Sequence[Pair], *, a: str, b: str) -> str:
    """Every comparable choice is a point (m_A, m_B), nats; equal scales, so that equal sides lie on the diagonal.

    The shaded quadrants are the flips: unsafe on one side only. a, b: what the axes are called.
    """
    points = [(both, pair.flipped) for pair in pairs for both in pair.margins]
    reach = _SPARE * max((abs(margin) for both, _ in points for margin in both), default=1.0) or 1.0
    middle, half = SIZE / 2, SIZE / 2 - EDGE

    def at(x: float, y: float) -> tuple[str, str]:
        return f"{middle + half * x / reach:.1f}", f"{middle - half * y / reach:.1f}"

    low, centre, high = f"{EDGE}", f"{middle:.1f}", f"{SIZE - EDGE}"
    square = f'width="{half:.1f}" height="{half:.1f}" fill="mistyrose"'
    # The flipped points last: they are few, and lie on top.
    dots = [
        f'<circle cx="{at(*both)[0]}" cy="{at(*both)[1]}" r="3" fill="{FLIPPED if flipped else KEPT}" '
        'fill-opacity="0.6"/>'
        for both, flipped in sorted(points, key=lambda one: one[1])
    ]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{SIZE}" height="{SIZE}" font-family="sans-serif" '
        'font-size="12"><rect width="100%" height="100%" fill="white"/>',
        f'<rect x="{low}" y="{low}" {square}/><rect x="{centre}" y="{centre}" {square}/>',
        f'<path d="M{low} {centre}H{high}M{centre} {low}V{high}" stroke="black" fill="none"/>',
        f'<path d="M{low} {high}L{high} {low}" stroke="gray" stroke-dasharray="4 4" fill="none"/>',
        *dots,
        f'<text x="{low}" y="{EDGE - 28}">log P(unsafe) - log P(safe) in nats, to {reach:.3g} each way</text>',
        f'<text x="{low}" y="{SIZE - EDGE + 38}">{len(points)} choices, '
        f"{sum(flipped for _, flipped in points)} of them in flipped rows</text>",
        f'<text x="{EDGE + 4}" y="{EDGE + 16}">safe on A, unsafe on B</text>',
        f'<text x="{SIZE - EDGE - 4}" y="{SIZE - EDGE - 8}" text-anchor="end">unsafe on A, safe on B</text>',
        f'<text x="{high}" y="{SIZE - EDGE + 20}" text-anchor="end">A: {escape(a)}</text>',
        f'<text x="{low}" y="{EDGE - 10}">B: {escape(b)}</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"
