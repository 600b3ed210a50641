"""The figures of an experiment: the run's own, and in the profile what theory expects."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from surefoot.page.drawing import bare
from surefoot.views.figures import FIGURES
from surefoot.views.figures.depth import order, profile
from surefoot.views.figures.style import GREY, unique

if TYPE_CHECKING:
    from surefoot.lab import Experiment

_BEFORE = ("depth", "shattering", "saturation")  # of the check; the training has the rest
SHOWN = {
    "depth": (
        "The gradient on its way back, before training",
        "Read from the top (the loss) down to the bottom (the input): inside the band the gradient "
        "keeps its size. The dotted line is what theory expects of such layers, where it says "
        "anything, counted from the last hidden one.",
    ),
    "timeline": (
        "The training",
        "The loss should fall and the gradient norm stay within its usual range; a cross marks "
        "a step with NaN or infinity.",
    ),
    **{name: (FIGURES[name].title, FIGURES[name].caption) for name in ("shattering", "saturation")},
}
_HIDDEN = re.compile(r"layers\.[0-9]+\.linear")
_NUMBERED = re.compile(r"^[0-9]+ (?=origin$)")


def drawn(found: Experiment) -> dict[str, Any]:
    """Each of `SHOWN` as Plotly's JSON, None where there is nothing to draw."""
    figures: dict[str, Any] = {
        name: FIGURES[name].draw(found.check if name in _BEFORE else found.training)
        for name in SHOWN
    }
    if figures["depth"] is not None:
        expect(figures["depth"], found)
        # The numbers of the check's findings are not those that the page has.
        for note in figures["depth"].layout.annotations:
            note.text = _NUMBERED.sub("", note.text)
    return {name: bare(figure) for name, figure in figures.items()}


def expect(figure: go.Figure, found: Experiment) -> None:
    """Draw into the profile how theory lets the gradient grow from the last hidden layer on back.

    Not with skip connections: what is measured is the branch, and theory speaks of the trunk.
    """
    from surefoot.lab.course import batch_of
    from surefoot.lab.published import published

    choices, data = found.choices, found.check
    theory = published(choices, batch_of(choices)) if choices.skips == "none" else None
    keys = order(data)
    names = unique([data.layers.title(layer) for layer, _ in keys])
    hidden = [i for i, (k, _) in enumerate(keys) if _HIDDEN.fullmatch(data.layers.layers[k].name)]
    if theory is None or len(hidden) < 2:
        return
    last = float(profile(data, data.flows[0], keys).gradient[hidden[-1]])
    with np.errstate(over="ignore", under="ignore"):
        along = last * theory.growth ** np.arange(len(hidden) - 1.0, -1.0, -1.0)
    figure.add_trace(
        go.Scatter(
            x=np.where(np.isfinite(along) & (along > 0), along, np.nan),
            y=[names[i] for i in hidden],
            mode="lines",
            name=f"theory, {theory.growth:.3g}x a layer",
            line={"color": GREY, "dash": "dot", "width": 3},
            hovertemplate="%{x:.3g}<extra>theory</extra>",
        ),
        row=1,
        col=1,
    )
