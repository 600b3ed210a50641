"""What trials have shown, as frozen data: the contract of `surefoot prove --json`."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from surefoot.findings import Finding, Remedy
from surefoot.trial.effect import Effect

SCHEMA = 1


class Outcome(StrEnum):
    """What became of a remedy."""

    PROVEN = "proven"
    DID_NOT_HELP = "did not help"
    HARMED = "harmed"
    REFUSED = "refused"  # it could not be applied here
    DROPPED = "dropped"  # others did better in a shorter trial
    UNTRIED = "untried"  # the budget was used up, or the trial was broken off


@dataclass(frozen=True, slots=True)
class Curve:
    """The losses of one run: steps [n] and losses [n], infinite where they were not finite."""

    steps: tuple[int, ...] = ()
    losses: tuple[float, ...] = ()

    def to_json(self) -> list[list[Any]]:
        """Pairs of step and loss."""
        rows = zip(self.steps, self.losses, strict=True)
        return [[s, x if math.isfinite(x) else "inf"] for s, x in rows]


@dataclass(frozen=True, slots=True)
class Trial:
    """One remedy tried. steps: of its longest runs; effect: on the final loss; words: in a clause.

    cured: whether the finding was gone in every run with the remedy; gauges: name -> (before,
    after), measured at the first step; curve: of the first pair's run with the remedy.
    """

    remedy: Remedy
    outcome: Outcome
    words: str
    steps: int = 0
    effect: Effect | None = None
    cured: bool | None = None
    gauges: dict[str, tuple[float, float]] = field(default_factory=dict)
    curve: Curve = Curve()

    def to_json(self) -> dict[str, Any]:
        """A plain dict."""
        r = self.remedy
        return {
            "remedy": r.remedy,
            "target": r.target,
            "parameters": r.parameters,
            "why": r.why,
            "code": r.code,
            "outcome": str(self.outcome),
            "words": self.words,
            "steps": self.steps,
            "effect": None if self.effect is None else self.effect.to_json(),
            "cured": self.cured,
            "gauges": {name: list(pair) for name, pair in self.gauges.items()},
            "curve": self.curve.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Proof:
    """The trials on one training. target: what was tried; finding: what was wrong with it, None if
    nothing was; steps: of a full run; seeds: runs of each kind at full length; before: the curve
    without a remedy; patch: the winner as a unified diff against the source, empty where the line
    could not be found; unhelpful: (remedy, why it was not tried); partial: broken off; missing:
    what kept it from a result.
    """

    target: str
    finding: Finding | None = None
    trials: tuple[Trial, ...] = ()
    steps: int = 0
    seeds: int = 0
    seconds: float = 0.0
    before: Curve = Curve()
    patch: str = ""
    unhelpful: tuple[tuple[str, str], ...] = ()
    partial: bool = False
    missing: str = ""
    surefoot: str = ""

    @property
    def winner(self) -> Trial | None:
        """The best proven remedy, None without one."""
        proven = [t for t in self.trials if t.outcome is Outcome.PROVEN]
        # A ratio and a difference, of a loss that is not positive, cannot be compared; losses can.
        kinds = {t.effect.ratio for t in proven if t.effect is not None}
        return min(proven, key=_value if len(kinds) < 2 else _after, default=None)

    @property
    def sentence(self) -> str:
        """The result in a sentence."""
        if self.missing:
            return self.missing
        if self.finding is None and not self.trials:
            return "Nothing is wrong that would need a remedy."
        winner = self.winner
        if winner is not None:
            return f"{_named(winner.remedy)} is proven: {winner.words}."
        tried = dict.fromkeys(t.remedy.remedy for t in self.trials if t.effect is not None)
        if not tried:
            return f"No remedy {'has been' if self.partial else 'could be'} tried here."
        names = ", ".join(tried)
        if self.partial:
            return f"Nothing is proven so far: tried {names}."
        return f"Nothing in the book helps: tried {names}."

    def __str__(self) -> str:
        """The result in a line: what `print(proof)` shows."""
        return self.sentence

    def proven(self, remedy: Remedy) -> Remedy:
        """A prescribed remedy with what was found of it, as a report shows it."""
        for trial in self.trials:
            if _key(trial.remedy) == _key(remedy):
                return replace(remedy, proof=_short(trial))
        return remedy

    def to_json(self) -> dict[str, Any]:
        """The proof as a plain dict that `json.dumps` takes as it is."""
        return {
            "surefoot": self.surefoot,
            "schema": SCHEMA,
            "target": self.target,
            "sentence": self.sentence,
            "finding": None if self.finding is None else self.finding.to_json(),
            "winner": None if self.winner is None else self.winner.remedy.remedy,
            "patch": self.patch,
            "steps": self.steps,
            "seeds": self.seeds,
            "seconds": round(self.seconds, 1),
            "partial": self.partial,
            "missing": self.missing,
            "before": self.before.to_json(),
            "trials": [t.to_json() | {"won": t is self.winner} for t in self.trials],
            "unhelpful": [{"remedy": name, "why": why} for name, why in self.unhelpful],
        }

    def dumps(self) -> str:
        """`to_json` as strict JSON text."""
        return json.dumps(_strict(self.to_json()), indent=1, ensure_ascii=False, allow_nan=False)

    def figure(self) -> Any:
        """Before and after as a Plotly figure: the losses, and the gauges that moved most."""
        from surefoot.views.figures.paired import paired

        curves = {_named(t.remedy): (t.curve.steps, t.curve.losses) for t in self.trials}
        winner = self.winner
        best = _named(winner.remedy) if winner else None
        return paired((self.before.steps, self.before.losses), curves, best)


def _strict(value: Any) -> Any:
    """What JSON can hold: NaN and infinities become words, as in a report."""
    if isinstance(value, dict):
        return {str(k): _strict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    plain = value is None or isinstance(value, (str, int, float))
    return value if plain else str(value)


def _key(remedy: Remedy) -> tuple[Any, ...]:
    return remedy.remedy, remedy.target, dict(remedy.parameters)


def _named(remedy: Remedy) -> str:
    """A remedy with its numbers, by which those of one name differ."""
    numbers = (
        f"{k} {v:.3g}"
        for k, v in remedy.parameters.items()
        if isinstance(v, (int, float)) and not isinstance(v, bool)
    )
    words = ", ".join(numbers)
    return f"{remedy.remedy} ({words})" if words else remedy.remedy


def _value(trial: Trial) -> float:
    return trial.effect.value if trial.effect is not None else math.inf


def _after(trial: Trial) -> float:
    return trial.effect.after if trial.effect is not None else math.inf


def _short(trial: Trial) -> dict[str, Any]:
    proof: dict[str, Any] = {"outcome": str(trial.outcome), "words": trial.words}
    if trial.effect is not None:
        proof |= trial.effect.to_json()
    return proof
