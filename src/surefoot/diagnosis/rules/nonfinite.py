"""A NaN or an infinity appeared, and where it was made.

**What.** A gradient or the loss is not finite. If the optimizer takes that step, every weight it
touches is lost.

**Why.** The batch itself held one; an operation left its domain (log or division at zero, the
square root's slope at zero, an attention row that is masked entirely); or a number outgrew its
dtype.

**Evidence.** The failing step run again with every operation watched: the first one that made a
non-finite value out of finite ones, its module, the range of what went into it, and whether the
same operation in float64 stays finite. Where the weights were not finite before the step began,
the optimizer made them so, and its own step is looked at. Of several ranks each looks at its own
part of the step; those are named on which such a value was made, unless it was made on all.

**Remedies.** Skip the step; mask or clamp the operation; compute it in float32. No clipping
survives a NaN.

**Thresholds.** Nothing is measured against one: a value is finite or it is not. `_HUGE` (1e8) only
names the cause where the operation could not be tried in float64: a float32 that is squared
overflows from 1.8e19 on, and no layer of unit scale reaches 1e8 unless something exploded before. A
batch that made one is to blame itself if its input has `_STANDS_OUT` (30) times the usual scale.
`_HALF` are the dtypes whose overflow is their own and not float32's. `_STEEP` functions are defined
everywhere; from `_STEEPEST` (88, the logarithm of the largest float32) on it is their size that no
float holds, even where float64 does not either.

**Source.** Definition: IEEE 754 arithmetic, the operation itself tried in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from surefoot.diagnosis import prescriptions
from surefoot.diagnosis.case import Case
from surefoot.diagnosis.forensics import lost_rows, tried
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.ranks import Local, in_words, locals_of, standing_out
from surefoot.diagnosis.rule import Rule
from surefoot.diagnosis.rules.bad_batch import standing
from surefoot.findings import Cause, Evidence, Finding, Pathology, Remedy, Severity
from surefoot.kernels import NONFINITE, STATISTICS
from surefoot.remedies import prescribed

_STANDS_OUT = 30.0  # times the usual scale of a batch
_HUGE = 1e8  # values beyond which an overflow is the end of an explosion, not its beginning
_HALF = ("float16", "bfloat16")
_STEEP = ("exp", "exp2", "expm1", "sinh", "cosh")  # defined everywhere, and soon beyond every float
_STEEPEST = 88.0  # log of the largest float32


def judge(case: Case) -> Iterator[Finding]:
    """Judge the first non-finite alarm, or a loss that was non-finite without one."""
    alarm = next((a for a in case.alarms if a.detail.get("kind") == "nonfinite"), None)
    step = alarm.step if alarm is not None else case.facts.nonfinite_loss
    if step is None:
        return
    origin, loss = seen(case, step)
    told = locals_of(alarm)
    guilty = standing_out(told, lambda one: one.lost)
    if guilty:
        origin, loss = guilty[0].origin, guilty[0].anatomy
    cause, layer, why, evidence = explain(case, step, origin, loss, guilty[0] if guilty else None)
    if guilty:
        size = alarm.detail["world"] if alarm is not None else len(told)
        why = f"only on {in_words(guilty)} of {size}, where {why}"
        row = Evidence("ranks whose own step was not finite", in_words(guilty), "none", step)
        evidence.insert(0, row)
    names = [case.layers.parameters[i].name for i in _hit(case, alarm)]
    result = outcome(case)
    evidence.append(
        Evidence("parameters with a non-finite gradient", len(names) or None, "0", step)
    )
    if alarm is not None and alarm.detail.get("replay"):
        evidence.append(Evidence("replay of the step", alarm.detail["replay"], "exact", step))
    evidence += lost_rows(tried(case, step))
    lost = result.nonfinite
    after = "no step after it was finite" if lost else "the run went on"
    after = result.words() if result.untrained else after
    last = max((a.step for a in case.alarms if a.detail.get("kind") == "nonfinite"), default=step)
    yield Finding(
        rule=RULE.id,
        pathology=Pathology.NONFINITE,
        cause=cause,
        layer=layer,
        severity=_severity(case, alarm is not None),
        first_step=step,
        last_step=last,
        confidence=0.5 if cause is Cause.UNKNOWN else 0.95,
        sentence=f"Non-finite values at step {step}: {why}; {after}.",
        evidence=tuple(evidence),
        remedies=remedies(cause, layer),
    )


def seen(case: Case, step: int) -> tuple[dict[str, Any] | None, Mapping[str, Any]]:
    """(origin, loss) of a step, as far as they were seen: where the first such value was made."""
    flow = next((f for f in case.flows if f.step == step and f.origin), None)
    loss: Mapping[str, Any] = next((f.loss for f in case.flows if f.step == step and f.loss), {})
    if not loss and step == case.facts.nonfinite_loss:
        loss = case.lost
    return (flow.origin if flow else _between(case, step)), loss


def _severity(case: Case, reached: bool) -> Severity:
    """`reached`: non-finite gradients came to the optimizer, and were not skipped by the script."""
    result = outcome(case)
    if result.nonfinite:
        return Severity.FATAL
    return Severity.HARMFUL if reached or result.poor(0.5) else Severity.ADVICE


def _hit(case: Case, alarm: Any) -> list[int]:
    indices = alarm.detail.get("parameters", []) if alarm is not None else []
    return [i for i in indices if i < len(case.layers.parameters)]


def explain(
    case: Case,
    step: int,
    origin: dict[str, Any] | None,
    loss: Mapping[str, Any],
    local: Local | None = None,
) -> tuple[Cause, str | None, str, list[Evidence]]:
    """(cause, layer, clause, evidence) from the replay's origin and the loss's anatomy.

    local: of the rank that these are of, where it is not this one.
    """
    count = local.bad if local is not None else bad_inputs(case, step)
    if count:
        row = [Evidence("non-finite values in the batch", count, "0", step)]
        return Cause.NONFINITE_INPUT, None, f"the batch itself holds {count} of them", row
    if loss.get("target_nonfinite"):
        row = [Evidence("non-finite targets or loss weights", loss["target_nonfinite"], "0", step)]
        return (
            Cause.NONFINITE_INPUT,
            None,
            "the targets or loss weights of the batch hold them",
            row,
        )
    scale = local.scale if local is not None else standing(case, step)[0]
    if scale >= _STANDS_OUT:
        row = [Evidence("input scale over its median", scale, "< 5", step)]
        return Cause.BAD_BATCH, None, f"the batch's input is {scale:.3g}x the usual scale", row
    if origin is None or origin["where"] == "loss":
        words = loss.get("undefined")
        if words and origin is not None and np.isfinite(loss.get("value") or 0.0):
            words = f"the gradient of {words}"
        if words:
            row = [Evidence("in the loss function", words, "inside its domain", step)]
            return Cause.UNDEFINED_OPERATION, None, f"the loss function takes {words}", row
        if loss.get("half"):
            why = "the loss function computes in float16, and outgrew it"
            return Cause.DTYPE_OVERFLOW, None, why, []
        if origin is not None:
            why = "made by the loss function, from outputs of the model that are finite"
            return Cause.UNDEFINED_OPERATION, None, why, []
        return Cause.UNKNOWN, None, "where they were made could not be seen", []
    if origin["where"] == "input":
        return Cause.NONFINITE_INPUT, None, "the batch itself holds them", []
    if origin["where"] == "weights":
        return _weights(case, step, origin)
    return _operation(case, step, origin)


def bad_inputs(case: Case, step: int) -> int:
    """How many values of the step's batch are not finite."""
    inputs = case.get("input")
    at = np.flatnonzero(inputs.steps >= step)
    return int(inputs.high[at[0], 2]) if len(at) and inputs.high[at[0], 2] > 0 else 0


