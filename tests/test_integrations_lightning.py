"""Lightning's ways to train, each unchanged by the callback and seen by it."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distributed_fixture import on_ranks
from frameworks_fixture import (
    MARKS,
    STEPS,
    callback,
    lightning_module,
    lightning_trainer,
    load,
    loader,
    network,
    weights,
)
from surefoot.findings import Verdict
from surefoot.watching.session import Session

pytestmark = MARKS


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    """Imported before the tests look for traces: Lightning wraps `torch.compile` for good.

    So does the compiler with `Module.__init__`, when it is used for the first time.
    """
    load("lightning")
    torch.compile(nn.Linear(1, 1), backend="eager")(torch.ones(1))


@pytest.fixture
def pl() -> Iterator[Any]:
    """The library, and the process's generators as they were afterwards."""
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()
    yield pytest.importorskip("lightning.pytorch")
    torch.set_rng_state(state[0])
    random.setstate(state[1])
    np.random.set_state(state[2])


def module(pl: Any, **methods: Any) -> Any:
    """A LightningModule with some methods of its own."""
    return type("Own", (lightning_module(pl),), methods)(network())


def twice(pl: Any, folder: Path, make: Any, **given: Any) -> tuple[Any, list[dict[str, float]]]:
    """Train with and without the callback; (it, what the logger got), once both are equal."""
    watching = callback("lightning", {})
    trained = []
    for callbacks in ([], [watching]):
        torch.manual_seed(0)
        trainer, logged = lightning_trainer(pl, folder, callbacks, **given)
        model = make()
        trainer.fit(model, loader())
        trained.append(repr(weights(model)))
    assert trained[0] == trained[1]
    assert watching.problem is None
    return watching, logged


def two_optimizers(self: Any) -> Any:
    halves = self.net[:2], self.net[2:]
    return [torch.optim.Adam(half.parameters(), lr=2e-3) for half in halves]


def by_hand(self: Any, batch: Any, index: int) -> None:
    first, second = self.optimizers()
    loss = F.cross_entropy(self.net(batch[0]), batch[1])
    first.zero_grad()
    second.zero_grad()
    self.manual_backward(loss)
    self.clip_gradients(first, 0.1, gradient_clip_algorithm="norm")
    first.step()
    second.step()


def init_by_hand(self: Any, net: nn.Module) -> None:
    super(type(self), self).__init__(net)
    self.automatic_optimization = False


def test_manual_optimization_of_two(pl: Any, tmp_path: Path) -> None:
    methods = {
        "__init__": init_by_hand,
        "training_step": by_hand,
        "configure_optimizers": two_optimizers,
    }
    watching, logged = twice(pl, tmp_path, lambda: module(pl, **methods))
    assert watching.report.verdict is Verdict.HEALTHY
    assert watching.report.steps == STEPS  # of both together
    seen = [row for row in logged if "surefoot/gradient_norm_before_clipping" in row]
    assert seen


def test_accumulation(pl: Any, tmp_path: Path) -> None:
    watching, logged = twice(
        pl, tmp_path, lambda: module(pl), accumulate_grad_batches=4, max_epochs=8
    )
    assert watching.report.steps == 8 * STEPS // 3 // 4
    assert watching.report.verdict is Verdict.HEALTHY
    assert all(math.isfinite(row["surefoot/loss"]) for row in logged if "surefoot/loss" in row)


def test_bfloat16(pl: Any, tmp_path: Path) -> None:
    watching, _ = twice(pl, tmp_path, lambda: module(pl), precision="bf16-mixed")
    assert watching.report.verdict is Verdict.HEALTHY
    assert watching.report.steps == STEPS


def test_an_optimizer_that_calls_its_closure_again(pl: Any, tmp_path: Path) -> None:
    def lbfgs(self: Any) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)

    watching, _ = twice(pl, tmp_path, lambda: module(pl, configure_optimizers=lbfgs), max_epochs=1)
    assert watching.report.steps == STEPS // 3


def test_a_dry_run_of_the_framework(pl: Any, tmp_path: Path) -> None:
    watching, _ = twice(pl, tmp_path, lambda: module(pl), fast_dev_run=True)
    assert watching.report.steps == 1
    assert watching.report.verdict is not Verdict.UNSTABLE


def test_a_second_fit_is_a_run_of_its_own(pl: Any, tmp_path: Path) -> None:
    watching = callback("lightning", {"runs": tmp_path / "runs", "name": "fit"})
    trainer, _ = lightning_trainer(pl, tmp_path, [watching])
    model = module(pl)
    trainer.fit(model, loader())
    first = watching.watch.folder
    trainer.fit_loop.max_epochs = 4
    trainer.fit(model, loader())
    assert watching.report.steps == STEPS // 3
    assert watching.watch.folder != first
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_a_fit_that_is_taken_up_again(pl: Any, tmp_path: Path) -> None:
    trained = []
    for callbacks in ([], [callback("lightning", {})]):
        torch.manual_seed(0)
        trainer, _ = lightning_trainer(pl, tmp_path, callbacks, max_epochs=1)
        trainer.fit(module(pl), loader())
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        model = module(pl)
        trainer, _ = lightning_trainer(pl, tmp_path, callbacks)
        trainer.fit(model, loader(), ckpt_path=tmp_path / "last.ckpt", weights_only=False)
        trained.append(repr(weights(model)))
    assert trained[0] == trained[1]
    assert callbacks[0].report.steps == STEPS - STEPS // 3


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_error_of_the_script(pl: Any, tmp_path: Path, kind: type[BaseException]) -> None:
    def training_step(self: Any, batch: Any, index: int) -> torch.Tensor:
        if index == 3:
            raise kind("the script's own")
        return F.cross_entropy(self.net(batch[0]), batch[1])

    watching = callback("lightning", {})
    trainer, _ = lightning_trainer(pl, tmp_path, [watching])
    model = module(pl, training_step=training_step)
    with pytest.raises(kind if kind is ValueError else SystemExit):
        trainer.fit(model, loader())
    assert watching.report.steps == 3
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_callback_of_the_frameworks_can_monitor_a_number(pl: Any, tmp_path: Path) -> None:
    stopping = pl.callbacks.EarlyStopping(
        "surefoot/gradient_norm", stopping_threshold=1e9, check_on_train_epoch_end=True
    )
    trainer, _ = lightning_trainer(pl, tmp_path, [callback("lightning", {}), stopping])
    trainer.fit(module(pl), loader())
    assert trainer.current_epoch == 1


