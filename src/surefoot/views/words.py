"""The words of a verdict: plain names for what surefoot found, and numbers that people can read.

Whatever comes from a run passes through `clean` or `number` before it is shown anywhere.
"""

from __future__ import annotations

import math
from typing import Any

from surefoot.findings import Cause, Finding, Pathology, Report, Severity

PATHOLOGY: dict[Pathology, tuple[str, str]] = {
    # what it is called, and what follows from it for the training
    Pathology.EXPLODING: (
        "exploding gradients",
        "The correction grows on its way back through the layers, so each step throws the early "
        "layers about by huge amounts: the loss jumps or overflows instead of falling.",
    ),
    Pathology.VANISHING: (
        "vanishing gradients",
        "The correction fades on its way back through the layers, so those near the input hardly "
        "change: the network cannot use them, however long it trains.",
    ),
    Pathology.SHATTERED: (
        "shattered gradients",
        "Two almost equal inputs ask for unrelated changes, so the steps cancel each other like "
        "noise and training crawls.",
    ),
    Pathology.COLLAPSED: (
        "collapsed representations",
        "All inputs look alike by the time they reach the last layers, so the gradient says "
        "nothing about the input and only an average answer can be learned.",
    ),
    Pathology.SPIKE: (
        "gradient spike",
        "One step moved the weights far more than all others: what was learned before may be "
        "undone, and the optimizer's averages stay distorted for many steps.",
    ),
    Pathology.NONFINITE: (
        "NaN or infinite values",
        "One NaN spreads to every weight that it touches within a single step, and nothing "
        "computed with those weights is a number again.",
    ),
    Pathology.OSCILLATING: (
        "oscillating loss",
        "Each step overshoots the valley and the next one jumps back, so the loss bounces "
        "instead of settling.",
    ),
    Pathology.STALLED: (
        "stalled training",
        "The weights move too little to matter: time passes and nothing is learned.",
    ),
    Pathology.SATURATED: (
        "saturated units",
        "Units on the flat part of their activation pass no correction on, so what lies before "
        "them does not learn.",
    ),
    Pathology.DEAD: (
        "dead units",
        "Units that never switch on receive no correction and cannot recover: the network is "
        "smaller than it looks.",
    ),
}

CAUSE: dict[Cause, tuple[str, str]] = {
    # a short name, and the cause in one plain sentence
    Cause.WEIGHTS_TOO_LARGE: (
        "weights too large",
        "The weights are larger than the width of the layer allows, so every pass multiplies.",
    ),
    Cause.WEIGHTS_TOO_SMALL: (
        "weights too small",
        "The weights are smaller than the width of the layer asks for, so every pass shrinks.",
    ),
    Cause.SATURATING_ACTIVATION: (
        "saturating activation",
        "The activation function is flat where it is used: its slope is the factor by which the "
        "correction shrinks.",
    ),
    Cause.UNBOUNDED_ACTIVATION: (
        "unbounded activation",
        "The activation function grows faster than the weights can hold back.",
    ),
    Cause.DEAD_RELU: (
        "dead ReLU units",
        "The units' inputs are negative for every example, where ReLU has slope zero.",
    ),
    Cause.DEPTH_WITHOUT_SKIP: (
        "depth without skip connections",
        "So many layers in a row, without a path around them, blur every signal.",
    ),
    Cause.NORMALIZATION_WITHOUT_SKIP: (
        "normalization without skip connections",
        "Normalization without a path around it amplifies the correction at every layer.",
    ),
    Cause.RECURRENT_WEIGHTS: (
        "recurrent weights",
        "The same weights act once per time step, so a gain other than one becomes a power.",
    ),
    Cause.LEARNING_RATE_TOO_HIGH: (
        "learning rate too high",
        "The steps are longer than the curvature of the loss allows.",
    ),
    Cause.LEARNING_RATE_TOO_LOW: (
        "learning rate too low",
        "The steps are far shorter than the loss would allow.",
    ),
    Cause.LOSS_SCALE: (
        "scale of the loss",
        "The loss is multiplied by a number that the learning rate was not chosen for.",
    ),
    Cause.INPUT_SCALE: (
        "scale of the input",
        "The data reach the model at a scale far from one.",
    ),
    Cause.BAD_BATCH: (
        "bad batch",
        "The data of this one batch are unlike all the others.",
    ),
    Cause.NONFINITE_INPUT: (
        "NaN or infinity in the data",
        "The data already contain NaN or infinity when they reach the model.",
    ),
    Cause.DTYPE_OVERFLOW: (
        "overflow of the number format",
        "A value is larger than the number format can hold.",
    ),
    Cause.DTYPE_UNDERFLOW: (
        "underflow of the number format",
        "Values are smaller than the number format can tell from zero.",
    ),
    Cause.UNDEFINED_OPERATION: (
        "undefined operation",
        "An operation has no finite answer for this input, such as log(0), 0/0 or the slope of "
        "a square root at zero.",
    ),
    Cause.OUTPUT_ACTIVATION_MISMATCH: (
        "output activation does not fit the loss",
        "The model ends in an activation that the loss function applies again.",
    ),
    Cause.GRADIENTS_NOT_ZEROED: (
        "gradients not zeroed",
        "Gradients of earlier steps are still there when the next ones are added.",
    ),
    Cause.DISCONNECTED_PARAMETERS: (
        "disconnected parameters",
        "No path leads from these parameters to the loss.",
    ),
    Cause.OPTIMIZER_STATE: (
        "state of the optimizer",
        "What the optimizer remembers of earlier gradients no longer fits those of today.",
    ),
    Cause.UNKNOWN: ("cause unknown", "No test could single out one cause."),
}

