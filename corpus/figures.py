"""How often the verdicts are right: shares with their intervals, by part and by fault."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

Z = 1.959963984540054  # the normal quantile at 97.5 %


@dataclass(frozen=True, slots=True)
class Row:
    """One watched run of a case, as plain data.

    fault: the cause that was planted, empty for a healthy case. placed: whether the truth names
    one origin (or that there is none), so that a layer can be wrong. steps: it was judged after so
    many, None for at its end.
    """

    name: str
    part: str
    seed: int
    healthy: bool
    fault: str
    placed: bool
    expected: str
    verdict: str
    rule: str
    pathology: str
    cause: str
    layer: str | None
    severity: str
    others: tuple[str, ...]
    score: float | None
    detected: bool
    right_cause: bool
    right_layer: bool
    right_pathology: bool
    silent: bool
    seconds: float = 0.0
    steps: int | None = None

    @property
    def right(self) -> bool:
        """Nothing in the verdict is wrong."""
        return self.detected and self.right_cause and self.right_layer and self.right_pathology


def wilson(hits: int, runs: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927): it stays within 0 and 1 at the ends too."""
    if runs == 0:
        return 0.0, 1.0
    p, z2 = hits / runs, Z * Z
    middle = (p + z2 / (2 * runs)) / (1 + z2 / runs)
    half = Z / (1 + z2 / runs) * math.sqrt(p * (1 - p) / runs + z2 / (4 * runs * runs))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def share(hits: int, runs: int) -> str:
    """`0.975 [0.93, 0.99] 78/80`."""
    if runs == 0:
        return "-"
    low, high = wilson(hits, runs)
    return f"{hits / runs:.3f} [{low:.3f}, {high:.3f}] {hits}/{runs}"


# What is counted: word, of which rows, which of them count.
COUNTS: tuple[tuple[str, Callable[[Row], bool], Callable[[Row], bool]], ...] = (
    ("detection", lambda r: not r.healthy, lambda r: r.detected),
    ("false alarms", lambda r: r.healthy, lambda r: not r.detected),
    ("pathology", lambda r: not r.healthy, lambda r: r.right_pathology),
    ("cause", lambda r: not r.healthy, lambda r: r.right_cause),
    ("origin", lambda r: not r.healthy and r.placed, lambda r: r.right_layer),
    ("all of these", lambda r: not r.healthy, lambda r: r.right),
    ("healthy without a word", lambda r: r.healthy, lambda r: r.silent),
)


def counted(rows: Sequence[Row], word: str) -> tuple[int, int]:
    """Hits and runs of one of COUNTS."""
    (which, hit), *_ = ((w, h) for name, w, h in COUNTS if name == word)
    chosen = [r for r in rows if which(r)]
    return sum(map(hit, chosen)), len(chosen)


def draw_figures(rows: Sequence[Row], console: Console) -> None:
    """Every share of every part, then the shares of each fault."""
    for part, steps in sorted({(r.part, r.steps or 0) for r in rows}):
        own = [r for r in rows if (r.part, r.steps or 0) == (part, steps)]
        cases = len({r.name for r in own})
        when = f" after {steps} steps" if steps else ""
        title = f"{part}: {cases} cases, {len(own)} runs{when}"
        table = Table("", "share [95 %] of runs", title=title)
        for word, _, _ in COUNTS:
            table.add_row(word, share(*counted(own, word)))
        console.print(table)
        faults = Table("planted cause", "runs", "detected", "pathology", "cause", "origin")
        for fault in sorted({r.fault for r in own if r.fault}):
            of = [r for r in own if r.fault == fault]
            cells = (counted(of, w) for w in ("detection", "pathology", "cause", "origin"))
            faults.add_row(fault, str(len(of)), *(f"{h}/{n}" if n else "-" for h, n in cells))
        console.print(faults)
    console.print(f"seconds: {sum(r.seconds for r in rows):.0f}")
