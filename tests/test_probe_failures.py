"""A probe that fails costs that probe: the alarm says so in words, and the watching goes on."""

from __future__ import annotations

import gc
import logging
import pkgutil
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from replay_fixture import assert_exact
from surefoot.layers import build_table
from surefoot.probes import origin as origin_module
from surefoot.probes import tap as tap_module
from surefoot.probes.replay import Replay, replay
from surefoot.probes.safely import failed, safely
from surefoot.probes.tap import EntryTap
from surefoot.watching.budget import Budget
from surefoot.watching.replays import replay_in_words
from surefoot.watching.session import Session
from unchanged_fixture import BAD, STEPS, dropout


def broken(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("injected\nin two lines")


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def watched(spoil: str = "nan") -> Session:
    torch.manual_seed(0)
    session = Session()
    session.start()
    case = dropout(spoil)
    for step in range(STEPS):
        case.step(step)
    session.stop()
    return session


REPLAY = {
    "the replay itself": "surefoot.watching.replays.replay",
    "setting aside": "surefoot.probes.attributes.Holdings.swap",
    "the flow probe in it": "surefoot.probes.replay.FlowProbe.collect",
    "comparing": "surefoot.probes.replay.common_factor",
}


@pytest.mark.parametrize("name", REPLAY)
def test_a_replay_that_fails_is_told_in_the_alarm(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Budget, "affordable", lambda self, cost: True)
    torch.manual_seed(0)
    session = Session()
    session.start()
    case = dropout("nan")
    for step in range(STEPS):
        if step == BAD:  # the instrumented steps before are not meant
            monkeypatch.setattr(REPLAY[name], broken)
        case.step(step)
    monkeypatch.undo()
    session.stop()
    training = session.trainings[0]
    alarms = [a for a in training.case().alarms if a.step == BAD]
    assert alarms[0].detail["replay"] == "the replay failed: RuntimeError: injected"
    assert training.step == STEPS
    assert session.report().missing == ()
    said = [words for words in warnings_of(caplog) if "replay" in words]
    assert len(said) == 1
    assert "injected" in said[0]


FORENSICS = {
    "reading the loss": "surefoot.watching.forensics.criterion",
    "the rise": "surefoot.watching.forensics.Rise.see",
    "a suspect": "surefoot.watching.forensics.Inquiry",
    "the examination": "surefoot.watching.forensics.examine",
}


@pytest.mark.parametrize("name", FORENSICS)
def test_forensics_that_fail_are_left_out(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(FORENSICS[name], broken)
    session = watched()
    training = session.trainings[0]
    alarms = [a for a in training.case().alarms if a.step == BAD]
    assert alarms[0].detail["replay"] == "exact"  # that does not need them
    assert training.step == STEPS
    assert session.report().missing == ()
    assert training.case().inquiries == ()
    said = warnings_of(caplog)
    assert len(said) == 1
    assert "Forensics" in said[0]


def test_a_search_that_fails_leaves_the_replay(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(origin_module.OriginMode, "_look", broken)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    table, modules, _ = build_table([model])
    tap = EntryTap([model])
    model(torch.randn(16, 6)).square().mean().backward()
    own = {id(p): p.grad for p in model.parameters() if p.grad is not None}
    result = replay(0, tap.entries, table, modules, own)
    tap.remove()
    assert_exact(result, model)
    assert isinstance(result, Replay)
    assert result.flow.origin is None
    assert len(warnings_of(caplog)) == 1


def test_a_tap_that_fails_takes_its_hooks_away_and_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Linear(6, 3)
    table, modules, _ = build_table([model])
    tap = EntryTap([model])
    monkeypatch.setattr(tap_module, "Entry", broken)
    x = torch.randn(16, 6)
    passed = weakref.ref(x)
    model(x).sum().backward()
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert (tap.entries, tap.inputs) == ([], [])
    assert failed(tap)
    assert failed(tap)
    assert len(warnings_of(caplog)) == 1
    words, flow = replay_in_words(0, tap, table, modules, {}, True, [])
    assert (words, flow) == ("the replay failed: RuntimeError: injected", None)
    del x
    gc.collect()
    assert passed() is None  # the failure holds nothing of what passed by


TAPS = {
    "the flow probe": "surefoot.probes.flow.FlowProbe.collect",
    "a hook of the flow probe": "surefoot.probes.flow.FlowProbe._enter",
    "a hook of the block tap": "surefoot.probes.blocks.BlockTap._norm",
    "a hook of the entry tap": "surefoot.probes.tap._listen",
}


@pytest.mark.parametrize("name", TAPS)
def test_a_probe_of_the_run_that_fails_is_left_out(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    owner, _, attribute = TAPS[name].rpartition(".")
    original = getattr(pkgutil.resolve_name(owner), attribute)  # a hook, or what it calls
    monkeypatch.setattr(TAPS[name], safely(broken) if hasattr(original, "__wrapped__") else broken)
    session = watched(spoil="")
    assert session.report().missing == ()
    assert session.trainings[0].step == STEPS
    said = [words for words in warnings_of(caplog) if "injected" in words]
    assert len(said) == 1 and said[0].startswith("surefoot goes on without its ")
