"""The geometry of the plots, without drawing: templates/charts.html draws it as SVG.

Our own few lines instead of a library: those on PyPI either need scripts from elsewhere (Plotly,
Bokeh), or many megabytes and a font (Matplotlib), or inline styles, which the page forbids (Pygal).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from enrollgate.common.units import duration
from enrollgate.database.statistics import Hour, Wait
from enrollgate.web.formats import between

# The viewBox of a plot, in its own units.
WIDTH, HEIGHT = 720, 180
# Room for the labels: on the left, and below.
LEFT, BELOW = 48, 24


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle of a plot, and what it stands for: its title, for people who point at it."""

    kind: str
    title: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Mark:
    """A text of a plot at its place."""

    text: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Columns:
    """A plot of stacked columns over time: bars, texts, and the heights of horizontal lines."""

    bars: list[Bar]
    marks: list[Mark]
    lines: list[float]


@dataclass(frozen=True, slots=True)
class Phase:
    """How long one part of a task's way took: the median, and what 95 % stay below, in seconds."""

    name: str
    median: float
    high: float
    # Of the widest phase's `high`, in percent of the plot's width.
    median_width: float
    high_width: float


def build_columns(hours: Sequence[Hour]) -> Columns:
    """Build the plot of completed and failed runs by hour."""
    top = _round_up(max((each.completed + each.failed for each in hours), default=0))
    height = HEIGHT - BELOW - 8
    step = (WIDTH - LEFT) / max(1, len(hours))
    bars, marks = [], []
    for index, hour in enumerate(hours):
        x, y = LEFT + index * step + 2, float(HEIGHT - BELOW)
        for kind, count in (("completed", hour.completed), ("failed", hour.failed)):
            if count:
                # One failed run among thousands must be seen.
                size = max(2.0, count / top * height)
                y -= size
                title = f"{hour.begin:%H:%M}: {count:,} {kind}"
                bars.append(Bar(kind, title, x, round(y, 2), round(step - 4, 2), round(size, 2)))
        if index % 4 == len(hours) % 4:
            marks.append(Mark(f"{hour.begin:%H:%M}", x, HEIGHT - 6))
    lines = []
    for share in (0.5, 1.0) if top > 1 else (1.0,):
        y = round(HEIGHT - BELOW - share * height, 2)
        lines.append(y)
        marks.append(Mark(f"{top * share:,.0f}", 0, y + 4))
    return Columns(bars, marks, lines)


def build_phases(waits: Sequence[Wait]) -> list[Phase]:
    """Build the plot of what the completed runs waited for. Empty without runs."""
    spans = {
        "enrollment": [between(each.first_seen_at, each.enrolled_seen_at) for each in waits],
        "start of the run": [between(each.enrolled_seen_at, each.launched_at) for each in waits],
        "download and delivery": [between(each.launched_at, each.finished_at) for each in waits],
    }
    found = []
    for name, seconds in spans.items():
        known = sorted(max(0.0, each) for each in seconds if each is not None)
        if known:
            found.append((name, percentile(known, 0.5), percentile(known, 0.95)))
    widest = max((high for _, _, high in found), default=0.0) or 1.0
    return [
        Phase(name, median, high, round(median / widest * 100, 2), round(high / widest * 100, 2))
        for name, median, high in found
    ]


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value that this share of the ordered values does not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def describe_phases(phases: Sequence[Phase]) -> str:
    """Return the plot of waits as a sentence, for people who do not see it."""
    return "; ".join(
        f"{each.name}: median {duration(each.median)}, 95 % below {duration(each.high)}"
        for each in phases
    )


def _round_up(value: int) -> int:
    """Return 1, 2 or 5 times a power of ten that is not below the value: the top of an axis."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power >= value:
                return factor * power
        power *= 10
