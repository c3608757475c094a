"""The result as Markdown, with what a reader needs to take the figures again."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence

from benchmarks.latency.plots import chart
from benchmarks.peers.figures import Figures
from benchmarks.peers.machine import Peaks, Share
from benchmarks.peers.question import PLAIN, TRICK
from benchmarks.peers.roster import OURS
from benchmarks.peers.rounds import PROGRAM, SHORT, Measured, labels, throughput_lines
from benchmarks.peers.sweep import KINDS, Sweep, kind_name
from benchmarks.peers.workloads import P50, PER_S
from benchmarks.report import Bar, markdown

_LEGEND = 4
"""Lines that the plot has colours and room for."""


def workload_tables(found: Sequence[Measured]) -> Iterator[str]:
    for measured in found:
        yield f"### {measured.workload.name}\n\n{workload_table(measured)}"


def workload_table(measured: Measured) -> str:
    """Medians of rounds; the ratios are ours over that row, the middle of the rounds."""
    ours = measured.of_ours()
    rows: list[tuple[object, ...]] = []
    for (name, way), rounds in measured.rounds.items():
        middle = Figures.medians(rounds)
        # Of whole rounds alone: a floor, or one that stopped, has no partner in some.
        pairs = list(zip(ours, rounds, strict=False))
        latency = sorted(mine.p50 / theirs.p50 for mine, theirs in pairs)[len(pairs) // 2]
        rate = sorted(mine.per_s / theirs.per_s for mine, theirs in pairs)[len(pairs) // 2]
        agreement = measured.agreement.get(name) if way == PLAIN else None
        flips = f"{agreement.differing} of {agreement.compared}" if agreement else "-"
        unread = str(agreement.unread) if agreement else "-"
        ratios = ("-", "-") if way == PROGRAM else (f"{latency:.2f}", f"{rate:.2f}")
        figures = (f"{middle.p50:.0f}", f"{middle.p95:.0f}", f"{middle.per_s:.2f}")
        rows.append((f"{name}, {way}", len(rounds), *figures, *ratios, flips, unread))
    rows += [(f"{name}, {way}: failed", "-", "-", "-", "-", "-", "-", "-", "-") for name, way in measured.failed]
    head = ("engine", "rounds", P50, "p95 ms", PER_S, "ours / it: p50", "ours / it: requests/s", "flips", "unread")
    return markdown(head, rows)


def ratio_table(found: Sequence[Measured], among: Container[str] | None = None) -> str:
    """among: the peers that count; None: all."""
    rows: list[tuple[object, ...]] = []
    for measured in found:
        for figure in (P50, PER_S):
            cells: list[str] = []
            for way in (PLAIN, TRICK):
                against = measured.ratio(figure, way, among)
                low, high = against.spread if against else (0.0, 0.0)
                cells.append(f"{against.middle:.2f} ({low:.2f} to {high:.2f}), {against.peer}" if against else "-")
            rows.append((measured.workload.name, figure, *cells))
    return markdown(("workload", "figure", "ours / best peer's plain answer", "ours / best trick"), rows)


def label_sections(found: Sequence[Measured]) -> list[str]:
    """How many labels of each peer are not ours; and where some peer's are others, the ratios to those that keep them:
    a faster answer that is another one is no faster way to the same."""
    of_peers = labels(found)
    rows = [
        (name, f"{one.differing} of {one.compared}", "yes" if one.is_kept else "no") for name, one in of_peers.items()
    ]
    sections = ["## Labels", markdown(("engine", "other labels than ours", "keeps them"), rows)] if rows else []
    kept = [name for name, one in of_peers.items() if one.is_kept]
    if kept and len(kept) < len(of_peers):
        sections += ["## Ratios to the best peer that keeps the labels", ratio_table(found, kept)]
    return sections


def bar_lines(bars: Sequence[Bar]) -> str:
    return "\n".join(f"- {bar}" for bar in bars)


def warnings(found: Sequence[Measured]) -> list[str]:
    """What a reader must know before believing a row."""
    told = []
    for measured in found:
        for name, agreement in measured.agreement.items():
            if agreement.is_suspicious:
                told.append(
                    f"{measured.workload.name}: {name} gives {agreement.differing} of {agreement.compared} questions "
                    f"another label ({agreement.unread} answers can't be read): its prompt or its export is wrong"
                )
        told += [f"{measured.workload.name}: {' '.join(key)}: {why}" for key, why in measured.failed.items()]
    return told


def peaks_table(peaks: Peaks) -> str:
    names = sorted({name for by in peaks.peaks.values() for name in by})
    rows = [
        (way, *(f"{by[name] / 1e9:.0f}" if name in by else "-" for name in names)) for way, by in peaks.peaks.items()
    ]
    return markdown(("GOP/s at the model's shapes", *names), rows)


def shares_table(shares: Sequence[Share], operations: tuple[float, float], per_s: float) -> str:
    rows = [
        (f"{share.linear}; {share.attention}", f"{share.limit_per_s:.2f}", f"{per_s:.2f}", f"{share.reached:.0%}")
        for share in shares
    ]
    told = f"A request has {operations[0] / 1e9:.1f} GOP of linear layers and {operations[1] / 1e9:.1f} of attention."
    head = ("best peak of: linear; attention", "limit, requests/s", "ours at c=32", "share")
    return f"{told}\n\n{markdown(head, rows)}"


def sweep_tables(sweeps: Mapping[str, Sweep]) -> Iterator[str]:
    for name, sweep in sweeps.items():
        kinds = [kind_name(kind) for kind in KINDS]
        rows: list[tuple[object, ...]] = []
        for tried in sweep.tried:
            setting = ", ".join(f"{key} {value}" for key, value in tried.setting.items() if value is not None)
            cells = [f"{tried.rates[kind]:.2f}" if kind in tried.rates else "failed" for kind in kinds]
            best = [kind_name(kind) for kind, chosen in sweep.best.items() if chosen == tried.setting]
            rows.append((setting, *cells, "; ".join(best) or "-"))
        yield f"### {name}\n\n{markdown(('setting', *(f'{kind}, /s' for kind in kinds), 'best for'), rows)}"


def plot(found: Sequence[Measured]) -> str | None:
    """SVG: text verdicts a second over concurrency, of ours and the best lines of the peers; None: of too few loads."""
    lines = throughput_lines(found)
    if len(lines) < 2:
        return None
    best = sorted(lines, key=lambda name: (name != SHORT[OURS, PROGRAM], -max(per_s for _, per_s in lines[name])))
    return chart({name: sorted(lines[name]) for name in best[:_LEGEND]}, x="concurrency", y="text verdicts/s")
