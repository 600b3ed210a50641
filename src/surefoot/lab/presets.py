"""Where to begin: settings whose fate is known, each with what is to be seen."""

from __future__ import annotations

from surefoot.lab.choices import Choices

PRESETS: tuple[tuple[str, str, Choices], ...] = (
    (
        "ReLU with He's weights: healthy",
        "Ten layers pass the gradient on at almost its size, and the loss falls in a few steps.",
        Choices(),
    ),
    (
        "Sigmoid, ten layers: vanishing",
        "A sigmoid's slope is at most 1/4, so each layer leaves a quarter of the gradient and the "
        "first one gets next to nothing.",
        Choices(activation="sigmoid", initialization="xavier_normal"),
    ),
    (
        "Weights three times too large: exploding",
        "Each layer triples the gradient; ten of them are enough to throw the weights away.",
        Choices(scale=3.0),
    ),
    (
        "Batch norm without skips, 50 layers: exploding and shattered",
        "Batch norm keeps the signal in range and makes the gradient grow by a fifth in every "
        "layer, until it is noise.",
        Choices(depth=50, normalization="batch_norm"),
    ),
    (
        "The same with skip connections: healthy",
        "With a way past each layer the same fifty layers learn within a few steps.",
        Choices(depth=50, normalization="batch_norm", skips="residual"),
    ),
    (
        "Learning rate far too high",
        "A sound network is thrown away by its first steps, which are as long as its weights.",
        Choices(learning_rate=10.0),
    ),
    (
        "Learning rate far too low: stalled",
        "The gradient is sound, but the steps are too short to get anywhere.",
        Choices(learning_rate=1e-5),
    ),
    (
        "tanh at the edge of chaos, 50 layers: healthy",
        "Orthogonal weights of gain one pass signal and gradient through fifty plain layers.",
        Choices(depth=50, activation="tanh", initialization="orthogonal"),
    ),
    (
        "Deep ReLU without skips: collapsed",
        "He's weights keep the gradient's size through fifty layers, but all inputs end up alike.",
        Choices(depth=50),
    ),
    (
        "The same, looking linear: healthy",
        "Mirrored weights make the fifty ReLU layers exactly linear at the start, and they learn.",
        Choices(depth=50, initialization="looks_linear", learning_rate=0.01),
    ),
    (
        "Adam at a rate of 1: dead ReLU units",
        "Steps longer than the weights push units below zero for good; nothing comes through them.",
        Choices(learning_rate=1.0, optimizer="adam"),
    ),
)
