"""The report: one HTML file that needs no network, for people who were not there.

Text goes through jinja2's autoescape and the figures travel as JSON that no HTML parser can leave.
A content security policy with the hashes of the page's own two scripts keeps every other script
from running and every request from being made, whatever a layer may be called.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from plotly import graph_objects as go
from plotly.io.json import to_json_plotly
from plotly.offline import get_plotlyjs

from surefoot.files import replace_text
from surefoot.findings import Check, Report, Verdict
from surefoot.record.data import RunData
from surefoot.views import words
from surefoot.views.acts import guarded
from surefoot.views.figures import FIGURES
from surefoot.views.figures.style import DARK, LIGHT
from surefoot.views.outcome import outcome

EVENTS = 200  # listed in the report; the run folder has them all


_FILTERS: dict[str, Callable[..., Any]] = {
    "clean": words.clean,
    "code": words.clean_code,
    "number": words.number,
    "plural": words.plural,
    "shorten": words.shorten,
    "sentence": words.sentence,
    "proof": words.proof_words,
    "when": words.when,
    "pathology": lambda f: words.PATHOLOGY[f.pathology],
    "cause": lambda f: words.CAUSE[f.cause],
    "severity": lambda f: words.SEVERITY[f.severity],
}


def save_report(data: RunData, path: str | Path) -> Path:
    """Write the report of `data` to `path` and return the path, made absolute.

    Missing folders are made. The file appears whole or not at all. Raises OSError where it cannot
    be written.
    """
    target = Path(path).absolute()
    replace_text(target, render_report(data))
    return target


def render_report(data: RunData) -> str:
    """The report as one self-contained HTML document of less than 6 MB."""
    library, script = get_plotlyjs(), asset("report.js")
    report, drawn = data.report, _figures(data)
    check = report if isinstance(report, Check) else None
    return template("report.html.j2").render(
        data=data,
        report=report,
        lead=words.lead(report) if report.verdict is Verdict.UNSTABLE else None,
        check=check,
        seen="One batch seen" if check else f"{words.plural(report.steps, 'step')} watched",
        outcome="Nothing has been trained yet." if check else outcome(data),
        acts=guarded(data.report.guard),
        figures={name: (spec.title, spec.caption) for name, spec in FIGURES.items()},
        drawn=drawn,
        payload=inert({"figures": drawn, "light": plain_figure(LIGHT), "dark": plain_figure(DARK)}),
        follows=_follows(report),
        events=[(e.step, e.kind, _flat(e.detail)) for e in data.events[:EVENTS]],
        environment=[(key, _flat(value)) for key, value in data.environment.items()],
        css=Markup(asset("report.css")),
        library=Markup(library),
        script=Markup(script),
        policy=policy(library, script),
    )


def _figures(data: RunData) -> dict[str, Any]:
    """The figures that have something to show, as Plotly's JSON, without title and template."""
    drawn = {}
    for name, spec in FIGURES.items():
        figure = spec.draw(data)
        if figure is not None:
            figure.layout.template = None
            drawn[name] = plain_figure(figure)
    return drawn


def plain_figure(part: go.Figure | go.layout.Template) -> dict[str, Any]:
    """Plotly's own JSON for a figure or a template, as a dict."""
    return json.loads(to_json_plotly(part.to_plotly_json()))


def inert(value: Any) -> Markup:
    r"""JSON for a script element: no `<`, `>`, `&` or line separator is left in it.

    >>> str(inert(["</script>"]))
    '["\\u003c/script\\u003e"]'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)


def _follows(report: Report) -> list[int | None]:
    """For each finding the number of the one that explains it, counted from 1, or None."""
    rules = [f.rule for f in report.findings]
    return [rules.index(f.follows) + 1 if f.follows in rules else None for f in report.findings]


def _flat(value: Any) -> str:
    """A value of the environment or of an event as one line."""
    if isinstance(value, dict) or hasattr(value, "items"):
        return ", ".join(f"{words.clean(k)}: {_flat(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return " ".join(_flat(v) for v in value)
    return words.number(value) if isinstance(value, float) else words.clean(value)


def policy(*scripts: str) -> str:
    """Content security policy: these inline scripts and nothing else, no request of any kind."""
    digests = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    allowed = " ".join(f"'sha256-{d}'" for d in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def asset(name: str) -> str:
    """A file that a page holds whole."""
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


@cache
def template(name: str) -> jinja2.Template:
    """A page's template."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    return environment.get_template(name)
