"""A step run again is the step, bit for bit, in every way that a model can be trained.

The oracle is the step's own `.grad`, and a photograph of everything that the replay must not change
(`replay_fixture`).
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence
from torch.utils._pytree import register_pytree_node
from torch.utils.checkpoint import checkpoint

from replay_fixture import Work, assert_exact, replayed
from surefoot.probes.replay import Replay

Made = tuple[nn.Module | list[nn.Module], Work]


def x(*shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (16, 6)))


def network(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), *between, nn.Tanh(), nn.Linear(8, 3))


def usual(model: nn.Module, shape: tuple[int, ...] = (16, 6)) -> Made:
    return model, lambda step: model(x(*shape)).square().mean().backward()


def dropout() -> Made:
    return usual(network(nn.Dropout(0.5), nn.AlphaDropout(0.2)))


def batch_norm() -> Made:
    return usual(network(nn.BatchNorm1d(8), nn.ReLU(inplace=True)))


def batch_norm_momentum_free() -> Made:
    return usual(network(nn.BatchNorm1d(8, momentum=None)))


def instance_norm() -> Made:
    layers = nn.Conv1d(2, 4, 3), nn.InstanceNorm1d(4, affine=True, track_running_stats=True)
    return usual(nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 2)), (8, 2, 6))


def random_relu() -> Made:
    return usual(network(nn.RReLU()))


def attention() -> Made:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    return usual(nn.TransformerEncoder(layer, 2), (4, 5, 8))


# -- autocast --------------------------------------------------------------------------------------


def cast(cache: bool, model: nn.Module | None = None) -> Made:
    model = network(nn.Dropout(0.2)) if model is None else model

    def work(step: int) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=cache):
            loss = model(x()).square().mean()
        loss.backward()

    return model, work


class Twice(nn.Module):
    """Uses a weight twice in one forward, so that a cached cast of it adds up in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.tanh(self.a(torch.tanh(self.a(x)))))


class Narrow(nn.Module):
    """Casts a part of itself, and another part not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = torch.tanh(self.a(x))
            with torch.autocast("cpu", enabled=False):
                x = torch.tanh(self.b(x.float()))
            return self.c(x)


def siamese_cast(together: bool, cache: bool = True) -> Made:
    """Two calls and one backward, in one context or in two."""
    model = Twice()

    def work(step: int) -> None:
        if together:
            with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=cache):
                made = [model(x()), model(x()), model(x())]
        else:
            made = []
            for _ in range(3):
                with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=cache):
                    made.append(model(x()))
        sum(y.float().square().mean() for y in made).backward()  # type: ignore[union-attr]

    return model, work


# -- checkpointing ---------------------------------------------------------------------------------


class Checkpointed(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 8))
            for _ in range(3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + checkpoint(block, x, **self.options)
        return self.head(x)


def checkpointed_whole(reentrant: bool) -> Made:
    model = network(nn.Dropout(0.3))

    def work(step: int) -> None:
        given = x().requires_grad_()
        checkpoint(model, given, use_reentrant=reentrant).square().mean().backward()

    return model, work


def checkpointed_cast(reentrant: bool) -> Made:
    return cast(True, Checkpointed(use_reentrant=reentrant))


# -- what goes in and what comes out ---------------------------------------------------------------

Pair = namedtuple("Pair", "first second")


@dataclass
class Plain:
    """An output as many write it, of which torch's walk knows nothing."""

    loss: torch.Tensor
    logits: torch.Tensor
    words: str = ""


class Known(dict):
    """An output that is registered with torch, as those of transformers are."""


register_pytree_node(
    Known, lambda d: (list(d.values()), list(d)), lambda v, k: Known(zip(k, v, strict=True))
)


class Bag:
    """An argument as the batches of graph libraries are: tensors in attributes of an object."""

    def __init__(self, **stored: torch.Tensor) -> None:
        self.store = {"inner": stored}


class Flexible(nn.Module):
    """Takes and gives whatever it is told to."""

    def __init__(self, take: Callable[..., torch.Tensor], give: Callable[..., Any]) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.take, self.give = take, give

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden = torch.tanh(self.body(self.take(*args, **kwargs)))
        return self.give(hidden, self.head(hidden))


