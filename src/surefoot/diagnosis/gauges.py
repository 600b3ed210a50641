"""The gauges of a check: each number measured before training, beside what a sound network shows.

They decide nothing: the rules judge the same case. Here it is laid out for a reader.
"""

from __future__ import annotations

import math
from itertools import pairwise

from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import trivial_loss
from surefoot.diagnosis.profile import Profile, Stage, first_profile
from surefoot.findings import Evidence, LayerScale
from surefoot.layers import Kind
from surefoot.signals.flow import Call, Flow
from surefoot.theory.expectation import (
    BATCH_NORM_RELU,
    chance,
    signal_growth,
    slope_growth,
    weight_growth,
)

_BY = {"weights": "weights", "activation": "activations", "normalization": "normalisation"}
_BAND = 0.87  # decades, four depth scales: up to there nearly all networks train


def gauges(case: Case) -> tuple[Evidence, ...]:
    """What was measured, in the order in which a reader asks for it."""
    flow = case.first
    rows: list[Evidence] = []
    if flow is not None:
        rows += [*_loss(case, flow), *_depth(case, flow), *_units(flow, case)]
    for _, seen in case.shattering:
        near = "1 % beside" if seen.of == "input" else "parameters 1 % off"
        white = f"> 0.8 (white noise: under {seen.limit:.2g})" if seen.limit else "> 0.8"
        rows.append(Evidence(f"gradient coherence, {near}", seen.coherence, white, 0))
    return tuple(rows + _updates(case))


def _loss(case: Case, flow: Flow) -> list[Evidence]:
    value, trivial = flow.loss.get("value"), trivial_loss(case)
    if value is None:
        return []
    rows = [Evidence("first loss", float(value), "", 0)]
    if trivial:
        name = "first loss over a constant prediction's"
        rows.append(Evidence(name, float(value) / trivial, "0.9 to 1.5", 0))
    return rows


def _depth(case: Case, flow: Flow) -> list[Evidence]:
    seen = first_profile(case)
    if seen is None:
        return []
    scales = layer_scales(case)
    expected = [row.gradient_expected for row in scales[:-1]]
    band = max(_BAND, 3 * chance(_widths(seen, flow)))
    words = f"{-band:.2g} to {band:.2g}"
    if all(x is not None for x in expected):
        theory = sum(x for x in expected if x is not None)
        words += f" (theory: {theory:+.2f})"
    rows = [Evidence("gradient growth to the input, decades", seen.growth, words, 0)]
    inner = seen.stages[:-1]
    if not seen.residual:
        for part in _BY:
            total = sum(getattr(s, part) for s in inner)
            if part != "normalization" or total:
                rows.append(Evidence(f"  of that by {_BY[part]}", total, "", 0))
    first, last = scales[0].signal, scales[-1].signal
    if first > 0 and last > 0:
        growth = math.log10(last / first)
        rows.append(Evidence("signal growth to the output, decades", growth, "-1 to 1", 0))
    return rows


def _widths(seen: Profile, flow: Flow) -> list[int]:
    rows = {c.layer: c.weight_rows for c in flow.calls if c.weight_rows}
    return [rows.get(s.layer) or 1000 for s in seen.stages[:-1]]


def _units(flow: Flow, case: Case) -> list[Evidence]:
    kinds = case.layers.layers
    hidden = [c for c in flow.calls if kinds[c.layer].kind.weighted and c.cosine is not None][:-1]
    rows = []
    if hidden:
        name = "mean cosine of samples, last hidden"
        rows.append(Evidence(name, hidden[-1].cosine, "< 0.95", 0))
    frozen = [c for c in flow.calls if c.frozen is not None]
    if frozen:
        worst = max(frozen, key=lambda c: c.frozen or 0.0)
        name = f"dead or saturated units, most: {kinds[worst.layer].name or 'model'}"
        rows.append(Evidence(name, worst.frozen, "< 0.75 of ReLU, < 0.3 of others", 0))
    return rows


def _updates(case: Case) -> list[Evidence]:
    seen = case.rehearsal
    if seen is None:
        return []
    losses = ", ".join(f"{x:.3g}" for x in seen.losses)
    return [
        Evidence("update-to-weight ratio, first update", seen.update, "1e-4 to 5e-2", 0),
        Evidence("losses of this batch, update by update", losses, "falling", 0),
        Evidence("curvature along the update", seen.curvature, "< 1, or the loss falls", 0),
        Evidence("decrease kept, a tenth of the update", seen.near, "> 0.5", 0),
        Evidence("decrease kept, the whole update", seen.whole, "> 0", 0),
    ]


def layer_scales(case: Case) -> tuple[LayerScale, ...]:
    """The scales along the depth, against theory where it has something to say."""
    flow, seen = case.first, first_profile(case)
    if flow is None or seen is None:
        return ()
    calls = {c.layer: c for c in reversed(flow.calls)}
    last = seen.stages[-1].gradient
    along = dict(case.shattering[0][1].curve) if case.shattering else {}
    rows = []
    for here, after in pairwise(seen.stages):
        signal, gradient = _expected(here, calls, case, seen.residual)
        rows.append(
            LayerScale(
                case.layers.title(here.layer),
                10**here.forward,
                here.gradient - last,
                after.forward - here.forward,
                signal,
                here.step,
                gradient,
                here.weights,
                here.activation,
                here.normalization,
                along.get(case.layers.title(here.layer)),
            )
        )
    final = seen.stages[-1]
    name = case.layers.title(final.layer)
    return (*rows, LayerScale(name, 10**final.forward, 0.0, coherence=along.get(name)))


def _expected(
    here: Stage, calls: dict[int, Call], case: Case, residual: bool
) -> tuple[float | None, float | None]:
    """(signal, gradient): decades that theory expects over the gap behind a stage."""
    after = calls.get(here.weight_layer) if here.weight_layer is not None else None
    if residual or after is None or not after.weight_norm or not after.weight_rows:
        return None, None
    if here.pooling:
        return None, None
    if here.normalization:
        batch_norm = any(
            layer.kind is Kind.NORMALIZATION and "BatchNorm" in layer.type
            for layer in case.layers.layers
        )
        relu = here.function == "relu" and batch_norm
        return (0.0, BATCH_NORM_RELU) if relu else (None, None)
    by_weights = weight_growth(after.weight_norm, after.weight_rows)
    rms = 10**here.forward
    signal, slope = signal_growth(here.function, rms), slope_growth(here.function, rms)
    return (
        None if signal is None else by_weights + signal,
        None if slope is None else by_weights + slope,
    )
