"""Figures of all rounds to one table: medians, ratios to nginx, targets."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import median

from rows import (
    FIRST_TOKEN,
    LARGE_ANSWER,
    LARGE_REQUEST,
    LOADED,
    OPEN_STREAMS,
    PACED,
    UNARY_1,
    UNARY_32,
    UNARY_256,
    Row,
    Run,
)


@dataclass(frozen=True)
class Target:
    """At most `ratio` times nginx's figure, or at most `value`."""

    ratio: float | None = None
    value: float | None = None

    def __str__(self) -> str:
        return f"≤ {self.ratio:g} ×" if self.ratio else f"≤ {self.value:g}"


@dataclass(frozen=True)
class Line:
    figure: str
    nginx: float
    lyss: float
    target: Target | None

    @property
    def ratio(self) -> float | None:
        # Below zero or near it a difference is noise and its ratio says nothing.
        return self.lyss / self.nginx if self.nginx > 0 and self.lyss >= 0 else None

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        if self.target.value is not None:
            return self.lyss <= self.target.value
        return None if self.ratio is None else self.ratio <= self.target.ratio


# Rows whose CPU time is shown, per 1,000 requests or stream chunks.
CPU_TARGETS = {
    UNARY_1: None,
    UNARY_32: Target(ratio=2.0),
    UNARY_256: Target(ratio=2.0),
    LARGE_REQUEST: Target(ratio=1.5),
    LARGE_ANSWER: Target(ratio=1.5),
    PACED: Target(ratio=1.5),
}


class Results:
    """Every run of every round, by server and row."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, str], list[Run]] = defaultdict(list)
        self.idle: dict[str, list[float]] = defaultdict(list)
        self.start: dict[str, list[float]] = defaultdict(list)
        # A session's 10th turn and its 1,000th; see sessions.py.
        self.turns: tuple = ()

    def middle(self, server: str, row: Row, figure) -> float:
        return median(figure(run) for run in self.runs[server, row.id])

    def added(self, server: str, row: Row, of: str, percentile: str) -> float:
        """Median over the rounds of a latency minus the upstream's own in the same round."""
        pairs = zip(self.runs[server, row.id], self.runs["direct", row.id])
        return median(run.load[of][percentile] - base.load[of][percentile] for run, base in pairs)

    def lines(self) -> list[Line]:
        lines = []

        def add(figure: str, value, target: Target | None = None) -> None:
            lines.append(Line(figure, value("nginx"), value("lyss"), target))

        def gap(server: str) -> float:
            return self.middle(server, PACED, lambda run: run.load["gap_us"]["p99"])

        def peak(row: Row):
            return lambda server: self.middle(server, row, lambda run: run.rss_peak_mib)

        for row, target in CPU_TARGETS.items():
            unit = "chunks" if row.stream else "requests"
            add(
                f"CPU ms per 1,000 {unit}: {row.id}",
                lambda server, row=row: self.middle(server, row, lambda run: run.cpu_ms_per_1000(row)),
                target,
            )
        for percentile, ratio in (("p50", 2.0), ("p99", 3.0)):
            add(
                f"added latency {percentile}, µs: {UNARY_1.id}",
                lambda server, p=percentile: self.added(server, UNARY_1, "latency_us", p),
                Target(ratio=ratio),
            )
        add(
            "added time to first token p50, µs",
            lambda server: self.added(server, FIRST_TOKEN, "first_event_us", "p50"),
            Target(ratio=2.0),
        )
        direct = gap("direct")
        add(f"p99 gap of chunks sent every 10 ms, µs (direct: {direct:,.0f})", gap, Target(value=round(1.1 * direct)))
        add("RSS idle, MiB", lambda server: median(self.idle[server]), Target(value=25))
        add(f"RSS peak, MiB: {LOADED.id}", peak(LOADED), Target(value=120))
        add(f"RSS peak, MiB: {OPEN_STREAMS.id}", peak(OPEN_STREAMS), Target(value=80))
        add("start to first 200, ms", lambda server: median(self.start[server]) * 1e3, Target(value=100))
        return lines


def markdown(lines: list[Line]) -> str:
    text = "| figure | nginx | Lyss | Lyss/nginx | target | met |\n| --- | ---: | ---: | ---: | ---: | :---: |\n"
    for line in lines:
        ratio = "–" if line.ratio is None else f"{line.ratio:.2f}"
        met = {None: "–", True: "yes", False: "**no**"}[line.met]
        text += f"| {line.figure} | {number(line.nginx)} | {number(line.lyss)} | {ratio} | {line.target or '–'} | {met} |\n"
    return text


def plain(lines: list[Line]) -> str:
    """The same for a terminal, in columns."""
    rows = [
        [cell.strip().replace("**", "") for cell in row.strip("|").split("|")]
        for row in markdown(lines).splitlines()
        if not row.startswith("| ---")
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths)))
        for row in rows
    )


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"
