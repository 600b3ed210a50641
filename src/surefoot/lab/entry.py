"""An entry of the lab: a claim, what runs to test it, and what came of it."""

from __future__ import annotations

import difflib
import importlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from surefoot.findings import Cause, Finding
from surefoot.lab.entries import ENTRIES

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from surefoot.record.data import RunData
    from surefoot.trial.proof import Proof


class Standing(StrEnum):
    """What the measurement says of a claim."""

    BORNE_OUT = "borne out"
    IN_PART = "true in part"
    NOT_REPRODUCED = "not reproduced"  # a measured value is out of its bounds


class UnknownEntry(ValueError):
    """There is no such entry; says which may have been meant."""


class MissingExtra(ImportError):
    """A library that an entry needs is not installed; says how to get it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measured number beside what a paper or a line of algebra says of it.

    source: where `expected` comes from; tolerance: largest absolute error; bound: "=" for a value,
    "<" or ">" for a claim that names only a side, for which nothing is tolerated.
    """

    name: str
    source: str
    expected: float
    measured: float
    tolerance: float = 0.0
    bound: str = "="

    @property
    def holds(self) -> bool:
        """Whether it is what the source says; a number that is none never is.

        >>> Row("gain", "algebra", 1.0, 1.02, 0.05).holds
        True
        >>> Row("loss", "a bound", 1.0, 1.2, bound="<").holds
        False
        """
        beyond = self.measured - self.expected
        if self.bound == "=":
            return abs(beyond) <= self.tolerance
        return beyond < 0 if self.bound == "<" else beyond > 0


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a run.

    standing, says: what the measurement says of the claim, in a word and in plain sentences; rows:
    the numbers behind it; figure: the one picture of it. failure: what became of the ill training;
    seen: that training, with surefoot's own verdict on it; cure: what helped; proofs: paired trials
    of the remedies. A published result has no illness, and the last four are empty.
    """

    standing: Standing
    says: str
    rows: tuple[Row, ...]
    figure: go.Figure
    failure: str = ""
    seen: RunData | None = None
    cure: str = ""
    proofs: tuple[Proof, ...] = ()
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether every number is what its source says."""
        return all(row.holds for row in self.rows)

    @property
    def finding(self) -> Finding | None:
        """The root of the trouble, as surefoot has found it."""
        return None if self.seen is None else self.seen.report.root

    def to_json(self) -> dict[str, Any]:
        """All but the figure and the course of the training, as a plain dict for strict JSON."""
        rows = [
            {key: _plain(value) for key, value in asdict(row).items()} | {"holds": row.holds}
            for row in self.rows
        ]
        return {
            "standing": str(self.standing),
            "says": self.says,
            "holds": self.holds,
            "rows": rows,
            "failure": self.failure,
            "diagnosis": None if self.seen is None else self.seen.report.to_json(),
            "cure": self.cure,
            "proofs": [json.loads(proof.dumps()) for proof in self.proofs],
            "seconds": round(self.seconds, 2),
        }


@dataclass(frozen=True, slots=True)
class Entry:
    """name: its module's; claim: the sentence that a learner has met; source: who says it; measure:
    runs it from a seed; planted: the causes that surefoot should name, none for a published result;
    needs: libraries that surefoot itself does not.
    """

    name: str
    claim: str
    source: str
    measure: Callable[[int], Result]
    planted: tuple[Cause, ...] = ()
    needs: tuple[str, ...] = field(default=())

    @property
    def title(self) -> str:
        """What it is called in the list."""
        return ENTRIES[self.name].title

    @property
    def family(self) -> str:
        """pathology or published."""
        return ENTRIES[self.name].family

    def run(self, seed: int = 0) -> Result:
        """Run it; the random numbers of the process are left alone.

        A number out of its bounds is said and never hidden: the claim then counts as not
        reproduced. Raises MissingExtra where a library is not there.
        """
        for package in self.needs:
            _need(package)
        import torch

        from surefoot.probes.random_state import undisturbed

        began = time.perf_counter()
        with undisturbed(), torch.enable_grad():
            torch.manual_seed(seed)
            result = self.measure(seed)
        if not result.holds:
            wrong = "; ".join(row.name for row in result.rows if not row.holds)
            says = f"What was expected did not show with seed {seed}: {wrong}. {result.says}"
            result = replace(result, standing=Standing.NOT_REPRODUCED, says=says)
        return replace(result, seconds=time.perf_counter() - began)


def load(name: str) -> Entry:
    """The entry of a name, ready to be run; raises UnknownEntry.

    >>> load("sigmoid_vanishing").family
    'pathology'
    """
    if name not in ENTRIES:
        close = difflib.get_close_matches(name, ENTRIES, n=1)
        meant = f"did you mean {close[0]}?" if close else "surefoot lab lists them"
        raise UnknownEntry(f"there is no entry {name!r}: {meant}")
    return importlib.import_module(f"surefoot.lab.{name}").ENTRY


def _need(package: str) -> None:
    try:
        importlib.import_module(package)
    except ModuleNotFoundError:
        raise MissingExtra(
            f"expected {package}, found none: install what these entries need with "
            "`pip install 'surefoot[lab]'`"
        ) from None


def _plain(value: Any) -> Any:
    """A number that strict JSON can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value
