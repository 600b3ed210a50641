"""What the instrumented steps saw of a layer, each number with a sentence for those new to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from surefoot.layers import Kind
from surefoot.record.data import RunData
from surefoot.signals.flow import Call, Flow, TensorStats
from surefoot.views.words import number, plural

Word = str | None  # for a number, None where it was not measured


@dataclass(frozen=True, slots=True)
class Row:
    """One line: what was measured at each of the steps, what it means, which rules judge it."""

    title: str
    values: tuple[Word, ...]
    meaning: str
    rules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """The table of a layer: its columns, a title each, and its rows; notes: what limits it."""

    steps: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def seen(data: RunData, layer: int) -> Seen:
    """What the first and the last instrumented step saw of a layer: of its first call in each."""
    flows = [*data.flows[:1], *data.flows[1:][-1:]]
    called = [_calls(flow, layer) for flow in flows]
    if not any(called):
        return Seen((), ())
    first = [calls[0] if calls else None for calls in called]
    rows = [
        Row(title, tuple(None if c is None else read(c) for c in first), meaning, _rules(rules, c0))
        for (title, read, meaning, rules), c0 in ((line, _one(first)) for line in _LINES)
    ]
    return Seen(
        tuple(f"step {f.step:,}" + (" (re-executed)" if f.replayed else "") for f in flows),
        tuple(row for row in rows if any(value is not None for value in row.values)),
        tuple(_notes(data, layer, flows, called)),
    )


def growth(call: Call) -> float:
    """The factor by which the gradient's norm changes on its way back through a call.

    NaN where one of its ends was not measured, is not finite, or is nothing at all.
    """
    ends = call.grad_input, call.grad_output
    if any(end is None or end.nonfinite or not math.isfinite(end.norm) for end in ends):
        return math.nan
    leaving, arriving = ends
    if leaving is None or arriving is None or arriving.norm == 0:
        return math.nan
    return leaving.norm / arriving.norm


def share(value: float | None) -> Word:
    """A share in percent, as words.

    >>> share(0.1234), share(0.0), share(None)
    ('12.3 %', '0 %', None)
    """
    return None if value is None or not math.isfinite(value) else f"{number(100 * value)} %"


def _calls(flow: Flow, layer: int) -> list[Call]:
    return sorted((c for c in flow.calls if c.layer == layer), key=lambda c: c.order)


def _one(calls: list[Call | None]) -> Call:
    return next(call for call in calls if call is not None)


def _rules(
    rules: tuple[str, ...] | Callable[[Call], tuple[str, ...]], call: Call
) -> tuple[str, ...]:
    return rules(call) if callable(rules) else rules


def _notes(data: RunData, layer: int, flows: list[Flow], called: list[list[Call]]) -> list[str]:
    notes = []
    for flow, calls in zip(flows, called, strict=True):
        if not calls:
            notes.append(f"It was not called in step {flow.step:,}.")
        elif len(calls) > 1:
            times = plural(len(calls), "time")
            notes.append(
                f"It was called {times} in step {flow.step:,}; the numbers are of its first call."
            )
    if any(call.identity for calls in called for call in calls[:1]):
        notes.append("A skip connection leads past it, so part of the gradient need not pass it.")
    if data.layers.layers[layer].kind is Kind.CONTAINER:
        notes.append("It holds other layers: the numbers are of all of them together.")
    return notes


def _rms(stats: TensorStats | None) -> Word:
    return None if stats is None else _finite(stats, stats.rms)


def _norm(stats: TensorStats | None) -> Word:
    return None if stats is None else _finite(stats, stats.norm)


def _finite(stats: TensorStats, value: float) -> str:
    """A number over the finite elements; over none it says nothing."""
    return "no finite value" if 0 < stats.numel <= stats.nonfinite else number(float(value))


def _factor(value: float) -> Word:
    return None if math.isnan(value) else f"{number(float(value))}x"


def _zeros(call: Call) -> Word:
    out = call.output
    return share(out.zeros / out.numel) if out is not None and out.numel else None


def _broken(call: Call) -> Word:
    """How many elements are not finite: of the output, and of the gradient that arrives."""
    known = [
        (name, stats.nonfinite)
        for name, stats in (("signal", call.output), ("gradient", call.grad_output))
        if stats is not None
    ]
    if not known:
        return None
    bad = [f"{count:,} in the {name}" for name, count in known if count]
    return ", ".join(bad) or "none"


def _through_time(call: Call) -> Word:
    """How much of the last hidden state's gradient reaches the first one."""
    times = [x for x in call.through_time or () if math.isfinite(x)]
    return None if not times else _factor(10.0 ** min(times[0], 300.0))


