"""Figures on their way to the page's own script."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from surefoot.views.report import plain_figure


def bare(figure: go.Figure | None) -> dict[str, Any] | None:
    """A figure as Plotly's JSON without the template, which the page sets; None for none."""
    if figure is None:
        return None
    figure.layout.template = None
    return plain_figure(figure)
