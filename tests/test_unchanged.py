"""Watching changes nothing: the same training with and without, bit for bit, whatever happens.

Every case is a training script in small. It is run once alone and once under a session that takes
every sample it can (the time budget is lifted, so that nothing depends on the machine).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from surefoot.watching import forensics as forensics_module
from surefoot.watching import losses as losses_module
from surefoot.watching import measuring as measuring_module
from surefoot.watching import replays as replays_module
from surefoot.watching import session as session_module
from surefoot.watching import training as training_module
from surefoot.watching import updates as updates_module
from surefoot.watching.budget import Budget
from surefoot.watching.session import Session
from unchanged_fixture import BAD, CASES, STEPS, Case, dropout


class Counted:
    """A user's own hooks on every module and parameter, and how often each was called."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.calls: dict[str, int] = {}
        for k, root in enumerate(modules):
            for name, module in root.named_modules():
                module.register_forward_pre_hook(self._note(f"{k}.{name} before"))
                module.register_forward_hook(self._note(f"{k}.{name} after"))
            for name, p in root.named_parameters():
                p.register_hook(self._note(f"{k}.{name} gradient"))
                p.register_post_accumulate_grad_hook(self._note(f"{k}.{name} accumulated"))

    def _note(self, key: str) -> Callable[..., None]:
        def hook(*args: Any) -> None:
            self.calls[key] = self.calls.get(key, 0) + 1

        return hook


def value(x: Any) -> Any:
    """An attribute in a form that compares with ==, NaN equal to NaN."""
    if isinstance(x, torch.Tensor):
        return (str(x.dtype), tuple(x.shape), x.requires_grad, repr(x.detach().flatten().tolist()))
    if isinstance(x, (int, float, str, bool, type(None))):
        return repr(x)
    if isinstance(x, (list, tuple)):
        return [value(item) for item in x]
    if isinstance(x, (dict, set)):
        return [len(x), [k for k in x if isinstance(k, str)]]
    return type(x).__name__


def state(case: Case) -> dict[str, Any]:
    """All that a training leaves: weights, gradients, buffers, attributes, generators."""
    seen: dict[str, Any] = {}
    for k, root in enumerate(case.modules):
        for name, p in root.named_parameters():
            seen[f"{k}.{name}"] = value(p)
            seen[f"{k}.{name}.grad"] = value(p.grad)
        for name, b in root.named_buffers():
            seen[f"{k}.{name} buffer"] = value(b)
        for name, module in root.named_modules():
            seen[f"{k}.{name} attributes"] = {n: value(v) for n, v in module.__dict__.items()}
    seen["torch"] = torch.get_rng_state().tolist()
    seen["random"] = random.getstate()
    seen["numpy"] = repr(np.random.get_state())
    return seen


def run(make: Callable[[str], Case], spoil: str, watching: Session | None = None) -> dict[str, Any]:
    """One training from its seed to its end, watched or alone; everything there is to see of it."""
    if watching is not None:
        watching.start()
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    try:
        case = make(spoil)
        counted = Counted(case.modules)
        losses = [repr(case.step(i)) for i in range(STEPS)]
    finally:
        if watching is not None:
            watching.stop()
    return state(case) | {"losses": losses, "hooks": counted.calls}


def differences(alone: dict[str, Any], watched: dict[str, Any]) -> list[str]:
    return [key for key in alone.keys() | watched.keys() if alone.get(key) != watched.get(key)]


