"""A proof in the terminal and as a page: what was tried, what it did, and what to change.

Both take the proof as the contract writes it (`Proof.to_json`), so that a kept one can be shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs
from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from surefoot.findings import Finding
from surefoot.views.figures.paired import paired
from surefoot.views.figures.style import DARK, LIGHT
from surefoot.views.report import asset, inert, plain_figure, policy, template
from surefoot.views.terminal import NAME, shown
from surefoot.views.words import CAUSE, PATHOLOGY, clean, clean_code, number, plural, shorten

_STYLE = {"proven": "bold green", "harmed": "bold red", "refused": "yellow"}
_SHOWN = 200  # trials on a page, and remedies that were not tried: more than a proof ever has
_CAPTION = (
    "The loss of the training as it is, and with each remedy, from the same seed and on the same "
    "batches. A curve below the red one learns faster; a gap is a loss that was not finite."
)


def print_proof(proof: Mapping[str, Any], *, console: Console, page: str | None = None) -> None:
    """Print a proof: the result first, then each remedy, then the patch. Never raises for what a
    proof contains."""
    console.print(_panel(proof, console))
    if proof["trials"]:
        console.print(_trials(proof["trials"], console))
    for row in proof["unhelpful"]:
        words = f"Not tried: {clean(row['remedy'])} {clean(row['why'])}."
        console.print(shown(console, words, "dim"))
    if proof["patch"]:
        console.print(shown(console, "\nThe patch, for git apply or patch -p1:", "bold"))
        for line in proof["patch"].splitlines():
            style = "green" if line.startswith("+") else "red" if line.startswith("-") else ""
            console.print(shown(console, clean_code(line), style), soft_wrap=True)
    if page is not None:
        console.print(shown(console, f"Page: {clean(page)}"), soft_wrap=True)


def badge(proof: Mapping[str, Any]) -> str:
    """The result in a word or two."""
    if proof["winner"]:
        return "PROVEN"
    if proof["missing"]:
        return "NO RESULT"
    if proof["finding"] is None:
        return "NOTHING TO REPAIR"
    return "BROKEN OFF" if proof["partial"] else "NOTHING HELPED"


def _panel(proof: Mapping[str, Any], console: Console) -> Panel:
    word = badge(proof)
    colour = {"PROVEN": "green", "NOTHING TO REPAIR": "green"}.get(word, "yellow")
    head = shown(console, f"{word}  {clean(proof['target'])}", "bold")
    head.stylize(f"bold {colour}", 0, len(word))
    parts: list[RenderableType] = [head]
    if (finding := found(proof)) is not None:
        parts += [Text(), shown(console, f"What is wrong: {clean(finding.sentence)}")]
    parts += [Text(), shown(console, clean(proof["sentence"]))]
    if proof["partial"] and not proof["missing"]:
        parts.append(shown(console, "Broken off, or out of time: what is here was done by then."))
    winner = _winner(proof)
    if winner is not None and winner["code"] and not proof["patch"]:
        parts.append(Padding(shown(console, clean_code(winner["code"]), "cyan"), (1, 0, 0, 4)))
    if proof["seeds"]:
        words = f"{plural(proof['steps'], 'step')}, {plural(proof['seeds'], 'seed')}"
        parts += [Text(), shown(console, f"{words}, {number(proof['seconds'])} s", "dim")]
    return Panel(Group(*parts), border_style=colour, padding=(0, 1))


def found(proof: Mapping[str, Any]) -> Finding | None:
    """The finding that was to be cured."""
    return None if proof["finding"] is None else Finding.from_json(proof["finding"])


def _winner(proof: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((t for t in proof["trials"] if t["won"]), None)


def _trials(trials: Sequence[Mapping[str, Any]], console: Console) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
    for words in ("Remedy", "Outcome", "What was seen"):
        table.add_column(shown(console, words), overflow="fold")
    for trial in trials:
        outcome = shown(console, trial["outcome"], _STYLE.get(trial["outcome"], ""))
        seen = shown(console, clean(trial["words"]))
        table.add_row(shown(console, title(trial)), outcome, seen)
    return table


def title(trial: Mapping[str, Any]) -> str:
    """A remedy with its numbers and its target, in a line."""
    values = ", ".join(
        f"{clean(k)} {number(v)}" for k, v in trial["parameters"].items() if _short(v)
    )
    on = f" on {shorten(trial['target'], NAME)}" if trial["target"] else ""
    return f"{clean(trial['remedy'])}{f' ({values})' if values else ''}{on}"


def _short(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def render_proof(proof: Mapping[str, Any]) -> str:
    """The proof as one self-contained HTML document that opens offline."""
    library, script = get_plotlyjs(), asset("report.js")
    styles = {"light": plain_figure(LIGHT), "dark": plain_figure(DARK)}
    context = told_of(proof)
    return template("proof.html.j2").render(
        context,
        payload=inert({"figures": context["drawn"], **styles}),
        css=Markup(asset("report.css")),
        library=Markup(library),
        script=Markup(script),
        policy=policy(library, script),
    )


def told_of(proof: Mapping[str, Any]) -> dict[str, Any]:
    """What the template of a proof's trials asks for; raises whatever a file that is none makes."""
    trials, unhelpful = proof["trials"][:_SHOWN], proof["unhelpful"][:_SHOWN]
    curves = {title(t): _losses(t["curve"]) for t in trials if t["curve"]}
    winner, finding = _winner(proof), found(proof)
    drawn = {}
    if proof["before"]:
        figure = paired(_losses(proof["before"]), curves, title(winner) if winner else None)
        figure.layout.template = None
        drawn["paired"] = plain_figure(figure)
    return {
        "proof": proof,
        "badge": badge(proof),
        "winner": winner,
        "finding": finding,
        "pathology": PATHOLOGY[finding.pathology][0] if finding else "",
        "cause": CAUSE[finding.cause][0] if finding else "",
        "trials": [(title(trial), trial) for trial in trials],
        "unhelpful": unhelpful,
        "more": len(proof["trials"]) + len(proof["unhelpful"]) - len(trials) - len(unhelpful),
        "caption": _CAPTION,
        "drawn": drawn,
    }


def _losses(rows: Sequence[Sequence[Any]]) -> tuple[list[int], list[float]]:
    return [int(step) for step, _ in rows], [float(x) for _, x in rows]
