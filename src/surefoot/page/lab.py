"""The lab: a network is chosen, and the same page shows what becomes of its gradients.

The address holds the choice. Without a script the form's button asks for the page again; with one
the answers of `/lab/result` take the place of the result.
"""

from __future__ import annotations

import atexit
import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from anyio import from_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from surefoot.findings import Finding, Verdict
from surefoot.lab import CHOICES, PRESETS, ChoiceError, Choices
from surefoot.lab.choices import Between, OneOf
from surefoot.page import lab_figures
from surefoot.page.render import html
from surefoot.views import words

if TYPE_CHECKING:
    from surefoot.lab import Experiment

GROUPS = (
    ("Network", ("depth", "width", "activation", "skips", "normalization")),
    ("Start", ("initialization", "scale", "seed")),
    ("Training", ("learning_rate", "optimizer", "loss")),
)
WAITING = 4  # requests that may wait while one is computed
_SOON = 1.5  # seconds, in which a browser has the page that it was opened for
_DECADES = 20  # positions of a slider in each power of ten

_turn = threading.Lock()
_room = threading.BoundedSemaphore(1 + WAITING)
# A thread that comes back from PyTorch while the interpreter ends would take the process with it.
atexit.register(_turn.acquire, timeout=3.0)


@dataclass(frozen=True, slots=True)
class Slider:
    """Where a number's slider stands; log: in powers of ten."""

    low: float
    high: float
    step: float
    at: float
    log: bool

    @staticmethod
    def of(choice: Between, value: float) -> Slider:
        """The slider of a number that may be chosen."""
        if choice.step:
            return Slider(choice.low, choice.high, choice.step, value, False)
        low, high, at = (math.log10(x) for x in (choice.low, choice.high, value))
        return Slider(low, high, 1 / _DECADES, round(at, 4), True)


@dataclass(frozen=True, slots=True)
class Control:
    """One choice in the form, as it is to be shown. problem: why it is not what was asked for."""

    choice: OneOf | Between
    shown: str
    default: str
    slider: Slider | None
    problem: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What an address asks for. choices: with the nearest in the place of what cannot be chosen."""

    choices: Choices
    problems: dict[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is shown beside the form; result: None where there is none, and told says why."""

    heading: str
    told: str
    code: int
    result: Experiment | None = None

    @property
    def verdict(self) -> str:
        """What colours it; empty without a result."""
        return "" if self.result is None else str(self.result.verdict)


def page(request: Request) -> Response:
    """The form, and the result of what the address asks for."""
    asked = parse(request)
    answer = _answer(request, asked)
    return html(
        "lab.html.j2",
        code=answer.code,
        here="/lab",
        groups=controls(asked),
        presets=[(name, told, _query(chosen)) for name, told, chosen in PRESETS],
        current=None if asked.problems else _query(asked.choices),
        figures=lab_figures.SHOWN,
        **_told(asked, answer),
    )


def result(request: Request) -> Response:
    """The result alone, for the page's script.

    query: how the choice is written in an address, None if it cannot be chosen.
    """
    asked = parse(request)
    answer = _answer(request, asked)
    told = _told(asked, answer)
    return JSONResponse(
        {
            "heading": answer.heading,
            "verdict": answer.verdict,
            "query": None if asked.problems else _query(asked.choices),
            "told": _part("lab_result.html.j2", told),
            "numbers": _part("lab_numbers.html.j2", told),
            "figures": lab_figures.drawn(answer.result) if answer.result else {},
        },
        answer.code,
    )


def parse(request: Request) -> Asked:
    """The choices of an address, each judged on its own."""
    chosen, problems = {}, {}
    for choice in CHOICES:
        text = request.query_params.get(choice.key, "")
        try:
            chosen[choice.key] = choice.parse(text) if text.strip() else choice.default
        except ChoiceError as error:
            chosen[choice.key], problems[choice.key] = error.nearest, str(error)
    return Asked(Choices(**chosen), problems)


def controls(asked: Asked) -> list[tuple[str, list[Control]]]:
    """The form's controls by group."""
    known = {choice.key: choice for choice in CHOICES}
    return [
        (title, [_control(known[key], asked, asked.problems.get(key, "")) for key in keys])
        for title, keys in GROUPS
    ]


