"""A result as one HTML file that opens offline, in the dress of the report."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from surefoot.lab.entry import Entry, Result, Standing
from surefoot.lab.printed import limit, planted
from surefoot.version import VERSION
from surefoot.views.figures.style import DARK, LIGHT
from surefoot.views.proof import title
from surefoot.views.report import asset, environment, inert, plain_figure, policy, told
from surefoot.views.words import clean

_TONE = {Standing.BORNE_OUT: "healthy", Standing.IN_PART: "inconclusive"}


def render_result(entry: Entry, result: Result, seed: int = 0) -> str:
    """The page of a run."""
    library, script = get_plotlyjs(), asset("report.js")
    drawn = _figures(result)
    seen = {} if result.seen is None else told(result.seen)
    return _template().render(
        seen,
        entry=entry,
        result=result,
        seed=seed,
        version=VERSION,
        tone=_TONE.get(result.standing, "unstable"),
        planted=planted(entry, result) if result.seen is not None else "",
        rows=[(row, limit(row)) for row in result.rows],
        proofs=[_told(proof.to_json()) for proof in result.proofs],
        drawn=drawn,
        payload=inert({"figures": drawn, "light": plain_figure(LIGHT), "dark": plain_figure(DARK)}),
        css=Markup(asset("report.css")),
        library=Markup(library),
        script=Markup(script),
        policy=policy(library, script),
    )


@cache
def _template() -> jinja2.Template:
    return environment(Path(__file__).parent / "templates").get_template("entry.html.j2")


def _figures(result: Result) -> dict[str, Any]:
    """The picture of the entry, and the losses of each proof, as Plotly's JSON."""
    proofs = {f"proof-{k}": p.figure() for k, p in enumerate(result.proofs, 1)}
    drawn = {}
    for name, figure in {"entry": result.figure, **proofs}.items():
        figure.layout.template = None
        drawn[name] = plain_figure(figure)
    return drawn


def _told(proof: dict[str, Any]) -> dict[str, Any]:
    trials = [(title(t), clean(t["outcome"]), t["words"]) for t in proof["trials"]]
    return {"sentence": proof["sentence"], "trials": trials, "steps": proof["steps"]}
