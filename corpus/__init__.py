"""The corpus by which verdicts are judged during development: trainings whose truth is known.

A healthy case must end without a harmful finding. A faulty case is a healthy recipe with one
change; `python -m corpus --twins` trains both and says whether the change really hurts.
Each belongs to a part: rules may be tuned on one, the other only says how good they are.
No case knows of surefoot. Each returns its final loss as a share of the trivial predictor's (0:
perfect, 1: no better than a constant), measured by the case itself on clean data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from surefoot.findings import Cause, Finding, Pathology, Report, Severity

ANY = "any"
CaseFunction = Callable[..., float | None]


@dataclass(frozen=True, slots=True)
class Entry:
    """One case and its truth.

    run: the training; `base` are its recipe's arguments, `change` the one thing that is wrong.
    pathologies, causes: each of them would be a right answer; empty for a healthy case.
    layers: names any of which is the right origin, "" for the model itself; (None,) where the cause
    has no layer; (ANY,) where every layer is as guilty as the next.
    fast: belongs to the subset that the ordinary tests run.
    part: "tune" may be looked at when a rule is changed, "report" may not.
    needs: the package without which the case cannot run.
    """

    name: str
    run: CaseFunction
    pathologies: frozenset[Pathology] = frozenset()
    causes: frozenset[Cause] = frozenset()
    layers: tuple[str | None, ...] = (ANY,)
    base: Mapping[str, Any] = field(default_factory=dict)
    change: Mapping[str, Any] = field(default_factory=dict)
    fast: bool = False
    part: str = "tune"
    needs: str = ""

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong with this training."""
        return not self.causes

    @property
    def runs(self) -> bool:
        """Whether what it needs is installed."""
        return not self.needs or find_spec(self.needs) is not None

    def train(self, seed: int) -> float | None:
        """Run it; the final loss as a share of the trivial predictor's."""
        return self.run(seed, **{**self.base, **self.change})

    def train_twin(self, seed: int) -> float | None:
        """Run the same training without the change."""
        return self.run(seed, **self.base)


@dataclass(frozen=True, slots=True)
class Mark:
    """How a report compares with the truth; `silent` counts for healthy cases only."""

    detected: bool
    cause: bool
    layer: bool
    pathology: bool
    silent: bool

    @property
    def right(self) -> bool:
        """Everything that was asked of the report is right."""
        return self.detected and self.cause and self.layer and self.pathology


def mark(entry: Entry, report: Report) -> Mark:
    """Compare the root finding with the truth. For a healthy case `detected` means: no alarm."""
    serious = [f for f in report.findings if f.severity is not Severity.ADVICE]
    if entry.healthy:
        calm = not serious
        return Mark(calm, calm, calm, calm, not report.findings)
    root = serious_root(report)
    if root is None:
        return Mark(False, False, False, False, False)
    layer = ANY in entry.layers or root.layer in entry.layers or _whole(entry, root.layer)
    return Mark(True, root.cause in entry.causes, layer, root.pathology in entry.pathologies, False)


def _whole(entry: Entry, layer: str | None) -> bool:
    """Whether the layer is the model itself, called by its class, and the truth names it as ""."""
    return "" in entry.layers and (layer or "").isidentifier() and (layer or "")[0].isupper()


def serious_root(report: Report) -> Finding | None:
    """The root finding, if it is harmful or fatal."""
    root = report.root
    return root if root is not None and root.severity is not Severity.ADVICE else None


CORPUS: dict[str, Entry] = {}


def healthy_case(run: CaseFunction) -> CaseFunction:
    """Register a training with which nothing is wrong, under its function's name."""
    return register(Entry(run.__name__, run)) and run


def fast_healthy_case(run: CaseFunction) -> CaseFunction:
    """Like `healthy_case`, and part of the fast subset."""
    return register(Entry(run.__name__, run, fast=True)) and run