def taking(take: Callable[..., torch.Tensor], give: Callable[[], tuple[Any, Any]]) -> Made:
    model = Flexible(take, lambda hidden, y: y)

    def work(step: int) -> None:
        args, kwargs = give()
        model(*args, **kwargs).square().mean().backward()

    return model, work


def giving(
    give: Callable[[torch.Tensor, torch.Tensor], Any], loss: Callable[[Any], torch.Tensor]
) -> Made:
    model = Flexible(lambda x: x, give)
    return model, lambda step: loss(model(x())).backward()


def keywords() -> Made:
    return taking(lambda a, *, b, c=None: a + b, lambda: ([x()], {"b": x(), "c": "word"}))


def only_keywords() -> Made:
    return taking(lambda *, a, b: a * b, lambda: ([], {"a": x(), "b": x()}))


def nested_input() -> Made:
    return taking(
        lambda t: t["a"][0] * t["b"].second["c"],
        lambda: ([{"a": [x(), None], "b": Pair(1, {"c": x()})}], {}),
    )


def object_input() -> Made:
    return taking(lambda bag: bag.store["inner"]["x"] * 2, lambda: ([Bag(x=x(), y=x())], {}))


def object_input_with_gradient() -> Made:
    return taking(lambda bag: bag.store["inner"]["x"], lambda: ([Bag(x=x().requires_grad_())], {}))


def no_gradient_for_some() -> Made:
    give = lambda h, y: (y, h.detach(), h.argmax(1), h, None)  # noqa: E731
    return giving(give, lambda out: out[0].square().mean())


def dictionary_output() -> Made:
    give = lambda h, y: {"y": y, "hidden": [h]}  # noqa: E731
    return giving(give, lambda o: o["y"].square().mean() + o["hidden"][0].abs().mean())


def dataclass_output() -> Made:
    give = lambda h, y: Plain(y.square().mean(), y, "words")  # noqa: E731
    return giving(give, lambda out: out.loss)


def registered_output() -> Made:
    give = lambda h, y: Known(loss=y.square().mean(), logits=y)  # noqa: E731
    return giving(give, lambda out: out["loss"])


def loss_and_logits_both_used() -> Made:
    give = lambda h, y: Known(loss=y.square().mean(), logits=y, hidden=h)  # noqa: E731
    return giving(give, lambda o: o["loss"] + o["logits"].abs().mean() + o["hidden"].sin().mean())


def the_same_output_twice() -> Made:
    return giving(lambda h, y: (y, y), lambda out: (out[0] * out[1]).mean())


def a_view_among_the_outputs() -> Made:
    return giving(lambda h, y: (y, y[:, 0]), lambda o: o[0].square().mean() + o[1].sin().mean())


def overwritten_output() -> Made:
    model = network()
    return model, lambda step: F.relu(model(x()), inplace=True).sum().backward()


# -- several calls ---------------------------------------------------------------------------------


def micro_batches() -> Made:
    model = network(nn.Dropout(0.3))

    def work(step: int) -> None:
        for _ in range(5):
            (model(x()).square().mean() / 5).backward()

    return model, work


def siamese(count: int) -> Made:
    model = network(nn.BatchNorm1d(8))

    def work(step: int) -> None:
        sum(model(x()).square().mean() * (i + 1) for i in range(count)).backward()  # type: ignore

    return model, work


def loss_after_loss() -> Made:
    """The losses are interleaved with the calls, and added up the other way round."""
    model = network()

    def work(step: int) -> None:
        losses = [model(x()).square().mean() for _ in range(4)]
        sum(reversed(losses)).backward()  # type: ignore[union-attr]

    return model, work


def two_backwards_of_one_call() -> Made:
    model = network(nn.Dropout(0.3))

    def work(step: int) -> None:
        y = model(x())
        y.square().mean().backward(retain_graph=True)
        y.abs().mean().backward()

    return model, work


def crossed_backwards() -> Made:
    model = network()

    def work(step: int) -> None:
        a, b, c = (model(x()) for _ in range(3))
        (a * c).mean().backward(retain_graph=True)
        b.square().mean().backward()
        c.sum().backward()

    return model, work


def one_after_the_other() -> Made:
    """Two models that the script calls in a chain."""
    first, second = network(nn.Dropout(0.2)), nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    return [first, second], lambda step: second(first(x()).sin()).square().mean().backward()