SEVERITY: dict[Severity, str] = {
    Severity.FATAL: "the run is lost, or was saved only by the guard",
    Severity.HARMFUL: "it learns clearly worse than it could",
    Severity.ADVICE: "worth knowing; the run is fine",
}


def clean(text: object) -> str:
    r"""Text safe to show on one line: whitespace collapsed, control characters replaced.

    Terminal escapes, right-to-left overrides and lone surrogates all become U+FFFD.

    >>> ascii(clean("fc1\x1b[2J"))
    "'fc1\\ufffd[2J'"
    """
    line = " ".join(str(text).split())
    return "".join(c if c.isprintable() else "\ufffd" for c in line)


def clean_code(text: str) -> str:
    """Code to paste, with its line breaks and indentation, without control characters."""
    lines = str(text).expandtabs(4).strip("\n").splitlines()
    return "\n".join("".join(c if c.isprintable() else "\ufffd" for c in x) for x in lines)


def capital(text: str) -> str:
    """`clean` text with a capital at its start.

    >>> capital("dead ReLU units")
    'Dead ReLU units'
    """
    text = clean(text)
    return text[:1].upper() + text[1:]


def sentence(text: str) -> str:
    """`clean` text with a capital at its start and a full stop at its end.

    >>> sentence("a step that is not taken cannot poison the weights")
    'A step that is not taken cannot poison the weights.'
    """
    text = capital(text)
    return text + ("" if text.endswith((".", "!", "?")) else ".")


def shorten(text: str, width: int) -> str:
    r"""`clean` text of at most `width` characters, the middle left out: both ends tell names apart.

    >>> ascii(shorten("transformer.h.11.mlp.c_proj", 15))
    "'trans\\u2026lp.c_proj'"
    """
    text = clean(text)
    if len(text) <= width:
        return text
    tail = (width - 1) * 2 // 3
    return f"{text[: width - 1 - tail]}\u2026{text[len(text) - tail :]}"


def number(value: Any) -> str:
    """A number with three significant digits, a whole number in full, a word as it is.

    >>> number(0.000123456), number(2.3), number(64.0), number(float("inf")), number(None)
    ('1.23e-4', '2.30', '64', 'infinity', 'not measured')
    """
    if hasattr(value, "item"):
        value = value.item()
    if value is None:
        return "not measured"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        word = clean(value)
        return {"nan": "NaN", "inf": "infinity", "-inf": "-infinity"}.get(word, word)
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("infinity" if value > 0 else "-infinity")
    if value.is_integer() and abs(value) < 1e6:
        return f"{int(value):,}"
    if 1e-3 <= abs(value) < 999.5:
        return f"{value:#.3g}".rstrip(".")
    if 999.5 <= abs(value) < 1e6:
        return f"{float(f'{value:.3g}'):,.0f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def finite(value: float) -> str:
    """A number of a record as `number`; where it is none, that.

    A record cannot tell NaN from infinity, and whoever follows a run has no use for it either.

    >>> finite(0.5), finite(float("inf"))
    ('0.500', 'not finite')
    """
    return number(value) if math.isfinite(value) else "not finite"


def percent(share: float) -> str:
    """A share of one in whole per cent, whatever a stranger's report holds in its place.

    >>> percent(0.937), percent(1e308), percent(float("nan"))
    ('94 %', '100 %', 'NaN')
    """
    return number(share) if math.isnan(share) else f"{100 * min(max(share, 0), 1):.0f} %"


def plural(count: int, noun: str) -> str:
    """`count` and `noun`, in the plural unless it is one.

    >>> plural(1, "step"), plural(900, "step")
    ('1 step', '900 steps')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def when(finding: Finding) -> str:
    """`at step 7` for what happened once, `since step 7` for what lasts."""
    once = finding.first_step == finding.last_step and finding.pathology is Pathology.SPIKE
    return f"{'at' if once else 'since'} step {finding.first_step:,}"


def lead(report: Report) -> Finding | None:
    """The finding that the verdict speaks of: the root one that matters most, else the worst."""
    return report.root or max(report.findings, key=lambda f: f.severity.rank, default=None)


def proof_words(proof: dict[str, Any] | None) -> str:
    """What is known of a remedy's effect, in words; `proof` is `Remedy.proof`."""
    if proof is None:
        return "proposed, not yet tried on this model"
    if isinstance(proof.get("outcome"), str):
        told = clean(proof.get("words") or "")
        return f"{clean(proof['outcome'])}{f': {told}' if told else ''}"
    worked = proof.get("proven", proof.get("helped"))
    head = {True: "proven by a trial", False: "tried; did not help"}.get(worked, "tried")
    rest = [
        f"{clean(k).replace('_', ' ')} {number(v)}"
        for k, v in proof.items()
        if k not in ("proven", "helped") and isinstance(v, str | int | float)
    ]
    return ": ".join([head, ", ".join(rest)]) if rest else head
