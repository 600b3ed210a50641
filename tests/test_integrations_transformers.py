"""Hugging Face's Trainer: what it hides is seen, and every way to train stays as it is."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from frameworks_fixture import BATCH, MARKS, ROWS, STEPS, callback, load, trainer_of, weights
from surefoot.findings import Pathology, Verdict

pytestmark = MARKS


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    """Imported before the tests look for traces."""
    load("transformers")


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """The Trainer seeds the process's generators; give them back as they were."""
    pytest.importorskip("transformers")
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()
    yield
    torch.set_rng_state(state[0])
    random.setstate(state[1])
    np.random.set_state(state[2])


def twice(folder: Path, **given: Any) -> tuple[Any, Any]:
    """Train with and without the callback; (trainer, callback), once both are equal."""
    alone = trainer_of(folder, None, **given)
    alone.train()
    watched = trainer_of(folder, None, **given)
    watching = callback("transformers", {}).attach(watched)
    watched.train()
    assert repr(weights(watched.model)) == repr(weights(alone.model))
    assert watching.problem is None
    return watched, watching


def test_a_loss_that_the_trainer_hides_is_in_the_log(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "nan")
    watching = callback("transformers", {}).attach(trainer)
    trainer.train()
    history = [row for row in trainer.state.log_history if "loss" in row]
    assert all(math.isfinite(row["loss"]) for row in history), "the Trainer hides nothing any more"
    assert math.isnan(history[-1]["surefoot/loss"])
    first = watching.report.root.first_step
    assert watching.report.root.pathology is Pathology.NONFINITE
    assert history[-1]["surefoot/nonfinite_losses"] == STEPS - first
    assert history[0]["surefoot/nonfinite_losses"] == 0


def test_the_norm_before_clipping_is_the_trainers_own(tmp_path: Path) -> None:
    trainer, _ = twice(tmp_path)
    history = [row for row in trainer.state.log_history if "loss" in row]
    assert len(history) == STEPS // 2
    for row in history:
        assert row["surefoot/gradient_norm_before_clipping"] == pytest.approx(row["grad_norm"])
        assert row["surefoot/gradient_norm"] == pytest.approx(min(row["grad_norm"], 0.5), rel=1e-4)


def reporter() -> Any:
    """What TensorBoardCallback and the like are: a callback that hands the logs on."""
    from transformers import TrainerCallback

    class Reporter(TrainerCallback):
        def __init__(self) -> None:
            self.logged: list[dict[str, float]] = []

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            self.logged.append(dict(logs))

    return Reporter()


def test_reporters_get_the_numbers_once_it_is_attached(tmp_path: Path) -> None:
    reports = reporter()
    trainer = trainer_of(tmp_path, None)
    trainer.add_callback(reports)
    callback("transformers", {}).attach(trainer)
    trainer.train()
    of_steps = [row for row in reports.logged if "loss" in row]
    assert len(of_steps) == STEPS // 2
    assert all("surefoot/gradient_norm" in row for row in of_steps)
    assert not any("surefoot/gradient_norm" in row for row in reports.logged[len(of_steps) :])


def test_among_the_callbacks_it_is_in_the_history(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, None)
    trainer.add_callback(callback("transformers", {}))
    trainer.train()
    assert "surefoot/gradient_norm" in trainer.state.log_history[0]


def test_accumulation_and_bfloat16(tmp_path: Path) -> None:
    trainer, watching = twice(tmp_path, gradient_accumulation_steps=4, bf16=True)
    assert watching.report.steps == STEPS // 4 == trainer.state.global_step
    assert watching.report.verdict is not Verdict.UNSTABLE
    # What the Trainer has differentiated, and what it calls the loss, are the same mean.
    row = trainer_of(tmp_path, None, gradient_accumulation_steps=4, logging_steps=1)
    callback("transformers", {}).attach(row)
    row.train()
    for logged in row.state.log_history[:-1]:
        assert logged["surefoot/loss"] == pytest.approx(logged["loss"], rel=1e-3)


def test_a_training_that_is_taken_up_again(tmp_path: Path) -> None:
    saved = {"save_strategy": "steps", "save_steps": 20, "logging_steps": 7}
    trainer, _ = twice(tmp_path / "whole", **saved)
    again = trainer_of(tmp_path / "whole", None, restore_callback_states_from_checkpoint=True)
    watching = callback("transformers", {}).attach(again)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-20"))
    assert repr(weights(again.model)) == repr(weights(trainer.model))
    assert watching.report.steps == STEPS - 20


def test_a_second_training_is_a_run_of_its_own(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, None)
    watching = callback("transformers", {"runs": tmp_path / "runs"}).attach(trainer)
    trainer.train()
    first = watching.watch.folder
    trainer.train()
    assert watching.watch.folder != first
    assert watching.report.steps == STEPS


def test_an_error_of_the_script_leaves_hooks_until_it_is_stopped(tmp_path: Path) -> None:
    class Broken(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.calls = inner, 0

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> Any:
            self.calls += 1
            if self.calls == 4:
                raise ValueError("the script's own")
            return self.inner(x=x, labels=labels)

    clip = torch.nn.utils.clip_grad_norm_
    trainer = trainer_of(tmp_path, None)
    trainer.model = trainer.model_wrapped = Broken(trainer.model)
    watching = callback("transformers", {}).attach(trainer)
    with pytest.raises(ValueError, match="the script's own"):
        trainer.train()
    assert torch.nn.utils.clip_grad_norm_ is not clip
    assert watching.stop().steps == 3
    assert torch.nn.utils.clip_grad_norm_ is clip


def test_attached_twice_it_is_called_once(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, None)
    watching = callback("transformers", {}).attach(trainer)
    trainer.add_callback(other := type("Other", (transformers_callback(),), {})())
    assert watching.attach(trainer) is watching
    callbacks = trainer.callback_handler.callbacks
    assert callbacks[0] is watching and callbacks.count(watching) == 1 and other in callbacks
    trainer.train()
    assert watching.report.steps == STEPS


def transformers_callback() -> Any:
    return pytest.importorskip("transformers").TrainerCallback


def test_evaluation_is_no_training(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, None, eval_strategy="epoch")
    watching = callback("transformers", {}).attach(trainer)
    trainer.train()
    assert watching.report.steps == STEPS == 3 * ROWS // BATCH
    evaluated = [row for row in trainer.state.log_history if "eval_loss" in row]
    assert len(evaluated) == 3
    assert not any("surefoot/loss" in row for row in evaluated)
