"""One table of plain text."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.measure import Summary


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; without a summary, a heading."""

    name: str
    summary: Summary | None = None
    note: str = ""


def render(rows: list[Row]) -> str:
    """The lines of the table: seconds as such, and what is below 0.1 s in milliseconds."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'':{width}}  {'median':>9}  {'best':>9}  {'worst':>9}  note"]
    for row in rows:
        if row.summary is None:
            lines += ["", row.name]
            continue
        numbers = (row.summary.median, row.summary.best, row.summary.worst)
        lines.append(f"{row.name:{width}}  " + "  ".join(f"{show(number):>9}" for number in numbers) + f"  {row.note}")
    return "\n".join(line.rstrip() for line in lines)


def show(seconds: float) -> str:
    return f"{seconds:.2f} s" if abs(seconds) >= 0.1 else f"{seconds * 1000:.1f} ms"
