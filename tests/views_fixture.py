"""Runs made up for the tests of the views: one for each way in which a page can look wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np

from surefoot.findings import (
    Cause,
    Evidence,
    Finding,
    Guarded,
    Pathology,
    Remedy,
    Report,
    Severity,
)
from surefoot.layers import Kind
from surefoot.record.data import Event, RunData
from surefoot.signals.flow import Flow
from views_parts_fixture import (
    BATCH,
    WIDTH,
    flow,
    gradients,
    run,
    statistics,
    stats,
    table,
    thinned,
    whole,
)

VANISHING = Finding(
    rule="SF101",
    pathology=Pathology.VANISHING,
    cause=Cause.SATURATING_ACTIVATION,
    severity=Severity.FATAL,
    sentence=(
        "Gradients shrink 4.0x per layer from layers.18 down to layers.0: the sigmoid's slope "
        "is at most 1/4, and nine of them in a row leave 4e-6 of the signal."
    ),
    layer="layers.18",
    root=True,
    victims=tuple(f"layers.{i}" for i in range(0, 18, 2)),
    first_step=0,
    last_step=899,
    confidence=0.97,
    evidence=(
        Evidence("gradient at layers.0 / gradient at layers.18", 3.81e-6, "0.14 to 7.4", 0),
        Evidence("slope of the activation after layers.18 (rms)", 0.2383, "about 1", 0),
        Evidence("share of saturated units", 0.0, "below 0.3", 0),
        Evidence("loss against the best constant answer", 2.3021, "clearly below 2.303", None),
    ),
    remedies=(
        Remedy(
            "activation.relu",
            "layers.*",
            "ReLU's slope is 1 where it is on, so depth does not shrink the gradient.",
            "for name, module in model.named_children():\n"
            "    if isinstance(module, nn.Sigmoid):\n"
            "        setattr(model, name, nn.ReLU())",
        ),
        Remedy(
            "init.kaiming_normal",
            "layers.*",
            "Keeps the scale of the gradient from layer to layer, once ReLU is in place.",
            "nn.init.kaiming_normal_(layer.weight, nonlinearity='relu')",
            {"nonlinearity": "relu"},
            {"proven": True, "loss_before": 2.3021, "loss_after": 0.0312},
        ),
    ),
)
STALLED = Finding(
    rule="SF301",
    pathology=Pathology.STALLED,
    cause=Cause.UNKNOWN,
    severity=Severity.HARMFUL,
    sentence="In 900 steps the loss fell by less than 0.1 % of its value.",
    first_step=200,
    last_step=899,
    confidence=0.8,
    evidence=(Evidence("loss now / loss at the start", 0.9991, "below 0.9", 899),),
    follows="SF101",
)
ADVICE = Finding(
    rule="SF204",
    pathology=Pathology.SATURATED,
    cause=Cause.SATURATING_ACTIVATION,
    severity=Severity.ADVICE,
    sentence="12 % of the units of layers.6 are saturated.",
    layer="layers.6",
    first_step=40,
    last_step=299,
)


def vanishing() -> RunData:
    """Twelve sigmoid layers whose gradients fade, and the stall that follows."""
    losses = 2.303 + 0.004 * np.random.default_rng(1).normal(size=900)
    return run(12, 900, 0.25, losses, Report((VANISHING, STALLED), 900, (), "0.1.0"))


def healthy() -> RunData:
    """Twelve layers that train."""
    losses = 2.3 * np.exp(-np.arange(300) / 60) + 0.02
    return run(12, 300, 1.02, losses, Report((), 300, (), "0.1.0"))


def advised() -> RunData:
    """A healthy run with one thing worth knowing."""
    return replace(healthy(), report=Report((ADVICE,), 300, (), "0.1.0"))


def nonfinite() -> RunData:
    """A run that turns to NaN at step 60: gradients hold no finite element from then on."""
    losses = np.where(np.arange(100) < 60, 1.5, np.nan)
    finding = Finding(
        rule="SF201",
        pathology=Pathology.NONFINITE,
        cause=Cause.UNDEFINED_OPERATION,
        severity=Severity.FATAL,
        sentence="layers.9 made the first NaN from finite input: sqrt at zero, backward.",
        layer="layers.9",
        root=True,
        victims=("layers.0", "layers.2"),
        first_step=60,
        last_step=99,
        confidence=1.0,
        evidence=(Evidence("non-finite elements of its output", float("nan"), "0", 60),),
    )
    data = run(12, 100, 1.0, losses, Report((finding,), 100, (), "0.1.0"))
    norms = data.series["gradient"].high[:, ::5].copy()
    norms[60:] = 0
    counts = np.where(np.arange(100) < 60, 0.0, 4096.0)[:, None]
    series = {**data.series, "gradient": whole(statistics(norms, counts))}
    broken = flow(data.layers, 60, 1.0, replayed=True)
    for call in broken.calls[:14]:
        call.grad_output = stats(0.0, WIDTH * BATCH)
    for call in broken.calls[14:]:
        call.output = stats(3.0, 7)
    events = (Event(60, "alarm", {"layer": "layers.9"}), Event(60, "replay"))
    return replace(data, series=series, flows=(*data.flows, broken), events=events)


def all_nan() -> RunData:
    """Every number that was recorded is NaN."""
    data = nonfinite()
    series = {k: whole(np.full_like(s.last, np.nan)) for k, s in data.series.items()}
    blank = Flow(0, [replace(c, grad_output=stats(np.nan)) for c in data.flows[0].calls])
    return replace(data, series=series, flows=(blank,), events=())


def one_step() -> RunData:
    """A run that ended after its first step."""
    finding = replace(VANISHING, last_step=0)
    return run(12, 1, 0.25, np.array([2.303]), Report((finding,), 1, (), "0.1.0"))


def deep() -> RunData:
    """500 layers, and a thinned record of 4,000 steps with one spike of x1000."""
    spike = Finding(
        rule="SF401",
        pathology=Pathology.SPIKE,
        cause=Cause.BAD_BATCH,
        severity=Severity.HARMFUL,
        sentence="The batch of step 2500 raised the gradient 1000x in every layer.",
        root=True,
        first_step=2500,
        last_step=2500,
    )
    data = run(500, 16, 1.0, np.ones(16), Report((spike,), 4000, (), "0.1.0"))
    norms = np.tile(gradients(500, 40, 1.0).astype(np.float32), (100, 1))
    norms[2500] *= 1000
    losses = (2.0 + np.sin(np.arange(4000) / 9))[:, None]
    losses[2500] = 1e4
    series = {
        **data.series,
        "gradient": thinned(statistics(norms)),
        "loss": thinned(losses),
        "learning_rate": thinned(np.linspace(0.1, 0, 4000)[:, None] * [1, 0.5]),
    }
    events = tuple(Event(i, "thinned") for i in range(512, 4000, 512))
    return replace(data, series=series, events=(*events, Event(2500, "alarm")))


def renamed(data: RunData, name: Callable[[int], str]) -> RunData:
    """The same run with other layer names, in the findings too."""
    layers = table(12, name)
    new = {f"layers.{i}": name(i) for i in range(23)}
    findings = tuple(
        replace(
            f,
            layer=new.get(f.layer or "", f.layer),
            victims=tuple(new[v] for v in f.victims),
            sentence=f.sentence.replace("layers.18", name(18)),
        )
        for f in data.report.findings
    )
    return replace(data, layers=layers, report=replace(data.report, findings=findings))


def long_names() -> RunData:
    """Names of some 300 characters that differ only at their ends."""
    return renamed(vanishing(), lambda i: "backbone.encoder." + "stage." * 45 + f"block.{i}.fc")


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\u202e</script>{{7*7}}%{y}"


def hostile() -> RunData:
    """Names and words that try to become code wherever they are printed."""
    data = renamed(vanishing(), lambda i: f"{HOSTILE}.{i}")
    told = {"kind": HOSTILE, "world": 2, "ranks": [{"rank": 0, "scale": 1.0, "loss": 2.0}]}
    events = (
        Event(3, HOSTILE, {HOSTILE: HOSTILE}),
        Event(3, "ranks", told),
        act(5, "skip", reason=HOSTILE, parameter=HOSTILE),
        look(32, 0.1, [[f"{HOSTILE}.0", 0.1]]),
    )
    for call in data.flows[0].calls[2::2]:
        call.activation, call.frozen = "sigmoid", 0.5
    remedy = Remedy(HOSTILE, HOSTILE, HOSTILE, f"# {HOSTILE}\nx = 1", {}, {HOSTILE: HOSTILE})
    evidence = Evidence(HOSTILE, HOSTILE, HOSTILE, 0)
    first = replace(data.report.findings[0], rule=HOSTILE, evidence=(evidence,), remedies=(remedy,))
    report = replace(data.report, findings=(first, *data.report.findings[1:]), surefoot=HOSTILE)
    environment = {HOSTILE: HOSTILE, "argv": [HOSTILE]}
    return replace(data, name=HOSTILE, report=report, events=events, environment=environment)


def bare() -> RunData:
    """A run of which nothing was recorded at all."""
    return RunData(
        "empty", Report((), 0, ("No optimizer step was seen.",), "0.1.0"), table(0, str), {}
    )


def inconclusive() -> RunData:
    """Too short a run to say anything."""
    missing = (
        "Only 3 steps were seen; a verdict on the learning rate needs about 30: "
        "surefoot run train.py --epochs 3",
        "The loss was never seen, because backward was called on gradients: "
        "surefoot check project.train:build",
    )
    data = run(12, 3, 0.9, np.full(3, np.nan), Report((), 3, missing, "0.1.0"))
    return replace(data, series={k: v for k, v in data.series.items() if k != "loss"})


def act(step: int, rung: str, **detail: Any) -> Event:
    """What a guard did at a step, as the ledger keeps it."""
    told = {"rung": rung, "reason": "the gradient is not finite", "parameter": "layers.4.weight"}
    return Event(step, "guard", {"step": step, **told, "factor": None, **detail})


def guarded() -> RunData:
    """A run that a guard clipped, held back, rolled back and at last halted."""
    clipped = (act(step, "clip", reason="out of line", factor=7.5) for step in range(20, 180, 8))
    events = (
        *clipped,
        act(60, "skip"),
        act(61, "skip", parameter=HOSTILE, reason=HOSTILE),
        act(62, "roll back"),
        act(90, "undo"),
        act(199, "halt", factor="inf"),
        Event(60, "alarm", {"kind": "nonfinite"}),
    )
    losses = 2.3 * np.exp(-np.arange(200) / 60) + 0.02
    counts = {"clip": 20, "skip": 2, "roll back": 1, "undo": 1, "halt": 1}
    guard = Guarded(counts, 20, "out of line", "layers.4.weight")
    data = run(12, 200, 1.02, losses, Report((), 200, (), "0.1.0", guard=guard))
    return replace(data, events=events)


def look(step: int, coherence: float, curve: list[Any], **detail: Any) -> Event:
    """What the shattering probe saw at a step, as the ledger keeps it."""
    told = {"coherence": coherence, "white": 0.08, "of": "input", "samples": 64, "curve": curve}
    return Event(step, "shattering", {**told, **detail})


def shattered() -> RunData:
    """Twelve layers whose gradients agree near the loss and are noise at the input."""
    data = replace(vanishing(), flows=())
    names = [layer.name for layer in data.layers.layers if layer.kind is Kind.LINEAR]
    first: list[Any] = [[name, 0.97 * 0.75 ** (11 - i)] for i, name in enumerate(names)]
    last: list[Any] = [[name, 0.9 * 0.6 ** (11 - i)] for i, name in enumerate(names)]
    last[3][1] = "nan"
    events = (look(32, 0.02, first), look(128, 0.5, first[:2]), look(512, -0.01, last))
    return replace(data, events=events)


def ranked() -> RunData:
    """Eight processes, of which the batches of one, and the silence of two, stand out."""
    usual = {"scale": 1.0, "loss": 1.0, "bad": 0, "lost": False}
    told = [{**usual, "rank": rank, "loss": 0.9 + 0.03 * rank} for rank in (0, 1, 2, 4, 6, 7)]
    told[3] |= {"scale": 51.2, "loss": 8.0}
    broken = [{**usual, "rank": rank, "scale": 1.0 + 0.1 * rank} for rank in range(8)]
    broken[5] |= {"loss": float("nan"), "bad": 12, "lost": True}
    events = (
        Event(40, "ranks", {"kind": "spike", "world": 8, "ranks": told}),
        Event(60, "alarm", {"kind": "nonfinite", "world": 8, "ranks": broken}),
        Event(60, "ranks", {"kind": "nonfinite", "world": 8, "ranks": broken}),
    )
    return replace(nonfinite(), events=events)


def saturated() -> RunData:
    """ReLU units that die during the run, and tanh units that were saturated from the start."""
    data = run(6, 300, 0.9, np.full(300, 2.3), Report((ADVICE,), 300, (), "0.1.0"))
    flows = []
    for step, asleep in ((0, 0.1), (256, 0.97)):
        one = flow(data.layers, step, 0.9)
        for call in one.calls:
            if data.layers.layers[call.layer].kind is Kind.ACTIVATION:
                relu = call.layer < 6
                call.activation = "relu" if relu else "tanh"
                call.frozen = asleep if relu else 0.4
                zeros = round((0.5 + asleep / 2) * WIDTH * BATCH) if relu else 0
                call.output = replace(stats(30.0), zeros=zeros)
        flows.append(one)
    flows[1].calls[1].activation, flows[1].calls[1].frozen = "relu", 0.2  # by a function
    return replace(data, flows=tuple(flows))


FIXTURES: dict[str, Callable[[], RunData]] = {
    f.__name__: f
    for f in (
        vanishing,
        healthy,
        advised,
        nonfinite,
        all_nan,
        one_step,
        deep,
        long_names,
        hostile,
        bare,
        inconclusive,
        guarded,
        shattered,
        ranked,
        saturated,
    )
}


class Page(HTMLParser):
    """What a browser would make of the page: elements with attributes, text, scripts."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._raw = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._raw = tag if tag in ("script", "style") else ""
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._raw = ""

    def handle_data(self, data: str) -> None:
        if self._raw == "script":
            self.scripts[-1] += data
        elif not self._raw:
            self.text += data

    def every(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]
