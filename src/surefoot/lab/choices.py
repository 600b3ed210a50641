"""What can be chosen in the lab, each choice once: a web form and a command line come from here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from surefoot.views.words import clean, shorten

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LONGEST = 40  # characters of a value: no number and no name needs more


class ChoiceError(ValueError):
    """A value that cannot be chosen; says what can. key: of which choice; nearest: a valid one."""

    def __init__(self, key: str, expected: str, got: object, nearest: object) -> None:
        self.key, self.nearest = key, nearest
        came = shorten(clean(str(got)[: 2 * _LONGEST]), _LONGEST)
        super().__init__(f"expected {key} as {expected}, got {came!r}: the nearest is {nearest}")


@dataclass(frozen=True, slots=True)
class OneOf:
    """A choice among named values. values: (value, label) of each."""

    key: str
    label: str
    sentence: str
    default: str
    values: tuple[tuple[str, str], ...]

    @property
    def expected(self) -> str:
        """What may be chosen, in words."""
        return "one of " + ", ".join(value for value, _ in self.values)

    def parse(self, text: str) -> str:
        """The value of a text; raises ChoiceError."""
        return self.check(text.strip() if len(text) <= _LONGEST else text)

    def check(self, value: Any) -> str:
        """The value itself if it is one of them; raises ChoiceError."""
        known = [name for name, _ in self.values]
        if isinstance(value, str) and value in known:
            return value
        near = difflib.get_close_matches(str(value)[:_LONGEST].lower(), known, 1, 0.4)
        raise ChoiceError(self.key, self.expected, value, near[0] if near else self.default)

    def words(self, value: str) -> str:
        """The label of a value."""
        return dict(self.values)[value]


@dataclass(frozen=True, slots=True)
class Between:
    """A number between two bounds, both included.

    step: what whole numbers are a multiple of, 0 for a number that is chosen on a log scale.
    """

    key: str
    label: str
    sentence: str
    default: float
    low: float
    high: float
    step: int = 0

    @property
    def expected(self) -> str:
        """What may be chosen, in words."""
        kind = "a number"
        if self.step:
            kind = "a whole number" if self.step == 1 else f"a multiple of {self.step}"
        return f"{kind} from {self.low:g} to {self.high:g}"

    def parse(self, text: str) -> float:
        """The value of a text; raises ChoiceError."""
        bare = text.strip() if len(text) <= _LONGEST else text[: _LONGEST + 1]
        if not _NUMBER.fullmatch(bare):
            raise ChoiceError(self.key, self.expected, text, self.default)
        number = float(bare)
        return self.check(int(number) if self.step and number.is_integer() else number)

    def check(self, value: Any) -> float:
        """The value itself if it may be chosen; raises ChoiceError."""
        number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
        if number is None or number != number:
            raise ChoiceError(self.key, self.expected, value, self.default)
        whole = not self.step or (isinstance(number, int) and number % self.step == 0)
        if whole and self.low <= number <= self.high:
            return number if self.step else float(number)
        nearest: float = min(max(number, self.low), self.high)
        nearest = self.step * round(nearest / self.step) if self.step else nearest
        raise ChoiceError(self.key, self.expected, value, nearest)

    def words(self, value: float) -> str:
        """The value as it is shown."""
        return f"{value:g}"


CHOICES: tuple[OneOf | Between, ...] = (
    Between(
        "depth", "Depth", "How many hidden layers the gradient has to pass.", 10, 1, 64, step=1
    ),
    Between(
        "width", "Width", "Units in each hidden layer; wide layers vary less.", 64, 8, 256, step=8
    ),
    OneOf(
        "activation",
        "Activation",
        "What each unit does to its sum; its slope is a factor of the gradient in every layer.",
        "relu",
        (
            ("relu", "ReLU"),
            ("leaky_relu", "Leaky ReLU"),
            ("gelu", "GELU"),
            ("silu", "SiLU"),
            ("selu", "SELU"),
            ("tanh", "tanh"),
            ("sigmoid", "sigmoid"),
            ("linear", "none (linear)"),
        ),
    ),
    OneOf(
        "initialization",
        "Initial weights",
        "How the weights are drawn; their size is the other factor of the gradient in every layer.",
        "kaiming_normal",
        (
            ("kaiming_normal", "He (Kaiming), for ReLU"),
            ("xavier_normal", "Glorot (Xavier), for tanh"),
            ("lecun_normal", "LeCun, for SELU"),
            ("orthogonal", "orthogonal"),
            ("looks_linear", "looks linear (mirrored)"),
            ("default", "PyTorch's default"),
            ("gaussian", "Gaussian of 0.01, whatever the width"),
        ),
    ),
    Between(
        "scale",
        "Scale of the weights",
        "Multiplies the hidden weights; to the power of the depth, it multiplies the gradient.",
        1.0,
        0.01,
        100.0,
    ),
    OneOf(
        "skips",
        "Skip connections",
        "A way past each layer, on which nothing changes the gradient.",
        "none",
        (
            ("none", "none"),
            ("residual", "residual: x + f(x)"),
            ("scaled", "residual, scaled: x + f(x) / sqrt(depth)"),
            ("rezero", "ReZero: x + a f(x), where a begins at 0"),
        ),
    ),
    OneOf(
        "normalization",
        "Normalisation",
        "Brings what each activation sees to mean 0 and variance 1.",
        "none",
        (
            ("none", "none"),
            ("batch_norm", "batch norm: over the samples"),
            ("layer_norm", "layer norm: over the units"),
        ),
    ),
    Between(
        "learning_rate",
        "Learning rate",
        "How far a step goes along the gradient.",
        0.05,
        1e-6,
        100.0,
    ),
    OneOf(
        "optimizer",
        "Optimizer",
        "How a step is made of the gradient; Adam divides by the gradient's own size.",
        "sgd",
        (("sgd", "SGD"), ("momentum", "SGD with momentum 0.9"), ("adam", "Adam")),
    ),
    OneOf(
        "loss",
        "Loss",
        "What is made small; the gradient of cross-entropy is bounded at the output.",
        "cross_entropy",
        (("cross_entropy", "cross-entropy"), ("squared_error", "squared error")),
    ),
    Between("seed", "Seed", "Draws other weights and other data.", 0, 0, 999, step=1),
)
BY_KEY = {choice.key: choice for choice in CHOICES}


@dataclass(frozen=True, slots=True)
class Choices:
    """One setting of the lab; raises ChoiceError for a value that cannot be chosen.

    >>> Choices(activation="tanh").to_query()
    {'activation': 'tanh'}
    """

    depth: int = 10
    width: int = 64
    activation: str = "relu"
    initialization: str = "kaiming_normal"
    scale: float = 1.0
    skips: str = "none"
    normalization: str = "none"
    learning_rate: float = 0.05
    optimizer: str = "sgd"
    loss: str = "cross_entropy"
    seed: int = 0

    def __post_init__(self) -> None:
        for choice in CHOICES:
            object.__setattr__(self, choice.key, choice.check(getattr(self, choice.key)))

    @staticmethod
    def parse(query: Mapping[str, str]) -> Choices:
        """The choices of a URL's query: keys that are none are ignored, an empty text is a default.

        Raises ChoiceError for a value that cannot be chosen.

        >>> Choices.parse({"depth": "20", "theme": "dark"}).depth
        20
        """
        given: dict[str, Any] = {
            key: choice.parse(text)
            for key, choice in BY_KEY.items()
            if isinstance(text := query.get(key), str) and text.strip()
        }
        return Choices(**given)

    def to_query(self) -> dict[str, str]:
        """The inverse of `parse`: the values that are not the default, as text."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            key: value if isinstance(value, str) else repr(value)
            for key, value in values.items()
            if value != BY_KEY[key].default
        }

    def words(self) -> dict[str, str]:
        """Every choice as it is shown: its label and that of its value."""
        return {c.label: c.words(getattr(self, c.key)) for c in CHOICES}
