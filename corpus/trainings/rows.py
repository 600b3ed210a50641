"""How a row of a table becomes a case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from corpus import CORPUS, CaseFunction, Entry, register
from corpus.trainings.fit import fit
from surefoot.findings import Cause, Pathology


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one part of the corpus.

    fast: the few that the ordinary tests run; each takes less than half a second and no other
    package. seen: of every three twins so many, drawn by their names' checksums, belong with all
    their faults to the part to tune on.
    """

    part: str
    fast: tuple[str, ...] = ()
    seen: int = 0

    def part_of(self, twin: str) -> str:
        """The part to which a healthy row and its faults belong."""
        return "tune" if crc32(twin.encode()) % 3 < self.seen else self.part

    def sound(self, name: str, run: CaseFunction = fit, *, needs: str = "", **base: Any) -> None:
        """A healthy training; needs: the package without which it cannot run."""
        fast = name in self.fast
        register(Entry(name, run, base=base, fast=fast, part=self.part_of(name), needs=needs))

    def broken(
        self,
        name: str,
        pathology: str,
        cause: str,
        layers: str | tuple[str, ...] | None,
        change: Mapping[str, Any],
        **base: Any,
    ) -> None:
        """A healthy training with one change: `twin/fault`; pathology and cause may be "a|b".

        base: what differs from the healthy row in the twin as well (its optimizer, its length).
        """
        twin = CORPUS[name.partition("/")[0]]
        if twin.part != self.part_of(twin.name):
            raise ValueError(f"expected a twin among the rows of {name}, got one of {twin.part!r}")
        register(
            Entry(
                name,
                twin.run,
                frozenset(Pathology(p) for p in pathology.split("|")),
                frozenset(Cause(c) for c in cause.split("|")),
                layers if isinstance(layers, tuple) else (layers,),
                {**twin.base, **base},
                change,
                name in self.fast,
                twin.part,
                twin.needs,
            )
        )
