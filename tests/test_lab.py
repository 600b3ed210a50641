"""The lab's engine against closed forms, by hand, and at the corners of what can be chosen."""

from __future__ import annotations

import itertools
import json
import math
import random
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import surefoot
from surefoot.findings import Verdict
from surefoot.lab import CHOICES, Choices, Experiment, course, experiment, experiments
from surefoot.lab.choices import Between
from surefoot.lab.network import Network
from surefoot.lab.published import published
from surefoot.lab.task import CLASSES, FEATURES, draw
from surefoot.views.figures import figure
from surefoot.watching.training import Training
from surefoot.watching.unheard import unheard_backward

WHOLE = "gradient at the first layer over that at the last"
LAYER = "gradient, factor a layer towards the input"


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    experiments._experiment.cache_clear()
    yield
    experiments._experiment.cache_clear()


def number(result: Experiment, name: str) -> Any:
    """One of its numbers."""
    return next(row.value for row in result.numbers if row.quantity == name)


def losses(result: Experiment) -> list[float]:
    """The loss of every step."""
    return result.training.series["loss"].last[:, 0].tolist()


# -- the gradient against closed forms -----------------------------------------------------------


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.2])
def test_orthogonal_linear_layers_scale_the_gradient_to_the_power_of_the_depth(
    scale: float,
) -> None:
    chosen = Choices(depth=12, activation="linear", initialization="orthogonal", scale=scale)
    result = experiment(chosen)
    assert number(result, WHOLE) == pytest.approx(scale**11, rel=1e-4)
    assert number(result, LAYER) == pytest.approx(scale, rel=1e-5)


def test_a_sigmoid_lets_less_than_a_quarter_through() -> None:
    chosen = Choices(depth=8, activation="sigmoid", initialization="orthogonal", scale=2.0)
    whole = number(experiment(chosen), WHOLE)
    assert 0 < whole < (2.0 / 4) ** 7  # the slope's bound times the weights' one singular value


def test_rezero_changes_nothing_at_the_start() -> None:
    result = experiment(Choices(depth=30, skips="rezero", activation="sigmoid", scale=7.0))
    assert number(result, WHOLE) == pytest.approx(1.0, rel=1e-6)


def test_mirrored_relu_layers_keep_the_gradient() -> None:
    result = experiment(Choices(depth=30, width=128, initialization="looks_linear"))
    assert number(result, WHOLE) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "gelu", "silu", "linear"])
def test_mirrored_layers_are_linear(activation: str) -> None:
    model = Network(Choices(depth=6, activation=activation, initialization="looks_linear"))
    model.double()
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 5, FEATURES, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        both, apart = model(x + 2 * y), model(x) + 2 * model(y)
    assert torch.allclose(both, apart, rtol=0, atol=1e-9)  # z Phi(z) + z Phi(-z) = z: GELU too
    assert both.abs().max() > 0.1


def test_he_relu_keeps_the_squared_norm_in_the_mean() -> None:
    chosen = [Choices(depth=12, width=256, seed=seed) for seed in range(4)]
    squares = [number(experiment(c), WHOLE) ** 2 for c in chosen]
    # Hanin & Nica: ln of the square has the variance 5 L / n, so the mean of four errs by 0.25.
    assert 0.4 < float(np.mean(squares)) < 1.8


@pytest.mark.parametrize(
    ("chosen", "growth", "within"),
    [
        (Choices(depth=20, width=256, scale=1.5), 1.5, 0.04),
        (Choices(depth=20, width=256, initialization="default"), math.sqrt(1 / 6), 0.04),
        (Choices(depth=12, activation="sigmoid", initialization="xavier_normal"), 0.236, 0.02),
        (
            Choices(depth=20, width=256, normalization="batch_norm"),
            math.sqrt(math.pi / (math.pi - 1)),
            0.04,
        ),
        (Choices(depth=20, width=256, normalization="layer_norm"), 1.0, 0.03),
        (Choices(depth=10, width=256, skips="residual"), math.sqrt(2), 0.04),
        (Choices(depth=16, width=256, skips="scaled"), math.sqrt(1 + 1 / 16), 0.02),
    ],
)
def test_growth_is_what_was_published(chosen: Choices, growth: float, within: float) -> None:
    theory = published(chosen, 64)
    assert theory is not None
    assert theory.growth == pytest.approx(growth, rel=2e-3)
    result = experiment(chosen)
    assert number(result, LAYER) == pytest.approx(growth, rel=within)
    shown = next(row.expected for row in result.numbers if row.quantity == LAYER)
    assert f"theory: {growth:.3g}"[:11] in shown
    assert theory.source in shown


@pytest.mark.parametrize(("sigma_w", "chi"), [(1.0, 0.0557), (4.0, 0.3989), (8.0, 0.7949)])
def test_chi_of_a_sigmoid(sigma_w: float, chi: float) -> None:
    """Values of theory that were measured apart from this code, at sigma_b = 0."""
    chosen = Choices(activation="sigmoid", initialization="xavier_normal", scale=sigma_w)
    theory = published(chosen, 64)
    assert theory is not None
    assert theory.growth**2 == pytest.approx(chi, rel=2e-3)


