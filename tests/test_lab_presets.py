"""The lab's starting points show what they say, and its verdicts and advice hold."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from surefoot.findings import Pathology, Verdict
from surefoot.lab import PRESETS, Choices, Experiment, experiment


def losses(result: Experiment) -> list[float]:
    """The loss of every step."""
    return result.training.series["loss"].last[:, 0].tolist()


CLAIMS: dict[str, set[Pathology]] = {
    "ReLU with He's weights: healthy": set(),
    "Sigmoid, ten layers: vanishing": {Pathology.VANISHING},
    "Weights three times too large: exploding": {Pathology.EXPLODING},
    "Batch norm without skips, 50 layers: exploding and shattered": {
        Pathology.EXPLODING,
        Pathology.SHATTERED,
    },
    "The same with skip connections: healthy": set(),
    "Learning rate far too high": {Pathology.EXPLODING},
    "Learning rate far too low: stalled": {Pathology.STALLED},
    "tanh at the edge of chaos, 50 layers: healthy": set(),
    "Deep ReLU without skips: collapsed": {Pathology.COLLAPSED},
    "The same, looking linear: healthy": set(),
    "Adam at a rate of 1: dead ReLU units": {Pathology.EXPLODING, Pathology.DEAD},
}


@pytest.mark.zoo
@pytest.mark.parametrize(("name", "sentence", "chosen"), PRESETS, ids=[p[0] for p in PRESETS])
def test_a_preset_shows_what_it_says(name: str, sentence: str, chosen: Choices) -> None:
    result = experiment(chosen)
    both = (*result.training.report.findings, *result.check.report.findings)
    serious = {f.pathology for f in both if f.severity != "advice"}
    assert CLAIMS[name] <= serious
    if not CLAIMS[name]:
        assert (result.verdict, serious, result.suggestions) == (Verdict.HEALTHY, set(), ())
        assert losses(result)[-1] < 0.3
        assert result.sentence.startswith("Healthy")
        return
    root = result.finding
    assert result.verdict is Verdict.UNSTABLE
    assert root is not None
    assert root.pathology in CLAIMS[name]
    assert result.sentence.startswith(root.sentence)
    assert 1 <= len(result.suggestions) <= 3
    tried = [experiment(changed) for _, changed in result.suggestions]
    assert any(t.verdict is Verdict.HEALTHY and losses(t)[-1] < 0.8 for t in tried)


def test_every_preset_has_its_claim() -> None:
    assert [p[0] for p in PRESETS] == list(CLAIMS)
    assert all(len(sentence) > 40 and sentence.endswith(".") for _, sentence, _ in PRESETS)


def test_a_network_that_learns_nothing_is_not_called_healthy() -> None:
    result = experiment(Choices(initialization="gaussian"))
    assert abs(losses(result)[-1] - math.log(4)) < 1e-4
    assert result.verdict is Verdict.UNSTABLE
    assert "learns all the same" not in result.sentence


def test_what_a_check_fears_and_a_training_survives() -> None:
    chosen = Choices(
        width=32,
        activation="gelu",
        initialization="xavier_normal",
        optimizer="adam",
        learning_rate=0.003,
    )
    result = experiment(chosen)
    assert result.check.report.verdict is Verdict.UNSTABLE
    assert (result.verdict, result.suggestions) == (Verdict.HEALTHY, ())
    assert "It learns all the same." in result.sentence
    assert losses(result)[-1] < 0.1
    assert result.sentence.startswith("Before training: ")


def test_a_form_is_made_without_pytorch() -> None:
    code = (
        "import sys; from surefoot.lab import CHOICES, PRESETS, Choices; Choices.parse({})\n"
        "assert not {'torch', 'plotly', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
