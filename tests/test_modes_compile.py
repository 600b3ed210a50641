"""torch.compile: the same graphs as without a watch, and the same numbers as without a compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.utils import counters

import modes_fixture as modes
from modes_fixture import Mode, Trunk, batch, chain, cross_entropy, exact, usual
from modes_fixture import fresh_compiler as fresh_compiler
from modes_fixture import patched_by_torch as patched_by_torch
from surefoot.watching.budget import Budget
from surefoot.watching.session import Session
from zoo_fixture import mostly_zoo

BACKEND = "aot_eager"
OLD = torch.__version__ < "2.8"  # seen with 2.6.0, gone with 2.8.0
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def lavish(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sample and instrumented step that could be taken is taken."""
    monkeypatch.setattr(Budget, "affordable", lambda self, cost: True)


def compiled(**options: Any) -> Callable[[], Mode]:
    def make() -> Mode:
        model = Trunk()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        return usual(model, optimizer, torch.compile(model, **{"backend": BACKEND, **options}))

    return make


def compiled_first() -> Mode:
    """The optimizer is made of the compiled form's parameters."""
    model = Trunk()
    form = torch.compile(model, backend=BACKEND)
    return usual(model, torch.optim.Adam(form.parameters(), 1e-3), form)


def chain_compiled() -> Mode:
    model = chain()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    return usual(model, optimizer, torch.compile(model, backend=BACKEND, fullgraph=True))


def in_place() -> Mode:
    model = Trunk()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    model.compile(backend=BACKEND)
    return usual(model, optimizer)


def in_place_first() -> Mode:
    model = Trunk()
    model.compile(backend=BACKEND, fullgraph=True)
    return usual(model, torch.optim.Adam(model.parameters(), 1e-3))


def chain_in_place() -> Mode:
    """Of torch's own modules nothing is compiled like that, unless one has a hook."""
    model = chain()
    model.compile(backend=BACKEND)
    return usual(model, torch.optim.Adam(model.parameters(), 1e-3))


def blocks() -> Mode:
    """Each block by itself, so that they share their code."""
    model = Trunk()
    for i, block in enumerate(model.blocks):
        model.blocks[i] = torch.compile(block, backend=BACKEND)  # type: ignore[assignment]
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    mode = usual(model, optimizer)
    mode.exact = plain_names(mode.exact)
    return mode


def plain_names(norms: Callable[[int], Any]) -> Callable[[int], dict[str, float]]:
    """Of a model that holds compiled modules: named as their author knows them."""
    return lambda i: {name.replace("._orig_mod", ""): x for name, x in norms(i).items()}


def blocks_in_place() -> Mode:
    model = Trunk()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for block in model.blocks:
        block.compile(backend=BACKEND)
    return usual(model, optimizer)


def with_hooks() -> Mode:
    """The model has hooks of the script's, which are traced and guarded on."""
    model = Trunk()
    for block in model.blocks:
        block.register_forward_hook(doubled)
    model.register_forward_hook(doubled)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    return usual(model, optimizer, torch.compile(model, backend=BACKEND))


def doubled(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    return 2 * output


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 16), nn.Linear(16, 4)
        self.block = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Dropout(0.2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.utils.checkpoint.checkpoint(self.block, self.stem(x), use_reentrant=False)
        return self.head(x)


def checkpointed() -> Mode:
    """A checkpoint inside of the graph; its dropout draws other numbers than eagerly."""
    model = Checkpointed()
    model.block[2].p = 0.0  # type: ignore[union-attr]
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    return usual(model, optimizer, torch.compile(model, backend=BACKEND))


MODELS: dict[str, Callable[[], Mode]] = {
    "model": compiled(),
    "model, whole graph": compiled(fullgraph=True),
    "model, dynamic shapes": compiled(dynamic=True),
    "model, without autograd's graph": compiled(backend="eager"),
    "model, before the optimizer": compiled_first,
    "chain of torch's own modules": chain_compiled,
    "in place": in_place,
    "in place, before the optimizer": in_place_first,
    "chain in place": chain_in_place,
    "blocks": blocks,
    "blocks in place": blocks_in_place,
    "with hooks of the script's": with_hooks,
    "checkpoint inside": checkpointed,
}


def graphs() -> dict[str, dict[str, int]]:
    """What the compiler has done since `counters` were cleared."""
    wanted = ("stats", "graph_break", "frames", "recompiles", "unimplemented")
    return {name: dict(counters[name]) for name in wanted if counters[name]}


def both(make: Callable[[], Mode], rtol: float = 1e-5) -> tuple[Session, Any, Any]:
    """(the session, what the compiler did alone, what it did under watch); nothing may differ."""
    torch._dynamo.reset()
    counters.clear()
    alone = modes.train(make)
    did = graphs()
    torch._dynamo.reset()
    counters.clear()
    session = Session()
    watched = modes.train(make, session)
    modes.assert_unchanged(alone, watched)
    assert session._error is None
    modes.assert_measured(session, alone, rtol)
    return session, did, graphs()


@pytest.mark.parametrize("name", mostly_zoo(MODELS, "model", "in place, before the optimizer"))
def test_a_compiled_model_is_seen_as_without_the_compiler(
    name: str, request: pytest.FixtureRequest
) -> None:
    session, alone, watched = both(MODELS[name])
    assert watched == alone
    assert ("unique_graphs" in alone.get("stats", {})) is (name != "chain in place")
    training, case = session.trainings[0], session.trainings[0].case()
    if OLD and name == "chain in place":
        why = "torch's own modules, called within a compiled call: our hooks give way"
        request.applymarker(pytest.mark.xfail(reason=why, strict=True))
    assert [(f.step, f.replayed) for f in case.flows] == [(0, False), (4, False), (16, False)]
    called = {call.layer for call in case.flows[0].calls}
    assert called >= {i for i, layer in enumerate(training.layers.layers) if layer.leaf}
    assert not session.report().missing and not session.report().findings


# -- functions that were compiled ------------------------------------------------------------------


def loss_function() -> Mode:
    """The model runs inside of a function that was compiled."""
    model = Trunk()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    @torch.compile(backend=BACKEND, fullgraph=True)
    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x), y)

    def step(i: int) -> float:
        optimizer.zero_grad()
        loss = loss_of(*batch(i))
        loss.backward()
        optimizer.step()
        return loss.item()

    return Mode([model], step, exact(model, lambda i: [cross_entropy(i)]), [optimizer])