def _weights(call: Call) -> Word:
    return None if call.weight_norm is None else number(call.gain)


def _flat_rules(call: Call) -> tuple[str, ...]:
    return ("SF105",) if call.activation in ("relu", "leaky_relu") else ("SF108",)


def _growth_rules(call: Call) -> tuple[str, ...]:
    return ("SF103",) if call.through_time else ("SF101", "SF102")


# title, how it is read, what it means, the rules that judge it
_LINES: tuple[
    tuple[
        str,
        Callable[[Call], Word],
        str,
        tuple[str, ...] | Callable[[Call], tuple[str, ...]],
    ],
    ...,
] = (
    (
        "Signal coming in, rms",
        lambda call: _rms(call.input),
        "The typical size of the numbers that the layer receives. About 1 is comfortable; "
        "hundreds, or thousandths, are what most layers were not made for.",
        lambda call: ("SF304",) if call.spread is not None else (),
    ),
    (
        "Signal going out, rms",
        lambda call: _rms(call.output),
        "The typical size of what it hands on. Compare it with what came in: a layer that keeps "
        "the size can be repeated a hundred times, one that doubles it cannot.",
        (),
    ),
    (
        "Gradient arriving, norm",
        lambda call: _norm(call.grad_output),
        "How strongly the loss asks this layer's output to change. If it is next to nothing, the "
        "layers behind it have lost the correction on its way.",
        (),
    ),
    (
        "Gradient leaving, norm",
        lambda call: _norm(call.grad_input),
        "The same for its input, and so what the layer before it receives.",
        (),
    ),
    (
        "Growth of the gradient",
        lambda call: _factor(growth(call)),
        "Leaving over arriving. Once is harmless; the factors of all layers multiply, so that 0.25 "
        "in ten layers leaves a millionth, and 4 makes a million.",
        _growth_rules,
    ),
    (
        "Gradient through time",
        _through_time,
        "How much of the gradient at the last time step is left at the first one. Far below 1 the "
        "layer forgets what came early; far above 1 its steps are thrown about.",
        ("SF103",),
    ),
    (
        "Gain of the weights",
        _weights,
        "By how much the weights alone scale a signal of independent parts. About 1 behind tanh, "
        "1.4 behind ReLU, which drops half of what it receives.",
        ("SF101", "SF102"),
    ),
    (
        "Units that pass nothing on",
        lambda call: share(call.frozen),
        "Units so flat, or so firmly off, that no correction gets through them, whatever the "
        "sample. A few are normal; if most are, what lies before them cannot learn.",
        _flat_rules,
    ),
    (
        "Likeness of the samples",
        lambda call: None if call.cosine is None else number(float(call.cosine)),
        "How alike the outputs for different samples are: 1 means that they all point the same "
        "way, and then the layer says nothing about its input.",
        ("SF104",),
    ),
    (
        "Zeros going out",
        _zeros,
        "The share of its outputs that is exactly zero. Half is what a ReLU gives; nearly all "
        "means that it is asleep.",
        lambda call: ("SF105",) if call.activation == "relu" else (),
    ),
    (
        "NaN or infinity",
        _broken,
        "Elements that are no number any more. A single one is enough to spoil every weight it "
        "reaches; the other rows leave them out.",
        ("SF201",),
    ),
)
