"""The report: one HTML file that needs no network, for people who were not there.

Text goes through jinja2's autoescape and the figures travel as JSON that no HTML parser can leave.
A content security policy with the hashes of the page's own two scripts keeps every other script
from running and every request from being made, whatever a layer may be called.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
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
from surefoot.views.story import story

EVENTS = 200  # listed in the report; the run folder has them all
_FACTS = 200  # of the environment
_LONGEST, _DEEPEST = 4000, 12  # characters and levels that are shown of one value


_FILTERS: dict[str, Callable[..., Any]] = {
    "capital": words.capital,
    "clean": words.clean,
    "code": words.clean_code,
    "number": words.number,
    "percent": words.percent,
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
    drawn = _figures(data)
    return template("report.html.j2").render(
        told(data),
        figures={name: (spec.title, spec.caption) for name, spec in FIGURES.items()},
        undrawn=[s.title for name, s in FIGURES.items() if s.always and name not in drawn],
        drawn=drawn,
        payload=inert({"figures": drawn, "light": plain_figure(LIGHT), "dark": plain_figure(DARK)}),
        css=Markup(asset("report.css")),
        library=Markup(library),
        script=Markup(script),
        policy=policy(library, script),
    )


def render_card(report: Report) -> str:
    """The verdict in a few lines of HTML for a notebook: styles in place, no script, no link."""
    lead = words.lead(report) if report.verdict is Verdict.UNSTABLE else None
    return template("card.html.j2").render(
        report=report,
        lead=lead,
        check=isinstance(report, Check),
        acts=guarded(report.guard),
        others=[f for f in report.findings if f is not lead],
    )


def told(data: RunData) -> dict[str, Any]:
    """What the templates of a verdict, its findings and the details ask for; the page shares them.

    linked: where the run is on the page, for links to its layers, rules and remedies; a single file
    has none.
    """
    report = data.report
    check = report if isinstance(report, Check) else None
    return {
        "data": data,
        "report": report,
        "lead": words.lead(report) if report.verdict is Verdict.UNSTABLE else None,
        "check": check,
        "seen": "One batch seen" if check else f"{words.plural(report.steps, 'step')} watched",
        "outcome": "Nothing has been trained yet." if check else outcome(data),
        "story": story(data),
        "acts": guarded(report.guard),
        "follows": _follows(report),
        "events": [(e.step, e.kind, flat(e.detail)) for e in data.events[:EVENTS]],
        "environment": [
            (_beginning(key), flat(value))
            for key, value in islice(data.environment.items(), _FACTS)
        ],
        "linked": "",
    }


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


def flat(value: Any) -> str:
    """A value of the environment or of an event as one line; of a very long one its beginning.

    >>> flat({"lr": 0.5, "betas": [1, None]}), len(flat(["x"] * 10**6)) < 5000
    ('lr: 0.500, betas: 1 None', True)
    """
    taken, room = [], _LONGEST
    for piece in _pieces(value, _DEEPEST):
        taken.append(piece if len(piece) <= room else f"{piece[:room]}\u2026")
        room -= len(piece)
        if room < 0:
            break
    return "".join(taken)


def _pieces(value: Any, depth: int) -> Iterator[str]:
    if not depth:
        yield "\u2026"
    elif hasattr(value, "items"):
        for at, (key, held) in enumerate(value.items()):
            yield f"{', ' if at else ''}{words.clean(str(key)[:_LONGEST])}: "
            yield from _pieces(held, depth - 1)
    elif isinstance(value, list | tuple):
        for at, held in enumerate(value):
            yield " " if at else ""
            yield from _pieces(held, depth - 1)
    else:
        yield words.number(value) if isinstance(value, float) else _beginning(value)


def _beginning(value: object) -> str:
    """The text of a value; of what nobody reads to its end a little more than is shown."""
    return words.clean(str(value)[: _LONGEST + 1])


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
    return environment().get_template(name)


@cache
def environment(*folders: Path) -> jinja2.Environment:
    """The templates of these folders, and behind them those of the report."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, Path(__file__).parent / "templates"]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(_FILTERS)
    return made
