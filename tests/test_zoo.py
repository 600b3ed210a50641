"""Seen to work on things nobody here wrote: transformers, stable-baselines3, Keras, HF's Trainer.

`./dev zoo` runs it; nothing is downloaded.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from tests.zoo import models

from surefoot.findings import Cause, Report, Severity, Verdict
from surefoot.watching.session import Session

pytestmark = [
    pytest.mark.zoo,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*:ResourceWarning"),
]


def watched(train: Callable[[], Any]) -> tuple[Any, Report]:
    """What a training returns and what is said of it."""
    session = Session()
    session.start()
    try:
        result = train()
    finally:
        session.stop()
    return result, session.report()


def said(report: Report) -> list[str]:
    """The findings in words, for the message of a test that fails."""
    return [f"{f.rule} {f.cause} {f.layer} {f.severity}: {f.sentence}" for f in report.findings]


@pytest.mark.parametrize("name", models.MEMBERS)
def test_healthy_is_silent(name: str) -> None:
    losses, report = watched(lambda: models.train(name))
    assert np.mean(losses[-10:]) < 0.8 * losses[0]
    assert said(report) == []
    assert report.verdict is Verdict.HEALTHY


CAUSES = {
    "std_one": Cause.WEIGHTS_TOO_LARGE,
    "lr_x100": Cause.LEARNING_RATE_TOO_HIGH,
    "nan_batch": Cause.NONFINITE_INPUT,
}


@pytest.mark.parametrize("fault", models.FAULTS)
@pytest.mark.parametrize("name", models.MEMBERS)
def test_a_fault_is_named(name: str, fault: str) -> None:
    _, report = watched(lambda: models.train(name, fault))
    assert report.verdict is Verdict.UNSTABLE, said(report)
    roots = [f for f in report.findings if f.root]
    assert [f.cause for f in roots] == [CAUSES[fault]], said(report)
    root = roots[0]
    if fault == "std_one":
        assert root.layer, said(report)
    else:
        assert root.layer is None, said(report)
    if fault == "nan_batch":
        assert root.first_step == models.NAN_STEP


@pytest.mark.parametrize("name", models.MEMBERS)
def test_an_oddity_that_learns_gets_advice_at_most(name: str) -> None:
    losses, report = watched(lambda: models.train(name, "projection_x50"))
    assert np.mean(losses[-10:]) < 0.9 * losses[0], "the oddity is not harmless"
    assert all(f.severity is Severity.ADVICE for f in report.findings), said(report)


@pytest.mark.parametrize("name", models.MEMBERS)
def test_watching_changes_no_transformer(name: str) -> None:
    alone = models.train(name, "nan_batch", steps=models.NAN_STEP + 3)
    seen, _ = watched(lambda: models.train(name, "nan_batch", steps=models.NAN_STEP + 3))
    assert repr(seen) == repr(alone)


# -- other people's training loops ----------------------------------------------------------------


def weights(module: torch.nn.Module) -> dict[str, list[float]]:
    return {k: v.detach().flatten().tolist() for k, v in module.state_dict().items()}


def ppo() -> dict[str, list[float]]:
    """2,000 steps of CartPole with the library's own defaults, in short rollouts."""
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    agent = stable_baselines3.PPO("MlpPolicy", "CartPole-v1", n_steps=256, seed=0, device="cpu")
    agent.learn(2000)
    return weights(agent.policy)


def keras_fit() -> list[Any]:
    """A Keras model with the torch backend on digits."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "torch":
        pytest.skip("Keras was imported with another backend")
    keras.utils.set_random_seed(0)
    images, labels = models.digits()
    x, y = images[:1024].flatten(1).numpy(), labels[:1024].numpy()
    layers = [
        keras.layers.Dense(64, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(10),
    ]
    model = keras.Sequential([keras.Input((64,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss)
    history = model.fit(x, y, batch_size=32, epochs=4, verbose=0)
    assert history.history["loss"][-1] < 0.5
    return [w.tolist() for w in model.get_weights()]


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Digits as the Trainer wants them: one dict for each."""

    def __len__(self) -> int:
        return 512

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        images, labels = models.digits()
        return {"pixel_values": images[index], "labels": labels[index]}


def trainer(folder: Path) -> dict[str, list[float]]:
    """HF's Trainer on the tiny ViT: accumulation, clipping, warm-up and a schedule, all its own."""
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    torch.manual_seed(0)
    model = models.vit()
    settings = TrainingArguments(
        str(folder),
        max_steps=60,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=2,
        learning_rate=2e-3,
        warmup_steps=5,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        seed=0,
    )
    Trainer(model=model, args=settings, train_dataset=Rows()).train()
    return weights(model)


@pytest.fixture
def seeded() -> Iterator[None]:
    """These libraries seed the process's generators; give them back as they were."""
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()
    yield
    torch.set_rng_state(state[0])
    random.setstate(state[1])
    np.random.set_state(state[2])


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("loop", ["ppo", "keras_fit", "trainer"])
def test_other_loops_are_unchanged_and_silent(loop: str, tmp_path: Path) -> None:
    train = {"ppo": ppo, "keras_fit": keras_fit, "trainer": lambda: trainer(tmp_path)}[loop]
    alone = train()
    seen, report = watched(train)
    assert seen == alone
    assert said(report) == []
    assert report.verdict is Verdict.HEALTHY
    assert report.steps >= 60


# -- the scale of the loss ------------------------------------------------------------------------

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.py"))


def verdict(script: Path, scale: str) -> tuple[Any, ...]:
    """Verdict and root of an example whose loss is multiplied, its learning rate divided."""
    import runpy
    import sys

    arguments, sys.argv = sys.argv, [str(script), "--loss-scale", scale]
    try:
        _, report = watched(lambda: runpy.run_path(str(script), run_name="__main__"))
    finally:
        sys.argv = arguments
    roots = [(f.rule, f.cause, f.layer) for f in report.findings if f.root]
    return report.verdict, *roots


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda p: p.stem)
def test_the_loss_scale_changes_no_verdict(script: Path) -> None:
    assert "--loss-scale" in script.read_text(encoding="utf-8")
    plain = verdict(script, "1")
    assert plain[0] is (Verdict.HEALTHY if "healthy" in script.stem else Verdict.UNSTABLE)
    assert {scale: verdict(script, scale) for scale in ("1e-8", "128")} == {
        "1e-8": plain,
        "128": plain,
    }
