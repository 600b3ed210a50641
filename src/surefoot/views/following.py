"""A run that goes on, in the terminal: one frame of `surefoot watch`.

As in `terminal`, everything is `Text` and never markup, so that no name of a run means anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from surefoot.findings import Finding, Verdict
from surefoot.record.data import RunData
from surefoot.views.acts import guarded
from surefoot.views.terminal import OTHERS, STYLE, headline, shown, summary
from surefoot.views.vitals import Against, LayerNow, Vitals, vitals
from surefoot.views.words import clean, finite, lead, number, plural, shorten

CUT_OFF = "Cut off: no process of this machine goes on with it, and it has left no final verdict."
_FEW = 8  # layers of a frame that is not bounded by a screen
_NARROW = 80  # columns, below which a head is shortened


@dataclass(frozen=True, slots=True)
class State:
    """What the record does not say by itself. rate: steps a second, None if not known yet.

    cut_off: whether the run is over and has left no verdict.
    """

    live: bool
    started: datetime | None = None
    rate: float | None = None
    cut_off: bool = False


def frame(
    data: RunData, state: State, *, console: Console, height: int | None = None
) -> RenderableType:
    """What is known of the run now, in at most `height` lines where that is given.

    Never raises for what the run contains.
    """
    now = vitals(data)
    parts: list[RenderableType] = [
        Panel(_verdict(data, now, state, console), title=_title(data, console), title_align="left")
    ]
    if state.cut_off:
        parts.append(shown(console, CUT_OFF, "yellow"))
    parts.append(_numbers(now, state, console))
    if data.report.findings:
        parts += [Text(), _findings(data.report.findings, console)]
    room = _FEW
    if height is not None:
        used = sum(len(console.render_lines(part)) for part in parts)
        room = height - used - 3  # an empty line, the table's head and its rule
    if now.layers and room > 0:
        parts += [Text(), _layers(now.layers[:room], len(now.layers), console)]
    return Group(*parts)


def _title(data: RunData, console: Console) -> Text:
    return shown(console, shorten(data.name, max(console.width - 10, 10)))


def _verdict(data: RunData, now: Vitals, state: State, console: Console) -> Text:
    report, first = data.report, lead(data.report)
    so_far = " so far" if state.live or state.cut_off else ""
    if now.step is None and not report.findings:
        words = "for the first step" if state.live else "no step was recorded"
        return headline("WAITING" if state.live else "NOTHING", "bold cyan", [words], console)
    badge = f"{str(report.verdict).upper()}{so_far}"
    if report.verdict is Verdict.UNSTABLE and first is not None:
        items = summary(first)
    elif report.verdict is Verdict.HEALTHY:
        items = [f"nothing wrong found in {plural(report.steps, 'step')}"]
    elif state.live or state.cut_off:
        badge, items = "NO VERDICT", ["too early to say" if state.live else "it ended too early"]
    else:
        items = [clean(words) for words in report.missing] or ["too little was seen"]
    return headline(badge, STYLE[report.verdict], items, console)


def _numbers(now: Vitals, state: State, console: Console) -> Table:
    """Each number with its name, on lines of their own: the eye finds them where they were."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for name, words in (
        ("step", _steps(now, state)),
        ("loss", _losses(now.loss)),
        ("gradient norm", _against(now.gradient)),
        ("learning rate", ", ".join(number(rate) for rate in now.rates[:4]) or "not seen"),
        ("guard", guarded(now.acts)),
    ):
        if words:
            grid.add_row(shown(console, name), shown(console, words))
    return grid


def _steps(now: Vitals, state: State) -> str:
    parts = ["none yet" if now.step is None else f"{now.step:,}"]
    if state.live and state.rate is not None:
        parts.append(f"{number(state.rate)} steps/s")
    if state.live and state.started is not None:
        elapsed = datetime.now(UTC) - state.started
        parts.append(f"{timedelta(seconds=max(int(elapsed.total_seconds()), 0))} elapsed")
    return " · ".join(parts if state.live else [*parts, "over"])


def _losses(loss: tuple[float, float, float] | None) -> str:
    if loss is None:
        return "not seen"
    return " · ".join(
        f"{name} {finite(value)}"
        for name, value in zip(("now", "lowest", "first"), loss, strict=True)
    )


def _against(gradient: Against | None) -> str:
    if gradient is None:
        return "not measured"
    times = _times(gradient.factor)
    return f"now {finite(gradient.now)} · median {finite(gradient.usual)}{times and f' ({times})'}"


def _times(factor: float) -> str:
    """A factor as a person says it; nothing where there is none."""
    return f"{number(float(f'{factor:.3g}'))}x" if math.isfinite(factor) else ""


def _findings(findings: tuple[Finding, ...], console: Console) -> Table:
    table = _table(console, "#", "severity", "what, where, since when, why")
    for k, finding in enumerate(findings[:OTHERS], 1):
        follows = [f"follows from {clean(finding.follows)}"] if finding.follows else []
        words = " · ".join([*summary(finding), *follows])
        table.add_row(
            shown(console, str(k)),
            shown(console, str(finding.severity), STYLE[finding.severity]),
            shown(console, f"{clean(finding.rule)} {words}"),
        )
    if len(findings) > OTHERS:
        table.add_row(Text(), Text(), shown(console, f"and {len(findings) - OTHERS} more"))
    return table


def _layers(layers: tuple[LayerNow, ...], of: int, console: Console) -> Table:
    name = "layer" if len(layers) == of else f"layer ({len(layers)} of {of:,})"
    narrow = console.width < _NARROW
    update = "update" if narrow else "update/weight"
    table = _table(console, name, "gradient", "to median", update, "note")
    for column in table.columns[1:4]:
        column.justify = "right"
    width = max(console.width - (42 if narrow else 48), 16)
    for layer in layers:
        cells = (
            shorten(layer.name, width),
            "NaN/inf" if layer.broken else _norm(layer.gradient.now),
            "" if layer.broken else _times(layer.gradient.factor),
            "" if math.isnan(layer.update) else _norm(layer.update),
        )
        note, style = _note(layer)
        table.add_row(*(shown(console, cell) for cell in cells), shown(console, note, style))
    return table


def _norm(value: float) -> str:
    if math.isnan(value):
        return "none"
    return number(value) if math.isfinite(value) else "inf"


def _note(layer: LayerNow) -> tuple[str, str]:
    """What else is to be said of a layer, and how it is printed."""
    notes = [f"#{layer.finding}"] if layer.finding else []
    notes += ["zero"] if layer.gradient.now == 0 and not layer.broken else []
    return " ".join(notes), "red"


def _table(console: Console, *names: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
    for name in names:
        last = name == names[-1]
        table.add_column(shown(console, name), overflow="fold", no_wrap=not last)
    return table


def over(steps: int) -> str:
    """What is said above the verdict of a run that was cut off."""
    return f"{CUT_OFF} After {plural(steps, 'step')} this was to be said:"
