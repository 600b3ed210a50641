"""Keras on torch: its layers are found in the model and named as its summary names them."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from frameworks_fixture import MARKS, callback, fit, load, rows
from surefoot.findings import Cause, Pathology, Verdict
from surefoot.layers import Kind, build_table
from surefoot.watching.session import Session
from surefoot.watching.watch import Watch

pytestmark = MARKS


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    """Imported before the tests look for traces."""
    load("keras")


@pytest.fixture
def keras() -> Iterator[Any]:
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()
    library = pytest.importorskip("keras")
    if library.backend.backend() != "torch":
        pytest.skip("Keras was imported with another backend")
    library.utils.clear_session()
    library.utils.set_random_seed(0)
    yield library
    torch.set_rng_state(state[0])
    random.setstate(state[1])
    np.random.set_state(state[2])


def sequential(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 4)),
            layers.Conv1D(4, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Activation("relu", name="ac.t"),
            layers.LSTM(4, name="lstm"),
            layers.Dropout(0.1, name="drop"),
            layers.Dense(2, name="head"),
        ]
    )


def nested(keras: Any) -> Any:
    """A Functional model with attention, a model inside, and a layer that is used twice."""
    layers = keras.layers
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="in_it")], name="inner")
    given = keras.Input((8, 4), name="given")
    seen = layers.MultiHeadAttention(2, 2, name="attention")(given, given)
    seen = layers.GlobalAveragePooling1D(name="mean")(seen)
    shared = layers.Dense(4, name="shared")
    return keras.Model(given, layers.Dense(1, name="head")(inner(shared(shared(seen)))))


def by_class(keras: Any) -> Any:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.first = keras.layers.Dense(4, name="one")
            self.second = keras.layers.Dense(1, name="two")

        def call(self, x: Any) -> Any:
            return self.second(self.first(x))

    model = Own()
    model(np.zeros((2, 3), "float32"))
    return model


EXPECTED = {
    sequential: {
        "conv": Kind.CONVOLUTION,
        "norm": Kind.NORMALIZATION,
        "ac_t": Kind.ACTIVATION,
        "lstm": Kind.RECURRENT,
        "drop": Kind.DROPOUT,
        "head": Kind.LINEAR,
    },
    nested: {
        "attention": Kind.ATTENTION,
        "mean": Kind.POOLING,
        "shared": Kind.LINEAR,
        "inner": Kind.CONTAINER,
        "inner.in_it": Kind.LINEAR,
        "head": Kind.LINEAR,
    },
    by_class: {"one": Kind.LINEAR, "two": Kind.LINEAR},
}


@pytest.mark.parametrize("make", EXPECTED, ids=lambda make: make.__name__)
def test_the_layers_are_those_of_the_summary(keras: Any, make: Any) -> None:
    model = make(keras)
    table, modules, tensors = build_table([model])
    assert modules[0] is model
    assert {layer.name: layer.kind for layer in table.layers[1:]} == EXPECTED[make]
    assert all(layer.leaf for layer in table.layers if layer.kind is not Kind.CONTAINER)
    # Each variable once, below its layer.
    wanted = {id(v.value) for v in model.trainable_variables}
    assert {id(t) for t in tensors} == wanted
    assert len(tensors) == len(wanted)
    assert not any(p.aliases for p in table.parameters)
    for parameter in table.parameters:
        owner = table.layers[parameter.layer]
        assert owner.kind is not Kind.CONTAINER
        assert parameter.name.rpartition(".")[0] == owner.name


def test_other_modules_are_named_as_ever() -> None:
    plain = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ParameterDict({"a": torch.ones(1)}))
    table, _, _ = build_table([plain])
    assert [layer.name for layer in table.layers] == [n for n, _ in plain.named_modules()]
    assert [p.name for p in table.parameters] == [n for n, _ in plain.named_parameters()]


def test_a_sigmoid_is_blamed_where_it_is_a_layer_of_its_own(keras: Any) -> None:
    layers = keras.layers
    deep = [x for _ in range(12) for x in (layers.Dense(32), layers.Activation("sigmoid"))]
    model = keras.Sequential([keras.Input((64,)), *deep, layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss)
    watching = callback("keras", {})
    x, y = (t.numpy() for t in rows())
    model.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=[watching])
    root = watching.report.root
    assert root.pathology is Pathology.VANISHING
    assert root.cause is Cause.SATURATING_ACTIVATION
    assert root.layer in {layer.name for layer in deep}


def test_a_session_finds_the_same_layers_by_itself(keras: Any) -> None:
    """As under `surefoot run`, without a callback."""
    model = sequential(keras)
    model.compile("sgd", "mse")
    session = Session()
    session.start()
    try:
        model.fit(np.zeros((8, 8, 4), "float32"), np.ones((8, 2), "float32"), verbose=0)
    finally:
        session.stop()
    names = {layer.name for layer in session.trainings[0].layers.layers}
    assert {"", *EXPECTED[sequential]} == names


def test_it_can_watch_a_second_fit(keras: Any, tmp_path: Path) -> None:
    model = by_class(keras)
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    watching = callback("keras", {"runs": tmp_path})
    for epochs in (2, 1):
        x = np.random.randn(32, 3).astype("float32")
        history = model.fit(
            x, x.sum(1), batch_size=8, epochs=epochs, verbose=0, callbacks=[watching]
        )
        assert len(history.history["surefoot/gradient_norm"]) == epochs
        assert watching.report.steps == 4 * epochs
        assert watching.report.verdict is not Verdict.UNSTABLE
    assert len(list(tmp_path.iterdir())) == 2


def test_another_backend_is_refused_in_words(keras: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert os.environ.get("KERAS_BACKEND") == "torch"
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="expected Keras with the backend torch, got jax: set"):
        callback("keras", {})


def test_all_columns_are_of_one_length(
    keras: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As for `pandas.DataFrame(history.history)`: a number may come late, or be lost half-way."""
    model = by_class(keras)
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    x = np.random.randn(32, 3).astype("float32")
    metrics, calls = Watch.metrics, []

    def changing(self: Watch, layers: bool = False) -> dict[str, float]:
        calls.append(1)
        if len(calls) > 3:
            raise RuntimeError("injected")
        late = {"surefoot/findings": 0.0} if len(calls) > 1 else {}
        return {**metrics(self, layers), **late}

    monkeypatch.setattr(Watch, "metrics", changing)
    watching = callback("keras", {})
    columns = model.fit(
        x, x.sum(1), batch_size=8, epochs=5, verbose=0, callbacks=[watching]
    ).history
    assert {len(column) for column in columns.values()} == {5}
    nan = pytest.approx(np.nan, nan_ok=True)
    assert columns["surefoot/findings"] == [nan, 0.0, 0.0, nan, nan]
    assert np.isfinite(columns["surefoot/loss"]).tolist() == [True] * 3 + [False] * 2
    assert watching.problem == "RuntimeError: injected"
    assert caplog.text.count("watches no more") == 1


def test_a_history_that_is_told_first_has_none_of_them(keras: Any) -> None:
    model = by_class(keras)
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    x = np.random.randn(32, 3).astype("float32")
    told = keras.callbacks.History()
    model.fit(x, x.sum(1), epochs=2, verbose=0, callbacks=[told, callback("keras", {})])
    assert {name: len(column) for name, column in told.history.items()} == {"loss": 2}


def test_the_learning_rate_is_that_of_keras(tmp_path: Path) -> None:
    assert fit("keras", tmp_path, {}).of("surefoot/learning_rate") == pytest.approx([2e-3] * 3)
