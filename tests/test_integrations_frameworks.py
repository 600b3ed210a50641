"""What holds in every training framework: nothing changed, nothing left, the right verdict."""

from __future__ import annotations

import copy
import logging
import math
import pickle
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from frameworks_fixture import MARKS, NAMES, STEPS, alone, callback, fit, load
from surefoot.findings import Pathology, Verdict
from surefoot.watching.interim import Interim
from surefoot.watching.watch import Watch

pytestmark = MARKS
EVERY = pytest.mark.parametrize("name", NAMES)
UNHELD = ("transformers", "skorch")  # whose callbacks hold no model
CALLBACKS = [name for name in NAMES if name != "accelerate"]


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    """Imported before the tests look for traces: Lightning wraps `torch.compile` for good."""
    load(*NAMES)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """These libraries seed the process's generators; give them back as they were."""
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()
    clip = torch.nn.utils.clip_grad_norm_
    yield
    torch.set_rng_state(state[0])
    random.setstate(state[1])
    np.random.set_state(state[2])
    assert torch.nn.utils.clip_grad_norm_ is clip


@EVERY
def test_a_healthy_training_is_unchanged_and_silent(name: str, tmp_path: Path) -> None:
    seen = fit(name, tmp_path, {"runs": tmp_path / "runs"})
    assert repr(seen.weights) == alone(name)
    report = seen.watching.report
    assert report.verdict is Verdict.HEALTHY, report.findings
    assert report.steps == STEPS
    assert seen.watching.problem is None
    folder = seen.watching.watch.folder
    assert folder.parent == tmp_path / "runs"
    assert (folder / "run.json").is_file()


@EVERY
def test_a_vanishing_gradient_is_found(name: str, tmp_path: Path) -> None:
    report = fit(name, tmp_path, {}, "vanishing").watching.report
    assert report.verdict is Verdict.UNSTABLE
    assert report.root.pathology is Pathology.VANISHING


@EVERY
def test_a_pixel_that_is_no_number_is_found(name: str, tmp_path: Path) -> None:
    seen = fit(name, tmp_path, {}, "nan")
    assert repr(seen.weights) == alone(name, "nan")
    assert seen.watching.report.root.pathology is Pathology.NONFINITE
    # In the framework's own log, and not only in the report.
    assert any(not math.isfinite(v) for v in seen.of("surefoot/loss"))


@EVERY
def test_the_numbers_are_in_the_frameworks_own_log(name: str, tmp_path: Path) -> None:
    fitted = fit(name, tmp_path, {"layers": True})
    norms = fitted.of("surefoot/gradient_norm")
    assert len(norms) >= 3
    assert all(0 < norm < math.inf for norm in norms)
    rates = fitted.of("surefoot/learning_rate")
    assert rates == pytest.approx([2e-3] * len(norms))
    titles = {key for row in fitted.logged for key in row if key.startswith("surefoot/gradient_n")}
    of_layers = titles - {"surefoot/gradient_norm", "surefoot/gradient_norm_before_clipping"}
    assert len(of_layers) == 3
    losses = fitted.of("surefoot/loss")
    assert losses[-1] < losses[0]
    if name in ("lightning", "pytorch_lightning", "transformers", "accelerate"):
        before = fitted.of("surefoot/gradient_norm_before_clipping")
        assert len(before) == len(norms)
        assert max(before) > 0.5
        for raw, clipped in zip(before, norms, strict=True):
            assert clipped == pytest.approx(min(raw, 0.5), rel=1e-4)


def failing(*_: Any, **__: Any) -> Any:
    raise RuntimeError("injected")


# What a framework's callback calls, besides the watch itself.
COMPANION = "surefoot.integrations.companion"
PARTS = {
    "watch": f"{COMPANION}.watch",
    "standing": f"{COMPANION}.Severity",
    "printing": f"{COMPANION}._tell",
    "clipping": "surefoot.integrations.clipping.wrap",
    "norm": "surefoot.integrations.clipping.Unclipped.take",
}