def test_theory_is_silent_where_it_has_nothing_to_say() -> None:
    assert published(Choices(normalization="batch_norm", activation="tanh"), 64) is None
    assert published(Choices(skips="residual", activation="tanh"), 64) is None
    assert published(Choices(initialization="looks_linear", activation="tanh"), 64) is None
    shown = experiment(Choices(skips="residual", activation="tanh")).numbers[0]
    assert "no number" in shown.expected


def test_the_gradient_is_that_of_numpy() -> None:
    chosen = Choices(depth=3, width=8, activation="tanh", initialization="xavier_normal", seed=3)
    result, model = experiment(chosen), Network(chosen)
    inputs, classes = draw(3)
    own = [
        (p.detach().double().numpy(), q.detach().double().numpy())
        for p, q in zip(list(model.parameters())[::2], list(model.parameters())[1::2], strict=True)
    ]
    size = course.batch_of(chosen)
    outputs = [inputs[:size].double().numpy()]
    for weight, bias in own[:-1]:
        outputs.append(np.tanh(outputs[-1] @ weight.T + bias))
    scores = outputs[-1] @ own[-1][0].T + own[-1][1]
    chances = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    gradient = (chances - np.eye(CLASSES)[classes[:size].numpy()]) / size
    gradient = gradient @ own[-1][0]
    norms = [np.linalg.norm(gradient)]
    for (weight, _), output in zip(own[2:0:-1], outputs[:1:-1], strict=True):
        gradient = gradient * (1 - output**2) @ weight
        norms.append(np.linalg.norm(gradient))
    assert number(result, WHOLE) == pytest.approx(norms[-1] / norms[0], rel=1e-5)
    loss = -np.log(chances[np.arange(size), classes[:size].numpy()]).mean()
    assert number(result, "loss before training") == pytest.approx(loss, rel=1e-6)


# -- the task ------------------------------------------------------------------------------------


def test_the_task_is_standardised_and_every_batch_is_balanced() -> None:
    inputs, classes = draw(5)
    assert inputs.mean(0).abs().max() < 1e-6
    assert (inputs.var(0, correction=0) - 1).abs().max() < 1e-5
    for size in (32, 64, 128):
        for part in classes.split(size):
            assert part.bincount(minlength=CLASSES).tolist() == [size // CLASSES] * CLASSES


def test_a_constant_answer_has_the_loss_that_is_shown() -> None:
    _, classes = draw(0)
    wanted = np.eye(CLASSES)[classes.numpy()]
    squared = ((wanted - wanted.mean(0)) ** 2).mean()
    assert experiments.TRIVIAL["squared_error"] == pytest.approx(squared)
    entropy = -(wanted.mean(0) * np.log(wanted.mean(0))).sum()
    assert experiments.TRIVIAL["cross_entropy"] == pytest.approx(entropy)


def test_other_seeds_are_other_data_and_other_weights() -> None:
    assert not torch.equal(draw(0)[0], draw(1)[0])
    first, second = (next(iter(Network(Choices(seed=s)).parameters())) for s in (0, 1))
    assert not torch.equal(first, second)
    again = next(iter(Network(Choices(scale=2.0)).parameters()))
    assert torch.equal(2 * first, again)  # the same draw, whatever else is chosen


# -- what it leaves alone, and what it depends on ------------------------------------------------


def test_the_random_numbers_of_the_process_are_left_alone() -> None:
    torch.manual_seed(7)
    states = torch.get_rng_state(), repr(np.random.get_state()), random.getstate()
    for norm, start in (("batch_norm", "orthogonal"), ("none", "looks_linear")):
        experiment(Choices(depth=3, normalization=norm, initialization=start))
    experiment(Choices(depth=3, initialization="default"))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert repr(np.random.get_state()) == states[1]
    assert random.getstate() == states[2]


def said(result: Experiment) -> str:
    """All that is said of it, but for how long it took."""
    data = result.to_json()
    del data["seconds"]
    return json.dumps([data, [repr(x) for x in losses(result)]], allow_nan=False)


def test_the_same_choices_show_the_same_whatever_the_clock_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = Choices(depth=20, learning_rate=0.5, seed=2)
    first = experiment(chosen)
    assert experiment(chosen) is first
    experiments._experiment.cache_clear()
    ticks = itertools.count(0.0, 100.0)
    monkeypatch.setattr(
        "surefoot.watching.budget.time", SimpleNamespace(perf_counter=lambda: next(ticks))
    )
    again = experiment(chosen)
    assert again is not first
    assert said(again) == said(first)
    for name, series in first.training.series.items():
        assert np.array_equal(series.last, again.training.series[name].last, equal_nan=True), name
    assert repr(again.training.flows) == repr(first.training.flows)  # a NaN is not equal to itself
    assert repr(again.training.events) == repr(first.training.events)


def test_threads_get_what_one_of_them_alone_would() -> None:
    chosen = [Choices(depth=4, width=16, seed=seed) for seed in range(6)]
    alone = [said(experiment(c)) for c in chosen]
    experiments._experiment.cache_clear()
    found: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda i=i, c=c: found.update({i: said(experiment(c))}))
        for i, c in enumerate(chosen)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[i] for i in range(len(chosen))] == alone