def input_that_requires_grad() -> Made:
    model = network()
    return model, lambda step: model(x().requires_grad_()).square().mean().backward()


# -- layers ----------------------------------------------------------------------------------------


class Packed(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.rnn = kind(6, 8, num_layers=2, dropout=0.2)

    def forward(self, x: Any) -> torch.Tensor:
        return pad_packed_sequence(self.rnn(x)[0])[0]


def packed(kind: Callable[..., nn.Module]) -> Made:
    model = Packed(kind)

    def work(step: int) -> None:
        model(pack_sequence([x(5, 6), x(3, 6), x(2, 6)])).square().mean().backward()

    return model, work


class Recurrent(nn.Module):
    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(x)[0]


def recurrent_weight_norm() -> Made:
    return usual(Recurrent(parametrizations.weight_norm(nn.LSTM(6, 8), "weight_hh_l0")), (5, 4, 6))


class Tokens(nn.Module):
    def __init__(self, tied: bool = False, **options: Any) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(11, 8, **options), nn.Linear(8, 11, bias=False)
        if tied:
            self.out.weight = self.table.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.table(tokens)))


def tokens(**options: Any) -> Made:
    model = Tokens(**options)

    def work(step: int) -> None:
        for _ in range(2):
            model(torch.randint(11, (4, 7))).square().mean().backward()

    return model, work


def normed(norm: Callable[[nn.Module], nn.Module]) -> Made:
    return usual(nn.Sequential(norm(nn.Linear(6, 8)), nn.Tanh(), norm(nn.Linear(8, 3))))


def siamese_spectral() -> Made:
    """The power iteration moves on at each of the calls."""
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 8)), nn.Tanh())

    def work(step: int) -> None:
        (model(x()).square().mean() + model(x()).sin().mean()).backward()

    return model, work


def lazy() -> Made:
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyBatchNorm1d(), nn.LazyLinear(3))
    model(x())
    return usual(model)


