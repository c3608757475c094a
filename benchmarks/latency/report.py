"""A result as tables: on the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from benchmarks.latency.figures import IN_SERVER, Latency, Point
from benchmarks.latency.result import Result
from benchmarks.report import markdown

FEW = 100
"""Verdicts below which the 99th percentile is the slowest of them."""

Rows = list[list[str]]
Grid = tuple[list[str], Rows]


def by_load(points: Sequence[Point]) -> Grid:
    """A row for each load."""
    head = ["load", "sent/s", "verdicts/s", "in SLO/s", "in SLO", "p50 ms", "p95 ms", "p99 ms", "max ms"]
    rows = [
        [
            point.load.name,
            _number(point.generator.sent_per_s, 2),
            _number(point.verdicts_per_s, 2),
            _number(point.goodput_per_s, 2),
            f"{point.within_slo:.1%}",
            *_latency(point.latency),
            str(sum(point.errors.values())),
            _of(point.accuracy.right, point.accuracy.labelled),
            _of(point.flips.flipped, point.flips.compared),
        ]
        for point in points
    ]
    return [*head, "errors", "right", "flips"], rows


def notes(point: Point) -> list[str]:
    """What a reader must know before believing the row."""
    told = []
    if point.interrupted:
        told.append("interrupted")
    if point.errors:
        told.append(f"errors: {', '.join(f'{kind} {count}' for kind, count in point.errors.items())}")
    if point.generator.limited:
        late, share = point.generator.late_p99_ms, point.generator.core_share
        told.append(f"the generator was the limit: p99 {late:.0f} ms late, {share:.0%} of a core")
    if point.kept:
        told.append(f"{point.kept} of {point.latency.n} verdicts were kept answers")
    if 0 < point.latency.n < FEW:
        told.append(f"p99 of {point.latency.n} verdicts is the slowest")
    if point.split is None and point.answered and not point.interrupted:
        told.append("the server told no statistics")
    if point.split is not None and point.split.requests != point.answered:
        told.append(f"the server's statistics are of {point.split.requests} answers, {point.answered} came here")
    return told


def by_server(points: Sequence[Point]) -> Grid:
    """Triton's counters: for each model its queue and its backend, then the engine, and the whole way."""
    models = list(dict.fromkeys(stage.model for point in points if point.split for stage in point.split.models))
    head = ["load", *(f"{model} {what}" for model in models for what in ("queue", "compute")), "engine", "in all"]
    rows: Rows = []
    for point in points:
        if point.split is None:
            continue
        own = {stage.model: stage for stage in point.split.models}
        times = [
            time
            for model in models
            for time in ((own[model].queue_ms, own[model].compute_ms) if model in own else (None, None))
        ]
        times += [point.split.engine_ms, point.split.total_ms]
        rows.append([point.load.name, *(_number(time, 1) for time in times)])
    return head, rows


def by_record(points: Sequence[Point]) -> Grid:
    """The phases that the verdicts' own records tell, what of the server's time is in none of them, and what of the
    latency is outside of the server."""
    phases = list(dict.fromkeys(phase for point in points for phase in point.timings_ms if phase != IN_SERVER))
    head = ["load", *phases, "waiting", IN_SERVER, "outside", "prompt tokens", "of them kept"]
    rows: Rows = []
    for point in points:
        timings = point.timings_ms
        if IN_SERVER in timings:
            waiting = max(0.0, timings[IN_SERVER] - sum(timings.get(phase, 0.0) for phase in phases))
            times = [*(timings.get(phase) for phase in phases), waiting, timings[IN_SERVER], point.outside_ms]
            kept = "-" if point.prefix_share is None else f"{point.prefix_share:.0%}"
            rows.append([point.load.name, *(_number(time, 1) for time in times), _number(point.prompt_tokens), kept])
    return head, rows


def by_kind(points: Sequence[Point]) -> Grid:
    """Latency by kind of request, where there are several."""
    rows = [
        [point.load.name, kind, str(own.n), *_latency(own)]
        for point in points
        if len(point.by_kind) > 1
        for kind, own in point.by_kind.items()
    ]
    return ["load", "kind", "n", "p50 ms", "p95 ms", "p99 ms", "max ms"], rows


def told_limit(result: Result) -> str | None:
    """What the search for the highest rate found, in a line; None: there was none."""
    limit = result.limit
    if limit is None:
        return None
    objective = f"{limit.share:.0%} of the requests within {limit.slo_ms:g} ms"
    if limit.per_s is None:
        found = f"no rate held {objective}"
    else:
        found = f"highest rate with {objective}: {limit.per_s:.2f}/s"
    fails = "none failed" if limit.fails_at is None else f"{limit.fails_at:.2f}/s did not hold"
    generator = "; the search ended where the generator was the limit" if limit.generator_limited else ""
    return f"{found} ({fails}, {limit.tries} tries{generator})"


def grids(points: Sequence[Point]) -> dict[str, Grid]:
    """By title; those without a row are left out."""
    every = {
        "Loads": by_load(points),
        "Where the time went, by Triton's statistics (means, ms)": by_server(points),
        "Where the time went, by the verdicts' records (means, ms)": by_record(points),
        "By kind of request": by_kind(points),
    }
    return {title: grid for title, grid in every.items() if grid[1]}


def table(title: str, grid: Grid) -> Table:
    """For the terminal."""
    head, rows = grid
    drawn = Table(title=title, title_justify="left")
    for place, name in enumerate(head):
        drawn.add_column(name, justify="right" if place else "left")
    for row in rows:
        drawn.add_row(*row)
    return drawn


def document(result: Result, plots: Sequence[str] = ()) -> str:
    """Markdown. plots: names of files beside it."""
    origin = result.origin
    revisions = "; ".join(
        f"engine {engine}, {precision}, bundle `{bundle}`, model `{model}`"
        for engine, precision, bundle, model in result.revisions
    )
    facts = {
        "command": f"`{origin.command}`",
        "began": origin.began,
        "server": origin.server,
        "generator": origin.generator,
        "served": revisions or "no verdict came",
        "workload": f"{origin.workload['name']}, seed {origin.seed}, texts `{origin.texts['file']}`",
        "warm-up": f"{origin.warm_up} requests, and one of each policy",
        "SLO": f"{origin.slo_ms:g} ms",
        "flips against": origin.reference,
    }
    parts = [
        "# Latency under load",
        "\n".join(f"- {name}: {value}" for name, value in facts.items()),
        "Latencies are of verdicts alone, in an open loop from the intended time of sending. Errors have none.",
    ]
    for number, (title, grid) in enumerate(grids(result.points).items()):
        parts += [f"## {title}", markdown(*grid)]
        if not number:
            parts += ["\n".join(f"- {line}" for line in all_notes(result))] if all_notes(result) else []
    parts += [f"![{name}]({name})" for name in plots]
    return "\n\n".join(parts) + "\n"


def all_notes(result: Result) -> list[str]:
    """Of every load and of the search, a line each."""
    lines = [f"{point.load.name}: {note}" for point in result.points for note in notes(point)]
    lines += [found] if (found := told_limit(result)) else []
    return lines + (["the run was interrupted: this is what it had"] if result.interrupted else [])


def _latency(latency: Latency) -> list[str]:
    return [_number(value) for value in (latency.p50, latency.p95, latency.p99, latency.max)]


def _number(value: float | None, places: int = 0) -> str:
    return "-" if value is None else f"{value:.{places}f}"


def _of(part: int, whole: int) -> str:
    return f"{part}/{whole}" if whole else "-"
