"""What can be chosen in the lab: texts in and out, refusals, and changes that findings ask for."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot.findings import Cause, Finding, Pathology, Remedy, Severity
from surefoot.lab import CHOICES, ChoiceError, Choices
from surefoot.lab.choices import BY_KEY, Between, OneOf
from surefoot.lab.suggestions import _CHANGES, suggestions
from surefoot.remedies import TREATMENTS


def values(choice: OneOf | Between) -> st.SearchStrategy[object]:
    """Every value of a choice."""
    if isinstance(choice, OneOf):
        return st.sampled_from([value for value, _ in choice.values])
    if choice.step:
        low, high = int(choice.low) // choice.step, int(choice.high) // choice.step
        return st.integers(low, high).map(lambda n: n * choice.step)
    return st.floats(choice.low, choice.high)


def chosen_from(given: dict[str, Any]) -> Choices:
    """The choices of these values."""
    return Choices(**given)


ANY = st.fixed_dictionaries({c.key: values(c) for c in CHOICES}).map(chosen_from)


@given(ANY)
def test_a_query_comes_back_as_the_same_choices(chosen: Choices) -> None:
    query = chosen.to_query()
    assert Choices.parse(query) == chosen
    assert all(isinstance(text, str) for text in query.values())
    assert not [key for key in query if getattr(chosen, key) == BY_KEY[key].default]


def refused(query: dict[str, str]) -> ChoiceError | None:
    """Why a query cannot be chosen, None if it can."""
    try:
        Choices.parse(query)
    except ChoiceError as error:
        return error
    return None


@given(st.dictionaries(st.sampled_from([*BY_KEY, "theme", "token"]), st.text(max_size=60)))
def test_any_text_is_chosen_or_refused(query: dict[str, str]) -> None:
    for _ in range(len(query)):  # each refusal names a value that can be chosen
        refusal = refused(query)
        if refusal is not None:
            assert len(str(refusal)) < 400
            assert str(refusal).isprintable()
            query[refusal.key] = str(refusal.nearest)
    chosen = Choices.parse(query)
    assert Choices.parse(chosen.to_query()) == chosen


def test_defaults_are_said_once() -> None:
    assert {f.name: f.default for f in fields(Choices)} == {c.key: c.default for c in CHOICES}
    assert Choices().to_query() == {}
    assert Choices.parse({}) == Choices()
    assert Choices.parse({"depth": "", "theme": "dark"}) == Choices()


def test_every_choice_explains_itself() -> None:
    for choice in CHOICES:
        assert choice.label
        assert choice.sentence.endswith(".")
        assert choice.check(choice.default) == choice.default
    assert list(Choices().words()) == [c.label for c in CHOICES]


@pytest.mark.parametrize(
    ("key", "text", "nearest"),
    [
        ("depth", "65", 64),
        ("depth", "0", 1),
        ("depth", "-3", 1),
        ("depth", "10.5", 10),
        ("depth", "ten", 10),
        ("depth", "1e99", 64),
        ("depth", "١٠", 10),
        ("width", "60", 64),
        ("width", "4", 8),
        ("width", "9999", 256),
        ("scale", "0", 0.01),
        ("scale", "nan", 1.0),
        ("scale", "inf", 1.0),
        ("scale", "1e400", 100.0),
        ("learning_rate", "1_0", 0.05),
        ("learning_rate", "101", 100.0),
        ("activation", "Relu", "relu"),
        ("activation", "sigmod", "sigmoid"),
        ("activation", "?", "relu"),
        ("optimizer", "adamw", "adam"),
    ],
)
def test_a_refusal_says_what_can_be_chosen(key: str, text: str, nearest: object) -> None:
    with pytest.raises(ChoiceError, match=f"^expected {key} as ") as caught:
        Choices.parse({key: text})
    assert caught.value.nearest == nearest
    assert f"the nearest is {nearest}" in str(caught.value)


def test_a_hostile_text_is_cut_and_cleaned() -> None:
    text = "<script>\x1b[31m\u202e" + "9" * 100_000
    for key in BY_KEY:
        with pytest.raises(ChoiceError) as caught:
            Choices.parse({key: text})
        assert "\x1b" not in str(caught.value)
        assert "\u202e" not in str(caught.value)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "value", [True, None, "10", 10.0, [1], float("nan"), 10**400], ids=lambda v: str(v)[:4]
)
def test_choices_are_checked_when_they_are_made(value: object) -> None:
    with pytest.raises(ChoiceError):
        Choices(depth=value)  # pyrefly: ignore
    with pytest.raises(ChoiceError):
        Choices(activation=value)  # pyrefly: ignore


# -- what findings ask for -----------------------------------------------------------------------


def finding(*remedies: Remedy, severity: Severity = Severity.HARMFUL) -> Finding:
    """A finding that prescribes them."""
    return Finding(
        "SF000", Pathology.VANISHING, Cause.UNKNOWN, severity, "It is so.", remedies=remedies
    )


def remedy(name: str, **parameters: object) -> Remedy:
    """A remedy by its name."""
    return Remedy(name, None, "why", parameters=parameters)


def test_changes_are_those_of_remedies_that_exist() -> None:
    assert not [name for name in _CHANGES if name not in TREATMENTS]
    chosen = Choices(activation="tanh", scale=0.5, skips="residual")
    for name in _CHANGES:
        assert suggestions(chosen, [finding(remedy(name))]), name


def test_the_order_is_that_of_the_findings_and_three_are_enough() -> None:
    findings = [
        finding(remedy("guard.skip"), remedy("residual.rezero"), remedy("residual.skip_init")),
        finding(remedy("learning_rate.scale", factor=0.5)),
        finding(remedy("activation.gelu"), remedy("init.orthogonal")),
    ]
    changed = [c.to_query() for _, c in suggestions(Choices(), findings)]
    assert changed == [{"skips": "rezero"}, {"learning_rate": "0.025"}, {"activation": "gelu"}]


def test_nothing_is_suggested_that_no_finding_asks_for() -> None:
    assert suggestions(Choices(), []) == ()
    assert suggestions(Choices(), [finding()]) == ()
    advice = finding(remedy("residual.rezero"), severity=Severity.ADVICE)
    assert suggestions(Choices(), [advice]) == ()
    unknown = finding(remedy("<script>"), remedy("clipping.norm"), remedy("learning_rate.find"))
    assert suggestions(Choices(), [unknown]) == ()
    same = finding(remedy("init.kaiming_normal"), remedy("activation.relu"))
    assert suggestions(Choices(), [same]) == ()  # it is so already


def test_weights_are_rescaled_to_the_gain_of_their_activation() -> None:
    def scale(**chosen: Any) -> float:
        before = Choices(**chosen)
        return suggestions(before, [finding(remedy("init.rescale"))])[0][1].scale

    assert scale(scale=3.0) == 1.0
    assert scale(initialization="xavier_normal") == 1.41  # sqrt(2) of a ReLU
    assert scale(initialization="gaussian", width=200) == pytest.approx(10, rel=2e-3)
    assert scale(initialization="default", activation="linear") == 1.73  # sqrt(3)


def test_a_rate_stays_within_its_bounds() -> None:
    faster = suggestions(Choices(), [finding(remedy("learning_rate.scale", factor=1e9))])
    assert faster[0][1].learning_rate == 100.0
    slower = suggestions(Choices(), [finding(remedy("learning_rate.scale", factor=1e-9))])
    assert slower[0][1].learning_rate == 1e-6
    assert slower[0][0] == "Learning rate: 1e-06"