def frozen_and_complex() -> Made:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turning = nn.Parameter(torch.randn(6, dtype=torch.complex64))
            self.wide = nn.Parameter(torch.randn(6, dtype=torch.float64))
            self.frozen = nn.Parameter(torch.randn(6, 3), requires_grad=False)
            self.unused = nn.Parameter(torch.randn(3))
            self.scalar = nn.Parameter(torch.tensor(1.5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return ((x * self.turning).abs() * self.scalar + self.wide.float()) @ self.frozen

    return usual(Mixed())


CASES: dict[str, Callable[[], Made]] = {
    make.__name__: make
    for make in (
        dropout,
        batch_norm,
        batch_norm_momentum_free,
        instance_norm,
        random_relu,
        attention,
        keywords,
        only_keywords,
        nested_input,
        object_input,
        object_input_with_gradient,
        no_gradient_for_some,
        dictionary_output,
        dataclass_output,
        registered_output,
        loss_and_logits_both_used,
        the_same_output_twice,
        a_view_among_the_outputs,
        overwritten_output,
        micro_batches,
        loss_after_loss,
        two_backwards_of_one_call,
        crossed_backwards,
        one_after_the_other,
        input_that_requires_grad,
        recurrent_weight_norm,
        siamese_spectral,
        lazy,
        frozen_and_complex,
    )
} | {
    "autocast": lambda: cast(True),
    "autocast without cache": lambda: cast(False),
    "autocast, a weight twice": lambda: cast(True, Twice()),
    "autocast, a weight twice without cache": lambda: cast(False, Twice()),
    "autocast inside the model": lambda: usual(Narrow()),
    "autocast inside autocast": lambda: cast(True, Narrow()),
    "autocast, calls in one context": lambda: siamese_cast(True),
    "autocast, calls in several": lambda: siamese_cast(False),
    "autocast, calls in one without cache": lambda: siamese_cast(True, cache=False),
    "checkpoint reentrant": lambda: usual(Checkpointed(use_reentrant=True)),
    "checkpoint": lambda: usual(Checkpointed(use_reentrant=False)),
    "checkpoint the whole reentrant": lambda: checkpointed_whole(True),
    "checkpoint the whole": lambda: checkpointed_whole(False),
    "checkpoint and autocast reentrant": lambda: checkpointed_cast(True),
    "checkpoint and autocast": lambda: checkpointed_cast(False),
    "siamese": lambda: siamese(2),
    "siamese of five": lambda: siamese(5),
    "packed LSTM": lambda: packed(nn.LSTM),
    "packed GRU": lambda: packed(nn.GRU),
    "packed RNN": lambda: packed(nn.RNN),
    "embedding": lambda: tokens(),
    "sparse embedding": lambda: tokens(sparse=True),
    "renormed embedding": lambda: tokens(max_norm=0.5),
    "tied weights": lambda: tokens(tied=True),
    "weight norm": lambda: normed(parametrizations.weight_norm),
    "spectral norm": lambda: normed(parametrizations.spectral_norm),
    "spectral norm by hooks": lambda: normed(nn.utils.spectral_norm),
    "orthogonal": lambda: normed(parametrizations.orthogonal),
}


@pytest.mark.parametrize("search", [False, True], ids=["", "searched"])
@pytest.mark.parametrize("name", CASES)
def test_a_replay_is_the_step(name: str, search: bool) -> None:
    torch.manual_seed(0)
    model, work = CASES[name]()
    result = replayed(model, work, search=search)
    assert_exact(result, *(model if isinstance(model, list) else [model]))


@pytest.mark.parametrize("name", CASES)
def test_the_very_first_step_too(name: str) -> None:
    torch.manual_seed(0)
    model, work = CASES[name]()
    result = replayed(model, work, steps=1, search=False)
    assert_exact(result, *(model if isinstance(model, list) else [model]))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
def test_weight_norm_by_hooks() -> None:
    model, work = normed(nn.utils.weight_norm)
    assert_exact(replayed(model, work), model)  # type: ignore[arg-type]


# -- GradScaler and clipping -----------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1024.0, 1000.0])
def test_a_scaled_loss(scale: float) -> None:
    """The optimizer sees gradients that were divided by the scale; the replay finds the factor."""
    torch.manual_seed(0)
    model = network(nn.Dropout(0.2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    scaled: dict[int, torch.Tensor] = {}

    def work(step: int) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(x()).square().mean()
        scaler.scale(loss).backward()
        scaled.update({id(p): p.grad.clone() for p in model.parameters()})  # type: ignore
        scaler.unscale_(optimizer)
        scaler.update()

    result = replayed(model, work)
    assert isinstance(result, Replay)
    for p in model.parameters():
        assert torch.equal(result.gradients[id(p)], scaled[id(p)])
        assert torch.equal(scaled[id(p)] * result.factor, p.grad)  # type: ignore[arg-type]
    assert result.exact
    assert result.factor == pytest.approx(1 / scale)


def test_gradients_clipped_by_their_norm() -> None:
    torch.manual_seed(0)
    model, work = dropout()
    assert isinstance(model, nn.Module)
    length: list[float] = []

    def clip() -> None:
        length.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1e-3)))

    result = replayed(model, work, then=clip)
    assert isinstance(result, Replay)
    assert result.exact
    assert result.factor == pytest.approx(1e-3 / length[0], rel=1e-4)


def test_gradients_that_clipping_has_overwritten_are_not_compared() -> None:
    """By a norm that is NaN all of them are multiplied: nothing is left to compare with."""
    model = network()

    def work(step: int) -> None:
        y = model(x())
        given = torch.ones_like(y)
        given[:, 0] = float("nan")  # the last weights have rows that are sound
        y.backward(given)

    def clip() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)

    result = replayed(model, work, steps=1, then=clip)
    assert isinstance(result, Replay)
    assert result.exact is None
    assert result.flow.origin is not None
    assert result.flow.origin["where"] == "loss"


def test_gradients_that_were_scaled_to_nothing() -> None:
    model, work = dropout()
    assert isinstance(model, nn.Module)

    def erase() -> None:
        for p in model.parameters():
            assert p.grad is not None
            p.grad.mul_(0.0)

    result = replayed(model, work, then=erase)
    assert isinstance(result, Replay)
    assert (result.exact, result.factor) == (True, 0.0)


def test_gradients_changed_in_any_other_way_are_others() -> None:
    model, work = dropout()
    assert isinstance(model, nn.Module)
    result = replayed(model, work, then=lambda: nn.utils.clip_grad_value_(model.parameters(), 1e-3))
    assert isinstance(result, Replay)
    assert not result.exact
