"""What torch.compile does besides the usual: errors, resets, other settings, C++ code at last."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo import callback_handler
from torch._dynamo.utils import counters

import modes_fixture as modes
import surefoot
from modes_fixture import Mode, Trunk, batch, chain, cross_entropy, exact, usual
from modes_fixture import fresh_compiler as fresh_compiler
from modes_fixture import patched_by_torch as patched_by_torch
from surefoot import compiler
from surefoot.watching.budget import Budget
from surefoot.watching.session import Session

BACKEND = "aot_eager"
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def lavish(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sample and instrumented step that could be taken is taken."""
    monkeypatch.setattr(Budget, "affordable", lambda self, cost: True)


def test_to_ask_who_looks_at_frames_takes_no_reference_away() -> None:
    """PyTorch 2.6 and 2.7 by themselves give one too many away: it ends in a crash, after hours."""
    before = sys.getrefcount(None)
    for _ in range(1000):
        compiler.onlooker()
    assert abs(sys.getrefcount(None) - before) < 100


def test_both_ways_of_asking_say_the_same() -> None:
    other = compiler._without_taking(torch._C._dynamo.eval_frame.get_eval_frame_callback)
    looks = torch._C._dynamo.eval_frame.set_eval_frame
    assert other() is None and compiler.onlooker() is None
    before = looks(False)  # run what is compiled, compile nothing
    told = other(), compiler.onlooker()
    looks(before)
    assert None not in told
    assert other() is None and compiler.onlooker() is None


def both(make: Callable[[], Mode], rtol: float = 1e-5) -> tuple[Session, dict[str, int]]:
    """Run it both ways; nothing may differ, nor what the compiler made of it."""
    did = []
    session = Session()
    for watching in (None, session):
        torch._dynamo.reset()
        counters.clear()
        trained = modes.train(make, watching)
        did.append((trained, dict(counters["stats"]), sum(counters["graph_break"].values())))
    (alone, *before), (watched, *after) = did
    modes.assert_unchanged(alone, watched)
    assert before == after
    assert session._error is None
    modes.assert_measured(session, alone, rtol)
    return session, after[0]


def compiled(model: nn.Module) -> Mode:
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    return usual(model, optimizer, torch.compile(model, backend=BACKEND))


# -- what is left behind ---------------------------------------------------------------------------


def hooks(*modules: nn.Module) -> int:
    tables = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called")
    return sum(len(m.__dict__[t]) for root in modules for m in root.modules() for t in tables)


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
@pytest.mark.parametrize("in_place", [False, True])
def test_nothing_is_left_at_a_compiled_model(in_place: bool, steps: int) -> None:
    starts, ends = list(callback_handler.start_callbacks), list(callback_handler.end_callbacks)
    model = Trunk()
    session = Session()
    session.start()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    form: nn.Module = model
    if in_place:
        model.compile(backend=BACKEND)
    else:
        form = torch.compile(model, backend=BACKEND)
    for i in range(steps):
        x, y = batch(i)
        F.cross_entropy(form(x), y).backward()
        optimizer.step()
    session.stop()
    assert hooks(model, form) == 0
    assert callback_handler.start_callbacks == starts and callback_handler.end_callbacks == ends
    call = model._compiled_call_impl
    assert (call is not None) is in_place
    assert call is None or "surefoot" not in (call.__module__ or "")
    assert torch.isfinite(form(batch(0)[0])).all()


def test_a_module_that_cannot_be_compiled_keeps_its_hooks() -> None:
    """The script gives up on the compiler when it raises, and trains on."""

    class Refusing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if torch.compiler.is_compiling():
                raise RuntimeError("not like that")
            return self.linear(x)

    def make() -> Mode:
        model = Refusing()
        form = torch.compile(model, backend=BACKEND, fullgraph=True)
        mode = usual(model, torch.optim.SGD(model.parameters(), 0.1))
        with pytest.raises(RuntimeError):
            form(batch(0)[0])
        return mode

    session = modes.watch(make)
    assert [len(f.calls) for f in session.trainings[0].case().flows] == [2, 2, 2]


def test_the_compilers_own_explanation_knows_no_break() -> None:
    model = Trunk()
    session = Session()
    session.start()
    try:
        torch.optim.SGD(model.parameters(), 0.1)
        x, y = batch(0)
        F.cross_entropy(model(x), y).backward()
        found = torch._dynamo.explain(model)(x)
    finally:
        session.stop()
    assert (found.graph_count, found.graph_break_count) == (1, 0)
    assert not [op for ops in found.ops_per_graph for op in ops if "surefoot" in str(op)]


def test_a_compiler_that_is_reset_is_known_again() -> None:
    def make() -> Mode:
        mode = compiled(Trunk())
        inner = mode.step

        def step(i: int) -> float:
            if i == 9:
                torch._dynamo.reset()
            return inner(i)

        mode.step = step
        return mode

    session, did = both(make)
    assert did["unique_graphs"] == 2
    assert [len(f.calls) for f in session.trainings[0].case().flows] == [15, 15, 15]