def _between(case: Case, step: int) -> dict[str, Any] | None:
    """What the instrumented step shows where no operation was seen making it.

    The first module to give a non-finite value, or to be given one by what lies between modules;
    the loss function if all of them gave finite ones.
    """
    flow = next((f for f in case.flows if f.step == step and f.calls), None)
    if flow is None:
        return None
    leaves = [c for c in flow.calls if case.layers.layers[c.layer].leaf and c.output]
    for call in sorted(leaves, key=lambda c: c.order):
        given = call.input is not None and call.input.nonfinite > 0
        if not given and not (call.output and call.output.nonfinite):
            continue
        largest = call.input.maxabs if call.input is not None else 0.0
        name = "what lies before it" if given else case.layers.layers[call.layer].type
        return {
            "where": "forward",
            "operation": name,
            "layer": None if given else call.layer,
            "lowest": -largest,
            "highest": largest,
            "dtype": call.dtype or "",
            "wider": True if call.dtype == "float16" and not given else None,
        }
    return {"where": "loss"} if leaves else None


def _weights(
    case: Case, step: int, origin: dict[str, Any]
) -> tuple[Cause, str | None, str, list[Evidence]]:
    """The weights themselves were not finite when the step began: what the one before it did."""
    layer = case.layers.title(origin["layer"]) if origin["layer"] is not None else None
    gradients = case.get("gradient")
    at = np.flatnonzero(gradients.steps == step - 1)
    bad = gradients.high[at[0]].reshape(-1, len(STATISTICS))[:, NONFINITE] if len(at) else []
    row = [Evidence("non-finite gradients at the step before", float(np.nansum(bad)), "0", step)]
    made = f"the weights of {layer} held them already"
    if not len(at) or np.nansum(bad):
        return Cause.UNKNOWN, layer, made, row
    made = f"{made}: {case.facts.optimizer} made them of finite gradients"
    if origin["dtype"] == "float16":
        why = "squares and eps under 6e-8 are zero in float16, and it divided by them"
        return Cause.DTYPE_UNDERFLOW, None, f"{made} ({why})", row
    return Cause.UNKNOWN, None, made, row


