"""The words of the views: the vocabulary, the numbers and what became of the loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from surefoot.findings import Cause, Pathology, Severity
from surefoot.views import words
from surefoot.views.outcome import outcome
from views_fixture import FIXTURES, whole


def test_every_word_of_the_vocabulary_is_explained() -> None:
    assert set(words.PATHOLOGY) == set(Pathology)
    assert set(words.CAUSE) == set(Cause)
    assert set(words.SEVERITY) == set(Severity)
    for name, sentence in (*words.PATHOLOGY.values(), *words.CAUSE.values()):
        assert name == name.strip()
        assert sentence.endswith(".")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1234.5, "1,230"),
        (999.7, "1,000"),
        (2.3021, "2.30"),
        (0.0312, "0.0312"),
        (123.4, "123"),
        (4096.0, "4,096"),
        (-0.00012345, "-1.23e-4"),
        (3e25, "3e25"),
        (1234567, "1,234,567"),
        (np.float32(0.5), "0.500"),
        (float("nan"), "NaN"),
        ("-inf", "-infinity"),
        (True, "yes"),
    ],
)
def test_numbers_have_three_digits(value: Any, text: str) -> None:
    assert words.number(value) == text


def test_shorten_keeps_both_ends() -> None:
    short = words.shorten("model.encoder.layers.11.mlp.down_proj", 20)
    assert len(short) == 20
    assert short.startswith("model")
    assert short.endswith("down_proj")


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([], "not seen"),
        ([np.nan, np.nan], "not a finite number at any step"),
        ([2.0], "nothing to compare"),
        ([2.0, 2.01], "hardly any change"),
        ([2.0, 0.5], "75 % lower than at the start"),
        ([2.0, 8.0], "4 times as high"),
        ([-1.0, -5.0], "lower than at the start"),
        ([2.0, 1.0, np.inf], "from step 2 on it was no finite number"),
    ],
)
def test_outcome_states_what_the_loss_did(losses: list[float], said: str) -> None:
    series = {"loss": whole(np.array(losses)[:, None])} if losses else {}
    assert said in outcome(replace(FIXTURES["healthy"](), series=series))
