"""Draw docs/rooms.svg, the picture of the rooms, from the import graph and from the order in pyproject.toml.

With ``--check``, write nothing, and fail if the picture is out of date.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import grimp

TOP = Path(__file__).parents[1]
PICTURE = TOP / "docs" / "rooms.svg"
PACKAGE = "pytest_xhyve"

WIDTH = 880
BOX = (236, 52)
GAP = 46
MARGIN = 14
RADIUS = 6
# Between two arrows side by side, and between an arrow and a box that it passes.
LANE = 14

STYLE = """text { font: 15px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2328; text-anchor: middle }
.name { font-weight: 600 }
.small { font-size: 12px; fill: #57606a }
rect { fill: #ddf4ff; stroke: #0969da; stroke-width: 1.5 }
.arrow { fill: none; stroke: #57606a; stroke-width: 1.5; marker-end: url(#tip) }
#tip path { fill: #57606a }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .small { fill: #9ea7b3 }
  rect { fill: #12314d; stroke: #539bf5 }
  .arrow { stroke: #9ea7b3 }
  #tip path { fill: #9ea7b3 }
}"""


class Graph(NamedTuple):
    """Which rooms a room imports from, and which packages of others."""

    rooms: dict[str, set[str]]
    packages: dict[str, set[str]]


class Room(NamedTuple):
    """A room's place in the picture: the row, and the middle of its top edge."""

    row: int
    x: int
    y: int


Point = tuple[float, float]


def read_rows() -> list[list[str]]:
    """The rooms from top to bottom; those of one row do not import each other."""
    contracts = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["id"] == "rooms")
    return [[room.strip() for room in layer.split("|")] for layer in layers]


def read_graph() -> Graph:
    """Read the imports of all modules; those for type checkers count between rooms, and not for packages."""
    rooms: dict[str, set[str]] = {}
    packages: dict[str, set[str]] = {}
    for only_run in (False, True):
        found = grimp.build_graph(
            PACKAGE, include_external_packages=True, exclude_type_checking_imports=only_run, cache_dir=None
        )
        for module in sorted(name for name in found.modules if name.startswith(f"{PACKAGE}.")):
            room = module.split(".")[1]
            for imported in found.find_modules_directly_imported_by(module):
                top, *below = imported.split(".")
                if top == PACKAGE and below and below[0] != room:
                    rooms.setdefault(room, set()).add(below[0])
                elif only_run and top != PACKAGE and top not in sys.stdlib_module_names:
                    packages.setdefault(room, set()).add(top.removeprefix("_"))
    return Graph(rooms, packages)


def shortest(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The imports that do not follow from others: an arrow is left out where a longer way goes the same direction."""

    def reached(rooms: Iterable[str]) -> set[str]:
        found: set[str] = set()
        waiting = list(rooms)
        while waiting:
            room = waiting.pop()
            if room not in found:
                found.add(room)
                waiting += graph.get(room, ())
        return found

    return [
        (room, imported)
        for room, all_imported in sorted(graph.items())
        for imported in sorted(all_imported)
        if imported not in reached(all_imported - {imported})
    ]


def place(rows: list[list[str]]) -> dict[str, Room]:
    """Lay the rooms out, a row below the other."""
    places = {}
    for row, rooms in enumerate(rows):
        for number, room in enumerate(rooms):
            # Two stand at the left and the right edge, so that arrows pass between them.
            steps = max(len(rooms) - 1, 1)
            x = WIDTH // 2 + (2 * number - len(rooms) + 1) * (WIDTH // 2 - MARGIN - BOX[0] // 2) // steps
            places[room] = Room(row, x, MARGIN + row * (BOX[1] + GAP))
    return places


def spread(rooms: list[str], x: int, apart: int) -> Iterator[float]:
    """Where the arrows leave or enter a box: side by side around its middle."""
    step = min(apart, (BOX[0] - 2 * LANE) / max(len(rooms) - 1, 1))
    for number in range(len(rooms)):
        yield x + (number - (len(rooms) - 1) / 2) * step


def find_lane(places: dict[str, Room], above: Room, below: Room, start: float, end: float, taken: set[float]) -> float:
    """A vertical way past all rooms between the two, near both ends."""
    walls = [room.x for room in places.values() if above.row < room.row < below.row]

    def is_free(x: float) -> bool:
        return all(abs(x - wall) >= BOX[0] / 2 + LANE for wall in walls) and all(
            abs(x - lane) >= LANE for lane in taken
        )

    candidates = [start, end, *range(MARGIN, WIDTH - MARGIN + 1, LANE // 2)]
    free = [float(x) for x in candidates if is_free(x)]
    return min(free, key=lambda x: (abs(x - start) + abs(x - end), x))


def route(places: dict[str, Room], arrows: list[tuple[str, str]]) -> Iterator[list[Point]]:
    """The corners of each arrow."""
    leave: dict[tuple[str, str], float] = {}
    enter: dict[tuple[str, str], float] = {}
    for room, where in places.items():
        out = sorted((below for above, below in arrows if above == room), key=lambda other: (places[other].x, other))
        leave.update(zip(((room, below) for below in out), spread(out, where.x, 2 * LANE), strict=True))
        into = sorted((above for above, below in arrows if below == room), key=lambda other: (places[other].x, other))
        enter.update(zip(((above, room) for above in into), spread(into, where.x, 3 * LANE), strict=True))
    lanes: set[float] = set()
    turns: dict[int, int] = {}
    for arrow in sorted(arrows, key=lambda arrow: (places[arrow[1]].row - places[arrow[0]].row, arrow)):
        above, below = places[arrow[0]], places[arrow[1]]
        start, end = leave[arrow], enter[arrow]
        if abs(start - end) < LANE:
            end = start
        points: list[Point] = [(start, above.y + BOX[1])]
        if below.row - above.row > 1:
            lane = find_lane(places, above, below, start, end, lanes)
            lanes.add(lane)
            levels = [(above.row, lane), (below.row - 1, end)]
        else:
            levels = [(above.row, end)]
        for row, x in levels:
            if x != points[-1][0]:
                turn = turns[row] = turns.get(row, 0) + 1
                y = (row + 1) * (BOX[1] + GAP) + MARGIN - GAP + 6 + (turn * 8) % (GAP - 14)
                points += [(points[-1][0], y), (x, y)]
        yield [*points, (end, below.y - 2)]


def draw_path(points: list[Point]) -> str:
    """An SVG path with round corners."""
    parts = [f"M{points[0][0]:g} {points[0][1]:g}"]
    for (before, corner), (_, after) in pairwise(pairwise(points)):
        size = min(
            RADIUS, *(max(abs(a[0] - b[0]), abs(a[1] - b[1])) / 2 for a, b in ((before, corner), (corner, after)))
        )
        near, far = (_towards(corner, other, size) for other in (before, after))
        parts.append(f"L{near[0]:g} {near[1]:g}Q{corner[0]:g} {corner[1]:g} {far[0]:g} {far[1]:g}")
    return "".join([*parts, f"L{points[-1][0]:g} {points[-1][1]:g}"])


def _towards(corner: Point, other: Point, size: float) -> Point:
    x, y = (((b > a) - (b < a)) * size for a, b in zip(corner, other, strict=True))
    return corner[0] + x, corner[1] + y


def draw() -> str:
    """The whole picture."""
    rows, graph = read_rows(), read_graph()
    places = place(rows)
    arrows = shortest(graph.rooms)
    height = 2 * MARGIN + len(rows) * (BOX[1] + GAP) - GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="t d">',
        '<title id="t">The rooms of pytest-xhyve</title>',
        f'<desc id="d">{" ".join(f"{above} imports {below}." for above, below in arrows)}</desc>',
        f"<style>\n{STYLE}\n</style>",
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 1 L9 5 L0 9 z"/></marker></defs>',
        *(f'<path class="arrow" d="{draw_path(points)}"/>' for points in route(places, arrows)),
    ]
    for room, where in places.items():
        packages = ", ".join(sorted(graph.packages.get(room, ()), key=str.lower))
        lines += [
            f'<rect x="{where.x - BOX[0] // 2}" y="{where.y}" width="{BOX[0]}" height="{BOX[1]}" rx="6"/>',
            f'<text x="{where.x}" y="{where.y + (23 if packages else 31)}" class="name">{room}</text>',
        ]
        if packages:
            lines.append(f'<text x="{where.x}" y="{where.y + 42}" class="small">{packages}</text>')
    return "\n".join([*lines, "</svg>", ""])


def main() -> int:
    """Write the picture, or check it."""
    picture = draw()
    if sys.argv[1:] == ["--check"]:
        if PICTURE.read_text() != picture:
            print(f"{PICTURE.relative_to(TOP)} is out of date; run: python tools/draw_rooms.py")  # noqa: T201
            return 1
    else:
        PICTURE.write_text(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