def in_one_function(graphed: bool) -> Mode:
    """Forward and backward, and the optimizer as well unless backward is in the graph."""
    model = Trunk()
    optimizer = torch.optim.SGD(model.parameters(), 1e-2, momentum=0.9)

    @torch.compile(backend=BACKEND, fullgraph=graphed)
    def whole(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if not graphed:
            optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        if not graphed:
            optimizer.step()
        return loss.detach()

    def step(i: int) -> float:
        if not graphed:
            return whole(*batch(i)).item()
        optimizer.zero_grad()
        with torch._dynamo.config.patch(trace_autograd_ops=True):
            loss = whole(*batch(i))
        optimizer.step()
        return loss.item()

    return Mode([model], step, exact(model, lambda i: [cross_entropy(i)]), [optimizer])


def compiled_backward() -> Mode:
    """Compiled Autograd, which traces the backward and the hooks in it."""
    model = Trunk()
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    form = torch.compile(model, backend=BACKEND)
    compiler_of = torch.compile(backend=BACKEND)

    def step(i: int) -> float:
        x, y = batch(i)
        optimizer.zero_grad()
        loss = F.cross_entropy(form(x), y)
        with torch._dynamo.compiled_autograd._enable(compiler_of):
            loss.backward()
        optimizer.step()
        return loss.item()

    return Mode([model], step, exact(model, lambda i: [cross_entropy(i)]), [optimizer])


FUNCTIONS: dict[str, Callable[[], Mode]] = {
    "loss": loss_function,
    "whole step": lambda: in_one_function(graphed=False),
    "backward in the graph": lambda: in_one_function(graphed=True),
    "compiled backward": compiled_backward,
}


@pytest.mark.parametrize("name", mostly_zoo(FUNCTIONS, "loss", "whole step"))
def test_a_compiled_function_is_left_alone_and_its_gradients_are_measured(
    name: str, request: pytest.FixtureRequest
) -> None:
    if name == "backward in the graph" and not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        pytest.skip("this release of PyTorch takes no backward into a graph")
    if OLD and name == "compiled backward":
        why = "Compiled Autograd guards on each hook: it compiles watched steps anew"
        request.applymarker(pytest.mark.xfail(reason=why, strict=True))
    session, alone, watched = both(FUNCTIONS[name])
    assert watched["stats"] == alone["stats"]
    assert sum(watched.get("graph_break", {}).values()) <= sum(
        alone.get("graph_break", {}).values()
    )
    report = session.report()
    assert report.verdict == "inconclusive" and not report.findings
    assert "compiled graph" in report.missing[0]


def small_function() -> Mode:
    """One of the model's operations is a function that was compiled; all else is eager."""
    activation = torch.compile(lambda x: torch.tanh(x) * 2, backend=BACKEND, fullgraph=True)

    class Own(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return activation(x)

    model = nn.Sequential(nn.Linear(8, 16), Own(), nn.Linear(16, 16), Own(), nn.Linear(16, 4))
    return usual(model, torch.optim.Adam(model.parameters(), 1e-3))


def test_an_eager_model_is_watched_as_ever_beside_a_compiled_function() -> None:
    session, alone, watched = both(small_function)
    assert watched == alone
    case = session.trainings[0].case()
    assert [(f.step, len(f.calls)) for f in case.flows] == [(0, 6), (4, 6), (16, 6)]
    assert len(case.get("block_scale")) > 3  # sampled as the steps ran
    assert not session.report().missing


@pytest.mark.parametrize("bound", [True, False])
def test_a_compiled_optimizer_is_heard_at_every_step(bound: bool) -> None:
    def make() -> Mode:
        model = chain()
        optimizer = torch.optim.SGD(model.parameters(), 1e-2, momentum=0.9)
        take = torch.compile(optimizer.step if bound else lambda: optimizer.step(), backend=BACKEND)

        def step(i: int) -> float:
            x, y = batch(i)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            take()
            return loss.item()

        return Mode([model], step, exact(model, lambda i: [cross_entropy(i)]), [optimizer])

    session, alone, watched = both(make)
    assert watched["stats"] == alone["stats"]  # torch breaks the graph around a step, and we there
    assert sum(watched.get("graph_break", {}).values()) <= sum(alone["graph_break"].values()) + 2
    updates = session.trainings[0].case().get("update_ratio")
    assert (updates.last[:, 0] > 0).all()
