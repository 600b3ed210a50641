"""The gate: every layer on its own, silent on noise, not blinded by what it has let through."""

from __future__ import annotations

import numpy as np
import pytest

from surefoot.diagnosis.gate import Gate

CLEAN = np.zeros(20)


def warm(gate: Gate, steps: int, rng: np.random.Generator, spread: float = 0.2) -> np.ndarray:
    """Feed `steps` log-normal rows over 12 decades of scale; returns the layers' scales."""
    scales = 10.0 ** np.linspace(-9, 3, 20)
    for _ in range(steps):
        assert gate.check(scales * np.exp(spread * rng.standard_normal(20)), CLEAN) is None
    return scales


def test_noise_of_every_scale_is_silent():
    for seed in range(5):
        warm(Gate(20), 2000, np.random.default_rng(seed), spread=0.3)


@pytest.mark.parametrize("layer", [0, 7, 19])
def test_a_spike_in_one_small_layer_trips_for_that_layer_alone(layer):
    gate, rng = Gate(20), np.random.default_rng(0)
    scales = warm(gate, 100, rng)
    row = scales.copy()
    row[layer] *= 30
    assert gate.check(row, CLEAN).tolist() == [layer]
    z, factor = gate.scores(np.array([layer]))
    assert factor[0] == pytest.approx(30, rel=0.5)
    assert z[0] > 6


def test_clustered_spikes_are_all_caught():
    gate, rng = Gate(20), np.random.default_rng(0)
    scales = warm(gate, 100, rng)
    caught = 0
    for k in range(40):
        spiking = k % 4 == 0
        caught += gate.check(scales * (100 if spiking else 1), CLEAN) is not None
    assert caught == 10


def test_a_lasting_change_of_level_is_accepted():
    gate, rng = Gate(20), np.random.default_rng(0)
    scales = warm(gate, 100, rng)
    tripped = [gate.check(scales * 100, CLEAN) is not None for _ in range(120)]
    assert tripped[0]
    assert not any(tripped[40:])


def test_what_is_not_finite_always_trips_and_never_enters_the_baseline():
    gate, rng = Gate(20), np.random.default_rng(0)
    bad = CLEAN.copy()
    bad[3] = 1
    assert gate.check(np.ones(20), bad).tolist() == [3]  # from the first step on
    gate = Gate(20)
    scales = warm(gate, 100, rng)
    for _ in range(50):
        gate.check(scales * np.where(bad > 0, np.inf, 1.0), bad)
    row = scales.copy()
    row[3] *= 100
    assert gate.check(row, CLEAN).tolist() == [3]


def test_layers_without_a_gradient_or_with_a_zero_one_do_not_trip():
    gate, rng = Gate(20), np.random.default_rng(0)
    scales = warm(gate, 100, rng)
    row = scales.copy()
    row[2], row[3] = np.nan, 0.0
    for _ in range(200):
        assert gate.check(row, CLEAN) is None


def test_it_is_calm_only_if_all_have_a_gradient_and_none_stands_out():
    gate, rng = Gate(20), np.random.default_rng(0)
    scales = warm(gate, 100, rng)
    assert gate.calm
    row, bad = scales.copy(), CLEAN.copy()
    row[4] = np.nan
    assert gate.check(row, bad) is None
    assert not gate.calm
    assert gate.check(scales * 100, CLEAN) is not None
    assert not gate.calm
    bad[3] = 1
    assert gate.check(scales, bad).tolist() == [3]
    assert not gate.calm