def test_a_checkpoint_can_be_kept_by_a_number(pl: Any, tmp_path: Path) -> None:
    keeping = pl.callbacks.ModelCheckpoint(
        tmp_path / "kept", monitor="surefoot/gradient_norm", every_n_train_steps=2
    )
    watching = callback("lightning", {})
    trainer, logged = lightning_trainer(
        pl, tmp_path, [watching, keeping], enable_checkpointing=True
    )
    trainer.fit(module(pl), loader())
    norms = [row["surefoot/gradient_norm"] for row in logged if "surefoot/gradient_norm" in row]
    assert float(keeping.best_model_score) == pytest.approx(min(norms))
    assert watching.problem is None


def test_of_a_compiled_module_the_gradients_are_seen(pl: Any, tmp_path: Path) -> None:
    watching = callback("lightning", {})
    trainer, logged = lightning_trainer(pl, tmp_path, [watching])
    trainer.fit(torch.compile(module(pl), backend="eager"), loader())
    torch.compiler.reset()
    assert watching.report.steps == STEPS
    assert any("only its gradients are seen" in words for words in watching.report.missing)
    assert all(row["surefoot/gradient_norm"] > 0 for row in logged if "surefoot/loss" in row)


def test_under_surefoot_run_as_well(pl: Any, tmp_path: Path) -> None:
    session = Session()
    session.start()
    try:
        watching = callback("lightning", {})
        trainer, _ = lightning_trainer(pl, tmp_path, [watching])
        trainer.fit(module(pl), loader())
    finally:
        session.stop()
    assert session.report().steps == watching.report.steps == STEPS
    assert session.report().verdict is watching.report.verdict is Verdict.HEALTHY


def test_a_validation_loop_is_no_training(pl: Any, tmp_path: Path) -> None:
    def validation_step(self: Any, batch: Any, index: int) -> None:
        self.log("val", F.cross_entropy(self.net(batch[0]), batch[1]))

    watching = callback("lightning", {})
    trainer, _ = lightning_trainer(pl, tmp_path, [watching])
    model = module(pl, validation_step=validation_step)
    trainer.fit(model, loader(), loader())
    assert watching.report.steps == STEPS
    trainer.validate(model, loader(), verbose=False)
    assert watching.report.steps == STEPS


def test_clipping_hides_no_explosion(pl: Any, tmp_path: Path) -> None:
    """Its norm before clipping is in the log, and its cause in the report."""
    model = module(pl)
    with torch.no_grad():
        for layer in model.net:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(30)
    watching = callback("lightning", {})
    trainer, logged = lightning_trainer(pl, tmp_path, [watching], gradient_clip_val=1.0)
    trainer.fit(model, loader())
    assert watching.report.verdict is Verdict.UNSTABLE
    before = [r["surefoot/gradient_norm_before_clipping"] for r in logged if "surefoot/loss" in r]
    assert max(before) > 1e3


# -- several processes ----------------------------------------------------------------------------

RANKS = 2


def ddp(rank: int, size: int) -> dict[str, Any]:
    """On one rank: both weights, the report, what was said."""
    import contextlib
    import io
    import os
    import tempfile

    import lightning.pytorch as pl

    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    found: dict[str, Any] = {"weights": []}
    for watched in (False, True):
        watching = callback("lightning", {"verbose": True})
        said = io.StringIO()
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(said):
            trainer, logged = lightning_trainer(
                pl, Path(folder), [watching] if watched else [], strategy="ddp", devices=size
            )
            model = module(pl)
            torch.manual_seed(0)
            trainer.fit(model, loader())
        found["weights"].append(repr(weights(model)))
    return found | {"report": watching.report, "said": said.getvalue(), "logged": logged}


@pytest.mark.slow
def test_of_several_processes_the_first_says_the_verdict() -> None:
    pytest.importorskip("lightning")
    found = on_ranks(RANKS, "test_integrations_lightning", "ddp")
    for rank in found:
        assert rank["weights"][0] == rank["weights"][1]
        assert rank["report"].steps == STEPS // RANKS
        assert rank["report"].verdict is Verdict.HEALTHY
    assert found[0]["weights"] == found[1]["weights"]
    assert f"HEALTHY  {STEPS // RANKS} steps" in found[0]["said"]
    assert "HEALTHY" not in found[1]["said"]
    assert any("surefoot/gradient_norm" in row for row in found[0]["logged"])
