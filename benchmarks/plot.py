"""Draw what many warm guests cost, beside cold ones: time until all have answered, and memory.

Run it as ``python -m benchmarks.plot``; it writes docs/warm-guests.svg.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import many, product
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.build import build_image

_TARGET = Path(__file__).parents[1] / "docs" / "warm-guests.svg"
_COUNTS: Mapping[str, Sequence[int]] = {"warm": (1, 2, 4, 8, 16, 32), "cold": (1, 2, 4, 8)}
_MOST = 32

_WIDTH, _HEIGHT, _GAP = 330, 240, 90
_LEFT, _TOP, _BOTTOM = 64, 46, 58
_STYLE = """\
text { font: 13px sans-serif; fill: #24292f } .title { font-weight: bold }
.axis { stroke: #57606a; fill: none } .grid { stroke: #57606a; opacity: .25 }
.warm { stroke: #cf222e; fill: none } .cold { stroke: #0969da; fill: none } path { stroke-width: 2 }
.warm.dot, text.warm { fill: #cf222e; stroke: none } .cold.dot, text.cold { fill: #0969da; stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .axis, .grid { stroke: #9198a1 }
  .warm { stroke: #ff7b72 } .cold { stroke: #79c0ff }
  .warm.dot, text.warm { fill: #ff7b72 } .cold.dot, text.cold { fill: #79c0ff }
}"""


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart: for each way to start guests, a value for each number of them."""

    title: str
    unit: str
    lines: Mapping[str, Mapping[int, float]]


def main() -> int:
    """Measure and draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__.splitlines()[0])
    parser.add_argument("--accel", default="auto", help="QEMU's acceleration (default: auto)")
    parser.add_argument("--output", type=Path, default=_TARGET, help="the file (default: docs/warm-guests.svg)")
    options = parser.parse_args()
    # So that a benchmark that is ended takes its guests with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    accel = product.find_acceleration(options.accel)
    build_image("tiny", Home.of_user(), print)
    # Makes the template, if there is none.
    many.start("tiny", accel, "warm", 1, at_once=True)
    crowds = {}
    for way, counts in _COUNTS.items():
        crowds[way] = {count: many.start("tiny", accel, way, count, at_once=True) for count in counts}
        for count, crowd in crowds[way].items():
            print(f"{count:2} {way}: {crowd.seconds:6.2f} s, {crowd.memory >> 20:5} MiB")
    seconds = {way: {count: crowd.seconds for count, crowd in found.items()} for way, found in crowds.items()}
    memory = {way: {count: crowd.memory / 2**20 for count, crowd in found.items()} for way, found in crowds.items()}
    charts = (
        Chart("All have answered after", "seconds", seconds),
        Chart("Memory of all hypervisors (PSS)", "MiB", memory),
    )
    options.output.write_text(draw(charts))
    print(options.output)
    return 0


def draw(charts: Sequence[Chart]) -> str:
    """The charts side by side, as SVG; both in light and in dark."""
    width = _LEFT + len(charts) * (_WIDTH + _GAP) - 40
    height = _TOP + _HEIGHT + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'aria-label="What many tiny guests cost, asked for at once: time and memory">',
        f"<style>{_STYLE}</style>",
    ]
    for number, chart in enumerate(charts):
        left = _LEFT + number * (_WIDTH + _GAP)
        parts += [f'<g transform="translate({left} {_TOP})">', *_chart(chart), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _chart(chart: Chart) -> list[str]:
    step = _step(max(value for line in chart.lines.values() for value in line.values()))
    top = step * math.ceil(max(value for line in chart.lines.values() for value in line.values()) / step)

    def x(count: float) -> float:
        return round(_WIDTH * count / _MOST, 1)

    def y(value: float) -> float:
        return round(_HEIGHT * (1 - value / top), 1)

    parts = [f'<text class="title" x="0" y="-18">{chart.title}</text>']
    for line in range(round(top / step) + 1):
        at = y(line * step)
        parts.append(f'<path class="grid" d="M0 {at}H{_WIDTH}"/>')
        parts.append(f'<text x="-8" y="{at + 4}" text-anchor="end">{line * step:g}</text>')
    parts.append(f'<path class="axis" d="M0 0V{_HEIGHT}H{_WIDTH}"/>')
    parts.append(f'<text transform="translate(-48 {_HEIGHT / 2}) rotate(-90)" text-anchor="middle">{chart.unit}</text>')
    counts = (1, 4, 8, 16, 32)
    parts += [f'<text x="{x(count)}" y="{_HEIGHT + 18}" text-anchor="middle">{count}</text>' for count in counts]
    middle = f'x="{_WIDTH / 2}" y="{_HEIGHT + 42}" text-anchor="middle"'
    parts.append(f"<text {middle}>guests of tiny, asked for at once</text>")
    for way, values in chart.lines.items():
        points = [(x(count), y(value)) for count, value in values.items()]
        parts.append(f'<path class="{way}" d="M{" L".join(f"{across} {down}" for across, down in points)}"/>')
        parts += [f'<circle class="{way} dot" cx="{across}" cy="{down}" r="3.5"/>' for across, down in points]
        across, down = points[-1]
        # The last point may be the chart's right edge; its name stays inside.
        anchor = "end" if across == _WIDTH else "middle"
        parts.append(f'<text class="{way}" x="{across}" y="{round(down - 10, 1)}" text-anchor="{anchor}">{way}</text>')
    return parts


def _step(most: float) -> float:
    """A round distance between lines, so that there are four to eight of them."""
    power: float = 10.0 ** math.floor(math.log10(most))
    return next(step for step in (power / 5, power / 2, power, 2 * power) if most / step <= 8)


if __name__ == "__main__":
    sys.exit(main())