@pytest.mark.parametrize("way", [compiled, lambda model: in_blocks(model)])
def test_compiled_code_that_guards_on_hooks(way: Callable[[nn.Module], Mode]) -> None:
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
        session, did = both(lambda: way(Trunk()))
    assert did["unique_graphs"] == 1
    assert [len(f.calls) for f in session.trainings[0].case().flows] == [15, 15, 15]


def in_blocks(model: nn.Module) -> Mode:
    for block in model.blocks:  # type: ignore[union-attr]
        block.compile(backend=BACKEND)
    return usual(model, torch.optim.Adam(model.parameters(), 1e-3))


def test_other_shapes_are_compiled_as_often_as_without_a_watch() -> None:
    def make() -> Mode:
        model = Trunk()
        form = torch.compile(model, backend=BACKEND)
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)

        def loss(i: int) -> Callable[[nn.Module], torch.Tensor]:
            x, y = (t[: 16 - 5 * (i % 3)] for t in batch(i))
            return lambda m: F.cross_entropy(m(x.to(model_dtype(m))), y)

        def step(i: int) -> float:
            optimizer.zero_grad()
            value = loss(i)(form)
            value.backward()
            optimizer.step()
            return value.item()

        return Mode([model], step, exact(model, lambda i: [loss(i)]), [optimizer])

    _, did = both(make)
    assert did["unique_graphs"] == 2  # the second is for any number of samples


def model_dtype(model: nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype


@pytest.mark.parametrize("parts", [4, 20])
def test_accumulation_under_autocast_behind_a_scale(parts: int) -> None:
    """More calls in a step than are kept: its flow is of those that were."""

    def make() -> Mode:
        model = chain()
        form = torch.compile(model, backend=BACKEND)
        optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

        def step(i: int) -> float:
            total = 0.0
            for k in range(parts):
                x, y = batch(i, k)
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = F.cross_entropy(form(x), y) / parts
                scaler.scale(loss).backward()
                total += loss.item()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            return total

        losses = lambda i: [cross_entropy(i, k, 1 / parts) for k in range(parts)]  # noqa: E731
        return Mode([model], step, exact(model, losses), [optimizer])

    session, _ = both(make, rtol=0.15)
    case = session.trainings[0].case()
    assert [len(f.calls) for f in case.flows] == [6 * min(parts, 8)] * 3
    assert np.isfinite(case.get("input").last).all()
    assert not session.report().missing


@pytest.mark.parametrize("stance", ["force_eager", "eager_on_recompile"])
def test_the_stance_of_the_script_stays(stance: str) -> None:
    around: Callable[[], AbstractContextManager[None]] = lambda: (  # noqa: E731
        torch.compiler.set_stance(stance) if stance else nullcontext()
    )

    def make() -> Mode:
        mode = compiled(Trunk())
        inner = mode.step

        def step(i: int) -> float:
            with around() if i > 4 else nullcontext():
                return inner(i)

        mode.step = step
        return mode

    session, did = both(make)
    assert did["unique_graphs"] == 1
    assert [len(f.calls) for f in session.trainings[0].case().flows] == [15, 15, 15]


def test_the_guard_of_a_compiled_optimizer_stands_outside_of_its_graph() -> None:
    graphs, weights = [], []
    for guarded in (False, True):
        torch._dynamo.reset()
        counters.clear()
        torch.manual_seed(0)
        model = chain()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        if guarded:
            surefoot.guard(optimizer, clip=0.1, skip=False)
        take = torch.compile(optimizer.step, backend=BACKEND)
        for i in range(12):
            optimizer.zero_grad()
            cross_entropy(i)(model).backward()
            if not guarded:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            take()
        graphs.append(dict(counters["stats"]))
        weights.append(torch.nn.utils.parameters_to_vector(model.parameters()))
    assert graphs[0] == graphs[1]
    assert torch.allclose(*weights, rtol=0, atol=1e-6)


# -- code that is generated ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("dtype", "mode"),
    [
        (torch.float32, None),
        (torch.bfloat16, None),
        (torch.float32, "reduce-overhead"),
        (torch.float32, "max-autotune-no-cudagraphs"),
    ],
)
def test_inductor(dtype: torch.dtype, mode: str | None) -> None:
    """Fused code rounds otherwise than eager code, whose replay is only close; the run is same."""

    def make() -> Mode:
        model = Trunk().to(dtype)
        form = torch.compile(model, mode=mode)
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)

        def step(i: int) -> float:
            x, y = batch(i)
            optimizer.zero_grad()
            loss = F.cross_entropy(form(x.to(dtype)).float(), y)
            loss.backward()
            optimizer.step()
            return loss.item()

        return Mode([model], step, exact(model, lambda i: [cross_entropy(i)]), [optimizer])

    session, did = both(make, rtol=1e-5 if dtype == torch.float32 else 0.15)
    assert did["unique_graphs"] == 1
    assert [len(f.calls) for f in session.trainings[0].case().flows] == [15, 15, 15]
    assert not session.report().findings and not session.report().missing