def prepare() -> None:
    """Get ready in the background, a moment from now, so that nobody waits for the first result."""
    timer = threading.Timer(_SOON, warm)
    timer.daemon = True
    timer.start()


def warm() -> None:
    """Load what an experiment loads, and make one that nobody asks for.

    The imports come first: of those the program's end need not wait.
    """
    import torch._dynamo
    import torch._refs  # noqa: F401

    from surefoot.lab import experiment

    with _turn:
        lab_figures.drawn(experiment(Choices(activation="sigmoid", depth=2, width=8, seed=999)))


def _control(choice: OneOf | Between, asked: Asked, problem: str) -> Control:
    value = getattr(asked.choices, choice.key)
    slider = Slider.of(choice, value) if isinstance(choice, Between) else None
    return Control(choice, _text(choice, value), _text(choice, choice.default), slider, problem)


def _text(choice: OneOf | Between, value: Any) -> str:
    """A value as a field of the form holds it: exactly, and no longer than it has to be."""
    if isinstance(choice, OneOf):
        return str(value)
    short = choice.words(value)
    return short if float(short) == value else repr(value)


def _query(choices: Choices) -> str:
    return urlencode(choices.to_query())


def _part(name: str, told: dict[str, Any]) -> str:
    return bytes(html(name, **told).body).decode()


def _answer(request: Request, asked: Asked) -> Answer:
    """The experiment, or why there is none."""
    if asked.problems:
        told = " ".join(words.sentence(problem) for problem in asked.problems.values())
        return Answer("This cannot be chosen", told, 422)
    found = _computed(request, asked.choices)
    if found is None:
        told = f"{1 + WAITING} experiments are being computed already. Try it again in a moment."
        return Answer("Too much at once", told, 503)
    return Answer(_heading(found), found.sentence, 200, found)


def _computed(request: Request, choices: Choices) -> Experiment | None:
    """The experiment when its turn comes; None if too many wait already."""
    from surefoot.lab import experiment

    if not _room.acquire(blocking=False):
        return None
    try:
        with _turn:
            # Whoever moved the slider on does not wait for what it has passed.
            if from_thread.run(request.is_disconnected):
                raise HTTPException(499, "nobody waits for this any more")
            return experiment(choices)
    finally:
        _room.release()


def _heading(found: Experiment) -> str:
    """The verdict, with what is wrong with a network or that nothing is."""
    verdict, root = words.capital(str(found.verdict)), found.finding
    if found.verdict is Verdict.UNSTABLE:
        return verdict if root is None else f"{verdict}: {words.PATHOLOGY[root.pathology][0]}"
    first, last = (_number(found, "loss before"), _number(found, "loss after"))
    return f"{verdict}: the loss goes from {first} to {last}"


def _told(asked: Asked, answer: Answer) -> dict[str, Any]:
    """What the template of a result asks for."""
    found = answer.result
    told: dict[str, Any] = {"answer": answer, "result": found, "nearest": None}
    if asked.problems:
        told["nearest"] = _query(asked.choices)
    if found is not None:
        told |= {
            "tiles": _tiles(found),
            "suggestions": [(label, _query(chosen)) for label, chosen in found.suggestions],
            "findings": _findings(found),
        }
    return told


def _tiles(found: Experiment) -> list[tuple[str, str, str]]:
    """(key, title, number) of what tells one choice from the next."""
    flow = [
        ("whole", "Gradient, first layer over last", _number(found, "gradient at the first")),
        ("flow", "Its factor a layer", _number(found, "gradient, factor")),
    ]
    through = flow if found.choices.depth > 1 else []  # a single layer has no other to compare to
    return [*through, ("loss", "Loss at the end", _number(found, "loss after"))]


def _number(found: Experiment, beginning: str) -> str:
    """The number, as words, whose name begins so."""
    return next(words.number(r.value) for r in found.numbers if r.quantity.startswith(beginning))


def _findings(found: Experiment) -> list[tuple[str, Finding]]:
    """(when, finding) of the training and then of the check before it, each rule once.

    The training's come first: its figure calls them by their number.
    """
    known: dict[str, tuple[str, Finding]] = {}
    for when, data in (("in training", found.training), ("before training", found.check)):
        for finding in data.report.findings:
            known.setdefault(finding.rule, (when, finding))
    return list(known.values())