@pytest.mark.parametrize("where", [*PARTS, "start", "metrics", "report", "steps"])
@EVERY
def test_a_failure_of_surefoots_own_ends_no_training(
    name: str,
    where: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    undisturbed = alone(name)
    settings: dict[str, Any] = {"verbose": True, "stop_on": "fatal"}
    if name == "accelerate":
        settings = {}
        if where in ("watch", "report", "standing", "printing"):
            pytest.skip("the script calls it itself there, or nobody does")
    if where in PARTS:
        monkeypatch.setattr(PARTS[where], failing)
    elif where == "steps":
        monkeypatch.setattr("surefoot.watching.session.Session.before_step", failing)
        monkeypatch.setattr("surefoot.watching.session.Session.after_backward", failing)
    else:
        monkeypatch.setattr(Watch, where, failing)
    with caplog.at_level(logging.WARNING, "surefoot"):
        seen = fit(name, tmp_path, settings)
    assert repr(seen.weights) == undisturbed
    said = [r.getMessage() for r in caplog.records if r.name == "surefoot"]
    assert len(said) == 1, said
    assert "RuntimeError: injected" in said[0]


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_hopeless_training_can_be_ended(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A look at the run at every step, and not every two seconds.
    monkeypatch.setattr(Interim, "now_and_then", Interim.look)
    on = fit(name, tmp_path, {"stop_on": "fatal"}, "nan").watching.report
    assert 0 < on.steps < STEPS
    off = fit(name, tmp_path, {}, "nan").watching.report
    assert off.steps == STEPS
    assert fit(name, tmp_path, {"stop_on": "harmful"}).watching.report.steps == STEPS


def test_only_what_there_is_can_be_asked_for() -> None:
    from surefoot.integrations.ignite import SurefootHandler

    with pytest.raises(ValueError, match="expected stop_on to be"):
        SurefootHandler(stop_on="advice")


@pytest.mark.parametrize("name", ["lightning", "transformers", "skorch", "keras"])
def test_a_callback_can_be_copied_and_pickled(name: str, tmp_path: Path) -> None:
    new = callback(name, {"ignore": ["SF101"]})
    # One that has been used holds the model, in Lightning and Keras.
    used = [fit(name, tmp_path, {"ignore": ["SF101"]}).watching] * (name in UNHELD)
    for one in (new, *used):
        for made in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
            assert type(made) is type(one)
            assert made.ignore == ["SF101"]
            assert made.report == one.report


@EVERY
def test_the_verdict_is_printed_to_stderr(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "accelerate":
        pytest.skip("the report is asked for there")
    fit(name, tmp_path, {"verbose": True})
    said = capsys.readouterr()
    assert f"HEALTHY  {STEPS} steps watched" in said.err
    assert "HEALTHY" not in said.out


def test_no_framework_is_imported_before_it_is_asked_for() -> None:
    names = ["companion", "clipping", "lightning", "transformers", "accelerate", "keras"]
    modules = ", ".join(f"surefoot.integrations.{name}" for name in [*names, "skorch", "ignite"])
    code = f"import sys, surefoot, {modules}; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in out.stdout.split()}
    assert "surefoot" in loaded
    assert not loaded & {*NAMES, "rich", "plotly"}


@pytest.mark.parametrize("name", ["lightning", "transformers", "keras", "skorch", "ignite"])
def test_a_missing_library_is_named_with_the_command(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    module = importlib.import_module(f"surefoot.integrations.{name}")
    monkeypatch.delitem(vars(module), "SurefootCallback", raising=False)
    for loaded in [m for m in sys.modules if m.partition(".")[0] in (name, "pytorch_lightning")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, name, None)

    def ask() -> None:
        if name == "ignite":
            module.SurefootHandler().attach(None, torch.nn.Linear(1, 1), [])
        module.SurefootCallback()

    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'surefoot\[{name}\]'"):
        ask()
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        module.Other  # noqa: B018
