"""Saturation: how many units of each activation pass no gradient on, along the depth."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from surefoot.layers import Kind
from surefoot.record.data import RunData
from surefoot.signals.flow import Call, Flow
from surefoot.views.figures.rows import Key, keyed
from surefoot.views.figures.style import BLUE, LIGHT, ORANGE, RED, unique

# Shares from which a rule may speak: of tanh, sigmoid and softmax in diagnosis/rules/saturated.py,
# of ReLU, which rests more often in good health, in diagnosis/rules/dead.py.
LIMITS = {"relu": 0.95, "tanh": 0.3, "sigmoid": 0.3, "softmax": 0.3}
_LOOKS = ((BLUE, "solid", "circle"), (ORANGE, "dash", "square"))


def draw(data: RunData) -> go.Figure | None:
    """The shares at the first and the last instrumented step, None if none was measured."""
    live = [flow for flow in data.flows if not flow.replayed]
    flows = [*live[:1], *live[1:][-1:]]
    rows = order(data, flows)
    if not rows:
        return None
    calls = [keyed(flow) for flow in flows]
    names = unique([_name(data, key, calls) for key in rows])
    zeros = [[_zeros(data, c.get(key)) for key in rows] for c in calls]
    frozen = [[_frozen(c.get(key)) for key in rows] for c in calls]
    panels = [("units, always flat", frozen)]
    if np.isfinite(zeros).any():
        panels.append(("values, zero", zeros))
    figure = make_subplots(1, len(panels), shared_yaxes=True, horizontal_spacing=0.08)
    figure.update_layout(template=LIGHT, height=int(np.clip(170 + 24 * len(names), 260, 760)))
    for column, (title, shares) in enumerate(panels, 1):
        for flow, values, look in zip(flows, shares, _LOOKS, strict=False):
            title_of = f"step {flow.step:,}"
            figure.add_trace(_curve(title_of, values, names, look, column == 1), 1, column)
        figure.update_xaxes(title=title, range=[-0.03, 1.03], tickformat=".0%", col=column)
    limits = [LIMITS.get(_activation(key, calls), np.nan) for key in rows]
    figure.add_trace(_marks(limits, names), 1, 1)
    figure.update_yaxes(type="category", categoryarray=names, range=[-0.6, len(names) - 0.4])
    figure.update_yaxes(showgrid=len(names) <= 40)
    return figure


def order(data: RunData, flows: list[Flow]) -> list[Key]:
    """Rows of the figure: calls of which a share is known, in execution order."""
    found: dict[Key, int] = {}
    for flow in flows:
        for key, call in keyed(flow).items():
            if np.isfinite([_frozen(call), _zeros(data, call)]).any():
                found.setdefault(key, call.order)
    return sorted(found, key=found.__getitem__)


def _frozen(call: Call | None) -> float:
    return np.nan if call is None or call.frozen is None else float(call.frozen)


def _zeros(data: RunData, call: Call | None) -> float:
    """Share of zeros in what a module that is a ReLU gives; NaN for anything else.

    Where ReLU is a function inside a layer, the layer's own output comes before it and holds none.
    """
    if call is None or call.output is None or call.activation != "relu" or not call.output.numel:
        return np.nan
    own = data.layers.layers[call.layer].kind is Kind.ACTIVATION
    return call.output.zeros / call.output.numel if own else np.nan


def _activation(key: Key, calls: list[dict[Key, Call]]) -> str:
    return next((name for c in calls if key in c and (name := c[key].activation)), "")


def _name(data: RunData, key: Key, calls: list[dict[Key, Call]]) -> str:
    """The layer's name; with that of the function behind it where this is no module of its own."""
    name = data.layers.title(key[0])
    own = data.layers.layers[key[0]].kind is Kind.ACTIVATION
    return name if own else f"{name} ({_activation(key, calls)})"


def _curve(
    title: str, values: list[float], names: list[str], look: tuple[str, str, str], key: bool
) -> go.Scatter:
    color, dash, symbol = look
    return go.Scatter(
        x=values,
        y=names,
        mode="lines+markers" if len(names) <= 80 else "lines",
        connectgaps=True,  # of a softmax among ReLUs, say
        name=title,
        legendgroup=title,
        showlegend=key,
        line={"color": color, "dash": dash, "width": 2},
        marker={"symbol": symbol, "size": 7},
        hovertemplate="%{y}<br>%{x:.1%}<extra>%{fullData.name}</extra>",
    )


def _marks(limits: list[float], names: list[str]) -> go.Scatter:
    """A tick in each row from which on a rule asks whether the run suffers."""
    shown = len(names) <= 80
    return go.Scatter(
        x=limits,
        y=names,
        mode="markers" if shown else "lines",
        name="questionable from here on",
        marker={"symbol": "line-ns", "size": 16, "line": {"color": RED, "width": 2}},
        line={"color": RED, "width": 1.5, "dash": "dot"},
        hovertemplate="%{y}<br>questionable from %{x:.0%} on<extra></extra>",
    )
