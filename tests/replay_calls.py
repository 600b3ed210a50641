"""Ways to call a model: what goes in, what comes out, how often, and what is differentiated."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import register_pytree_node

from replay_fixture import Made, network, x

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