@pytest.fixture
def lavish(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time budget: every sample and replay that could be taken is taken."""
    monkeypatch.setattr(Budget, "affordable", lambda self, cost: True)


@pytest.mark.usefixtures("lavish")
@pytest.mark.parametrize("spoil", ["", "spike", "nan"])
@pytest.mark.parametrize("name", CASES)
def test_watching_changes_nothing(name: str, spoil: str, caplog: pytest.LogCaptureFixture) -> None:
    alone = run(CASES[name], spoil)
    watching = Session()
    watched = run(CASES[name], spoil, watching)
    assert not differences(alone, watched)
    assert not caplog.records
    assert watching.trainings
    if spoil and name == "scaler":
        return  # GradScaler takes no step on an overflow
    assert max(t.step for t in watching.trainings) >= STEPS
    alarms = [a for t in watching.trainings for a in t.case().alarms]
    assert spoil != "nan" or any(a.step == BAD for a in alarms)


# A closure; no step on an overflow; no hook before backward.
INEXACT = {"closure", "scaler", "by_hand"}
# Where normalisation or tanh takes the spike away, nothing needs to be replayed.
EXACT = [
    *((name, "nan") for name in CASES if name not in INEXACT),
    *((name, "spike") for name in ("dropout", "recurrent", "autocast", "own_loss")),
]


@pytest.mark.usefixtures("lavish")
@pytest.mark.parametrize(("name", "spoil"), EXACT)
def test_the_replay_is_exact(name: str, spoil: str) -> None:
    session = Session()
    run(CASES[name], spoil, session)
    alarms = [a for a in session.trainings[0].case().alarms if a.step == BAD]
    assert alarms
    assert alarms[0].detail["replay"] == "exact"
    replayed = [f for f in session.trainings[0].case().flows if f.replayed]
    assert replayed
    assert replayed[0].step == BAD
    assert replayed[0].calls


def test_a_difference_would_be_seen() -> None:
    """The comparison itself can fail."""

    def nosy(spoil: str) -> Case:
        case = dropout(spoil)
        case.modules[0].register_forward_hook(lambda *_: torch.rand(()) and None)
        return case

    assert differences(run(dropout, ""), run(nosy, ""))


# -- surefoot's own failures ----------------------------------------------------------------------


def broken(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("injected")


def broken_pass(count: int) -> Callable[..., None]:
    return broken


FAULTS: dict[str, str] = {
    "kernel pass": f"{measuring_module.__name__}.make_pass",
    "gate": "surefoot.diagnosis.gate.Gate.check",
    "gate's scores": "surefoot.diagnosis.gate.Gate.scores",
    "flow, entering": "surefoot.probes.flow.FlowProbe._begin",
    "flow, leaving": "surefoot.probes.flow.FlowProbe._see_leaf",
    "flow, statistics": "surefoot.probes.statistics.tensor_stats",
    "flow, collecting": "surefoot.probes.flow.FlowProbe.collect",
    "entry": "surefoot.probes.tap.Entry",
    "replay": f"{replays_module.__name__}.replay",
    "replay, aside": "surefoot.probes.attributes.Holdings.swap",
    "replay, search": "surefoot.probes.origin.OriginMode._look",
    "replay, comparing": "surefoot.probes.replay.common_factor",
    "loss read": f"{forensics_module.__name__}.criterion",
    "batch kept": f"{forensics_module.__name__}.Kept",
    "forensics": f"{forensics_module.__name__}.examine",
    "examination": "surefoot.probes.examine.blame",
    "loss's rise": "surefoot.watching.forensics.Rise.see",
    "draws": "surefoot.attach.loaders.Drawn.indices",
    "block sample": "surefoot.probes.blocks.float_tensors",
    "anatomy": f"{losses_module.__name__}.anatomy",
    "layer table": f"{training_module.__name__}.build_table",
    "discovery": f"{session_module.__name__}.find_roots",
    "update ratios": f"{updates_module.__name__}.update_ratios",
    "weights sampled": f"{updates_module.__name__}.sample_weights",
    "quantity": f"{measuring_module.__name__}._MEASURES",
    "series": "surefoot.record.series.Thinned.append",
    "writer put": "surefoot.record.Writer.put",
    "writer event": "surefoot.record.Writer.event",
    "writer flow": "surefoot.record.Writer.flow",
    "writer declare": "surefoot.record.Writer.declare",
    "writer report": "surefoot.record.Writer.report",
    "writer close": "surefoot.record.Writer.close",
}
SILENT = {"examination"}  # refused by the user's own model as often as not


# What two parts of surefoot need, each of which says once that it is left out.
TWICE = {"flow, collecting": 2}


@pytest.mark.usefixtures("lavish")
@pytest.mark.parametrize("name", FAULTS)
def test_a_failure_of_its_own_is_survived(
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    alone = run(dropout, "nan")
    special = {"kernel pass": broken_pass, "quantity": [("loss", broken)]}
    fault = special.get(name, broken)
    monkeypatch.setattr(FAULTS[name], fault)
    watching = Session(folder=tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        watched = run(dropout, "nan", watching)
    assert not differences(alone, watched)
    said = [r for r in caplog.records if r.levelno >= logging.WARNING]
    if name in SILENT:
        assert not said
    else:
        assert len(said) == TWICE.get(name, 1) or watching.problem is not None
    watching.report()


@pytest.mark.parametrize("rule", ["SF201", "SF301"])
def test_a_rule_that_fails_is_left_out(
    rule: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from dataclasses import replace

    from surefoot.diagnosis.rules import RULES

    alone = run(dropout, "nan")
    monkeypatch.setitem(RULES, rule, replace(RULES[rule], judge=broken))
    watching = Session()
    watched = run(dropout, "nan", watching)
    report = watching.report()
    assert not differences(alone, watched)
    assert all(f.rule != rule for f in report.findings)
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
