"""How a row of a table becomes a case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corpus import CORPUS, CaseFunction, Entry, register
from corpus.report.fit import fit
from surefoot.findings import Cause, Pathology

# The few that the ordinary tests run: each takes less than half a second and no other package.
FAST = {
    "digits_logistic",
    "digits_fused_adamw",
    "breast_elu_adagrad",
    "digits_plateau/dead_bias",
    "digits_prelu_nesterov/rate_low",
    "digits_centred_gradients/batch_x2000",
    "diabetes_leaky_adadelta/nan_feature",
}


def sound(name: str, run: CaseFunction = fit, *, needs: str = "", **base: Any) -> None:
    """A healthy training; needs: the package without which it cannot run."""
    register(Entry(name, run, base=base, fast=name in FAST, part="report", needs=needs))


def broken(
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
    register(
        Entry(
            name,
            twin.run,
            frozenset(Pathology(p) for p in pathology.split("|")),
            frozenset(Cause(c) for c in cause.split("|")),
            layers if isinstance(layers, tuple) else (layers,),
            {**twin.base, **base},
            change,
            name in FAST,
            "report",
            twin.needs,
        )
    )