def faulty_case(
    name: str,
    recipe: CaseFunction,
    pathology: str,
    cause: str,
    layer: str | tuple[str, ...] | None,
    change: Mapping[str, Any],
    *,
    fast: bool = False,
    **base: Any,
) -> None:
    """Register a recipe with one change; `pathology` and `cause` may be "a|b"."""
    register(
        Entry(
            name,
            recipe,
            frozenset(Pathology(p) for p in pathology.split("|")),
            frozenset(Cause(c) for c in cause.split("|")),
            layer if isinstance(layer, tuple) else (layer,),
            base,
            change,
            fast,
        )
    )


def register(entry: Entry) -> bool:
    """Add a case; its name must be its own."""
    if entry.name in CORPUS:
        raise ValueError(f"expected a name of its own for each case, got {entry.name!r} twice")
    CORPUS[entry.name] = entry
    return True


def load() -> dict[str, Entry]:
    """The whole corpus by name."""
    from importlib import import_module

    for module in MODULES:
        import_module(f"corpus.{module}")
    return CORPUS


MODULES: tuple[str, ...] = (
    "tune.healthy",
    "tune.healthy_networks",
    "tune.healthy_sequences",
    "tune.healthy_loops",
    "tune.healthy_reinforcement",
    "tune.faulty_depth",
    "tune.faulty_pace",
    "tune.faulty_values",
    "tune.faulty_precision",
    "tune.faulty_shattered",
    "tune.healthy_precision",
    "tune.faulty_optimizer",
    "tune.healthy_optimizer",
    "tune.faulty_saturated",
    "tune.healthy_saturated",
    "tune.faulty_edge",
    "tune.healthy_edge",
    "tune.tables.healthy_tables",
    "tune.tables.healthy_networks",
    "tune.tables.healthy_others",
    "tune.tables.healthy_loops",
    "tune.tables.faulty_depth",
    "tune.tables.faulty_skips",
    "tune.tables.faulty_pace",
    "tune.tables.faulty_values",
    "tune.tables.faulty_wiring",
    "drawn.plain_healthy",
    "drawn.plain_healthy_nets",
    "drawn.plain_healthy_losses",
    "drawn.plain_healthy_loops",
    "drawn.plain_faulty_depth",
    "drawn.plain_faulty_skips",
    "drawn.plain_faulty_pace",
    "drawn.plain_faulty_values",
    "drawn.plain_faulty_wiring",
    "drawn.seq_healthy_cells",
    "drawn.seq_healthy_loops",
    "drawn.seq_healthy_formers",
    "drawn.seq_healthy_graphs",
    "drawn.seq_healthy_others",
    "drawn.seq_faulty_weights",
    "drawn.seq_faulty_depth",
    "drawn.seq_faulty_pace",
    "drawn.seq_faulty_values",
    "drawn.image_healthy",
    "drawn.image_healthy_loops",
    "drawn.image_faulty_depth",
    "drawn.image_faulty_skips",
    "drawn.image_faulty_pace",
    "drawn.image_faulty_values",
    "drawn.image_faulty_wiring",
    "fresh.vis_healthy",
    "fresh.vis_healthy_loops",
    "fresh.vis_faulty_depth",
    "fresh.vis_faulty_pace",
    "fresh.vis_faulty_values",
    "fresh.vis_faulty_wiring",
    "fresh.lib_healthy_tune",
    "fresh.lib_healthy_images",
    "fresh.lib_healthy_nets",
    "fresh.lib_healthy_play",
    "fresh.lib_healthy_made",
    "fresh.lib_healthy_more",
    "fresh.lib_faulty_weights",
    "fresh.lib_faulty_pace",
    "fresh.lib_faulty_values",
    "fresh.ord_healthy_cells",
    "fresh.ord_healthy_others",
    "fresh.ord_faulty_weights",
    "fresh.ord_faulty_pace",
    "fresh.ord_faulty_values",
)