def _operation(
    case: Case, step: int, origin: dict[str, Any]
) -> tuple[Cause, str | None, str, list[Evidence]]:
    layer = case.layers.title(origin["layer"]) if origin["layer"] is not None else None
    low, high, name = origin["lowest"], origin["highest"], origin["operation"]
    largest = max(abs(low), abs(high))
    place = f"in {layer}" if layer else "outside of every module"
    back = "the gradient of " if origin["where"] == "backward" else ""
    rows = [
        Evidence("first operation to make one", f"{back}{name}", "none", step),
        Evidence("lowest value that went into it", low, "inside its domain", step),
        Evidence("highest value that went into it", high, "inside its domain", step),
    ]
    what = f"{back}{name} {place} made the first, from values in [{low:.3g}, {high:.3g}]"
    if origin["wider"] and origin["dtype"] in _HALF:
        return Cause.DTYPE_OVERFLOW, layer, f"{what}: more than {origin['dtype']} can hold", rows
    steep = name in _STEEP and largest > _STEEPEST
    if origin["wider"] or steep or (largest > _HUGE and origin["wider"] is not False):
        return Cause.DTYPE_OVERFLOW, layer, f"{what}: they outgrew {origin['dtype']}", rows
    return Cause.UNDEFINED_OPERATION, layer, f"{what}, where it is undefined", rows


def remedies(cause: Cause, layer: str | None) -> tuple[Remedy, ...]:
    """What to do about a value that is not finite; skipping its step always helps."""
    mend = {
        Cause.UNDEFINED_OPERATION: prescribed(
            "operation.mask",
            layer,
            "keep the argument inside the operation's domain, in both branches of a where",
            everywhere=layer is None,
        ),
        Cause.DTYPE_OVERFLOW: prescribed(
            "dtype.float32", layer, "float32 holds numbers up to 3e38, float16 only to 65504"
        ),
        Cause.DTYPE_UNDERFLOW: prescribed(
            "amp.master_weights", None, "an optimizer needs the range of float32 for its own state"
        ),
        Cause.NONFINITE_INPUT: prescribed(
            "data.clean", None, "such a sample cannot be learned from"
        ),
    }
    own = (mend[cause],) if cause in mend else ()
    return (*own, prescriptions.SKIP_STEP)


RULE = Rule("SF201", "Non-finite values", __doc__ or "", judge)