def test_a_busy_machine_is_spared_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course, "_PATIENCE", 0.0)
    result = experiment(Choices(depth=2))
    assert result.training.report.steps == 1
    assert "The machine was busy" in result.sentence
    monkeypatch.undo()
    whole = experiment(Choices(depth=2))  # it was not kept
    assert whole.training.report.steps == 60
    assert "busy" not in whole.sentence


def test_a_run_watched_beside_it_hears_nothing() -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with surefoot.watch(model, optimizer) as watched:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(8, 3)).square().mean().backward()
            experiment(Choices(depth=2, scale=50.0))
            experiments._experiment.cache_clear()
            optimizer.step()
    data = watched._data()
    assert watched.report().steps == 3
    assert data.series["loss"].last.max() < 10  # the lab's are in the thousands


def test_an_unheard_backward_leaves_the_gradients_and_tells_the_loss() -> None:
    model = nn.ModuleDict({"used": nn.Linear(3, 1), "unused": nn.Linear(3, 1)})
    parameters: list[torch.Tensor] = list(model.parameters())
    for p in parameters:
        p.grad = torch.full_like(p, 7.0)  # of a step before: replaced and not added to
    training = Training(0, [model], parameters, None, forensics=False)
    x = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    loss = model["used"](x).sum()
    unheard_backward(training, loss, parameters)
    training.stop()
    weight, bias, *others = (p.grad for p in parameters)
    assert weight is not None
    assert bias is not None
    assert weight.tolist() == [[4.0, 4.0, 4.0]]
    assert bias.tolist() == [2.0]
    assert others == [None, None]
    assert training.loss == pytest.approx(float(loss.detach()))
    assert training.anatomy
    assert "undefined" not in training.anatomy


def test_an_unheard_backward_says_what_makes_a_loss_undefined() -> None:
    w = nn.Parameter(torch.zeros(2))
    model = nn.Module()
    model.w = w
    training = Training(0, [model], [w], None, forensics=False)
    unheard_backward(training, (w / w).sum(), [w])
    training.stop()
    assert math.isnan(training.loss or 0.0)
    assert training.anatomy["undefined"]


def test_it_learns_inside_no_grad() -> None:
    with torch.no_grad():
        assert experiment(Choices(depth=2)).verdict is Verdict.HEALTHY


# -- the corners ---------------------------------------------------------------------------------

EDGES: dict[str, list[Any]] = {
    c.key: [v for v, _ in c.values]
    if not isinstance(c, Between)
    else {"depth": [1, 2, 64], "width": [8, 256], "seed": [0, 999]}.get(
        c.key, [c.low, c.default, c.high]
    )
    for c in CHOICES
}


def pairwise() -> list[Choices]:
    """A small set of choices in which every two values meet, greedily."""
    generator = random.Random(0)
    keys = list(EDGES)
    missing = {
        (a, x, b, y) for a, b in itertools.combinations(keys, 2) for x in EDGES[a] for y in EDGES[b]
    }
    rows = []
    while missing:
        a, x, b, y = min(missing, key=repr)
        best, most = {}, -math.inf
        for _ in range(30):
            row = {k: generator.choice(v) for k, v in EDGES.items()} | {a: x, b: y}
            covered = sum(
                (p, row[p], q, row[q]) in missing for p, q in itertools.combinations(keys, 2)
            )
            covered -= 4 * (row["depth"] * row["width"] > 10_000)  # the largest take a second
            best, most = (row, covered) if covered > most else (best, most)
        rows.append(Choices(**best))
        missing -= {(p, best[p], q, best[q]) for p, q in itertools.combinations(keys, 2)}
    return rows


@pytest.mark.parametrize(
    "part", [0, *(pytest.param(part, marks=pytest.mark.zoo) for part in range(1, 8))]
)
def test_every_two_values_go_together(part: int) -> None:
    for chosen in pairwise()[part::8]:
        result = experiment(chosen)
        text = json.dumps(result.to_json(), allow_nan=False)
        assert json.loads(text)["verdict"] in ("healthy", "unstable"), chosen
        assert 20 < len(result.sentence) < 1200, chosen
        assert len(result.suggestions) <= 3, chosen
        assert result.training.report.steps == course.steps_of(chosen), chosen
        assert all(row.quantity and row.expected for row in result.numbers), chosen
        assert chosen not in [changed for _, changed in result.suggestions]


def test_every_figure_is_drawn_from_it() -> None:
    result = experiment(Choices(scale=3.0))
    assert figure(result.check, "depth") is not None
    assert figure(result.training, "depth") is not None
    assert figure(result.training, "timeline") is not None


def test_the_largest_network_takes_about_a_second() -> None:
    """Of one core: others may be using it, so that only what it worked is counted."""
    experiment(Choices(depth=2))  # imports and compiles what is needed once
    chosen = Choices(
        depth=64, width=256, skips="rezero", normalization="layer_norm", optimizer="adam"
    )
    began = time.process_time()
    experiment(chosen)
    assert time.process_time() - began < 2.5
