"""Runs made up for the tests of the views: one for each way in which a page can look wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np

from surefoot.findings import Cause, Evidence, Finding, Pathology, Remedy, Report, Severity
from surefoot.layers import Kind, Layer, LayerTable, Parameter
from surefoot.record.data import Event, RunData
from surefoot.record.series import Series, Thinned
from surefoot.signals.flow import Call, Flow, TensorStats

WIDTH, BATCH = 64, 32
ENVIRONMENT: dict[str, Any] = {
    "surefoot": "0.1.0",
    "python": "3.11.7",
    "torch": "2.13.0+cpu",
    "device": "cpu",
    "kernel": "native (AVX-512)",
    "argv": ["train.py", "--epochs", "3"],
    "options": {"forensics": True, "ignore": []},
}


def table(depth: int, name: Callable[[int], str], activation: str = "Sigmoid") -> LayerTable:
    """A multilayer perceptron of `depth` linear layers; `name(2i)` linear, `name(2i+1)` not."""
    layers = [Layer("", "Mlp", Kind.CONTAINER, None, False)]
    parameters = []
    for i in range(depth):
        for suffix, shape in (("weight", (WIDTH, WIDTH)), ("bias", (WIDTH,))):
            parameters.append(
                Parameter(
                    f"{name(2 * i)}.{suffix}",
                    len(layers),
                    shape,
                    "float32",
                    int(np.prod(shape)),
                )
            )
        layers.append(Layer(name(2 * i), "Linear", Kind.LINEAR, 0, True))
        if i < depth - 1:
            layers.append(Layer(name(2 * i + 1), activation, Kind.ACTIVATION, 0, True))
    return LayerTable("Mlp", tuple(layers), tuple(parameters))


def whole(rows: np.ndarray, steps: np.ndarray | None = None) -> Series:
    """A series [T, C] of which nothing was thinned."""
    rows = np.asarray(rows, np.float32)
    steps = np.arange(len(rows)) if steps is None else steps
    return Series(np.asarray(steps, np.int64), rows, rows, rows)


def thinned(rows: np.ndarray, capacity: int = 512) -> Series:
    """The same after the record's own thinning."""
    series = Thinned(rows.shape[1], capacity)
    for step, row in enumerate(rows):
        series.append(step, row)
    return series.series()


def stats(norm: float, nonfinite: int = 0) -> TensorStats:
    """Of a [32, 64] tensor."""
    return TensorStats(norm, norm / 8, 0.0, nonfinite, 0, WIDTH * BATCH)


def flow(data_table: LayerTable, step: int, gain: float, replayed: bool = False) -> Flow:
    """A step in which each linear layer multiplies the gradient by `gain` on its way back."""
    calls, gradient = [], 0.05
    linear = [i for i, layer in enumerate(data_table.layers) if layer.kind is Kind.LINEAR]
    back = {layer: gradient * gain**i for i, layer in enumerate(reversed(linear))}
    for order, layer in enumerate(range(len(data_table.layers))):
        norm = back.get(layer, gradient)
        forward = 30.0 + 8 * np.sin(layer)
        calls.append(Call(layer, order, stats(forward), stats(forward), stats(norm), stats(norm)))
    return Flow(step, calls, replayed)


def gradients(depth: int, steps: int, gain: float, seed: int = 0) -> np.ndarray:
    """Gradient norms [T, 2 * depth] of a perceptron with that gain per layer."""
    noise = np.random.default_rng(seed).normal(0, 0.06, (steps, 2 * depth))
    depthwise = np.repeat(gain ** np.arange(depth)[::-1], 2) * np.tile([0.4, 0.1], depth)
    return depthwise * 10**noise


def statistics(norms: np.ndarray, nonfinite: float | np.ndarray = 0.0) -> np.ndarray:
    """Rows [T, 5 P] of the quantity "gradient" from norms [T, P] and counts of non-finite."""
    parts = [norms, norms / 8, 0 * norms, nonfinite + 0 * norms, 0 * norms]
    return np.stack(parts, axis=2).reshape(len(norms), -1)


def run(depth: int, steps: int, gain: float, losses: np.ndarray, report: Report) -> RunData:
    """A watched training of that depth; `gain` is what each layer does to the gradient."""
    layers = table(depth, lambda i: f"layers.{i}")
    norms = gradients(depth, steps, gain)
    sampled = np.arange(0, steps, 16)
    series = {
        "loss": whole(losses[:, None]),
        "learning_rate": whole(np.full((steps, 1), 0.05)),
        "gradient": whole(statistics(norms)),
        "update_ratio": whole(norms[sampled] * 4e-3, sampled),
    }
    flows = (flow(layers, 0, gain),)
    return RunData("digits-sigmoid", report, layers, series, flows, (), ENVIRONMENT)


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
    events = (Event(3, HOSTILE, {HOSTILE: HOSTILE}),)
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
