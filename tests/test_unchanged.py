"""Watching changes nothing: the same training with and without, bit for bit, whatever happens.

Every case is a training script in small. It is run once alone and once under a session that takes
every sample it can (the time budget is lifted, so that nothing depends on the machine).
"""

from __future__ import annotations

import copy
import gc
import logging
import pickle
import random
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import optimizer as torch_optimizer
from torch.utils.checkpoint import checkpoint

from surefoot.watching import session as session_module
from surefoot.watching import training as training_module
from surefoot.watching.session import Session
from surefoot.watching.training import Training

STEPS = 24
BAD = 20  # the gate knows what is usual from step 16 on
Step = Callable[[int], float]


class Case:
    """A training in progress: its modules, what one step does, and loose tensors."""

    def __init__(self, modules: list[nn.Module], step: Step) -> None:
        self.modules = modules
        self.step = step


def batch(step: int, spoil: str, shape: tuple[int, ...] = (16, 8)) -> torch.Tensor:
    """Random data; the batch of step BAD is spoilt as asked."""
    x = torch.randn(shape)
    if step == BAD and spoil == "spike":
        return x * 1000
    if step == BAD and spoil == "nan":
        x.view(-1)[3] = float("nan")
    return x


def labels(n: int = 16) -> torch.Tensor:
    return torch.randint(4, (n,))


def plain(model: nn.Module, spoil: str, shape: tuple[int, ...] = (16, 8), lr: float = 1e-3) -> Case:
    """The usual loop with Adam and cross-entropy over a model of four classes."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)

    def step(i: int) -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch(i, spoil, shape)), labels(shape[0]))
        loss.backward()
        optimizer.step()
        return loss.item()

    return Case([model], step)


def dropout(spoil: str) -> Case:
    layers = (nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 32), nn.Tanh())
    return plain(nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(32, 4)), spoil)


def convolution(spoil: str) -> Case:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 4),
    )
    return plain(model, spoil, (16, 1, 8, 8))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 12, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def recurrent(spoil: str) -> Case:
    return plain(Recurrent(), spoil, (16, 6, 4))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x).mean(1))


def transformer(spoil: str) -> Case:
    return plain(Attention(), spoil, (16, 5, 8))


class Tied(nn.Module):
    """An embedding and an output that share one matrix, applied to random tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 8)
        self.hidden = nn.Linear(8, 8)
        self.out = nn.Linear(8, 4, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = torch.randint(4, (x.shape[0],))
        return self.out(torch.tanh(self.hidden(self.embedding(tokens) + x)))


def tied(spoil: str) -> Case:
    return plain(Tied(), spoil)


class Moody(nn.Module):
    """Draws from all three generators, counts its calls and keeps its activations."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.head = nn.Linear(8, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.count = 0
        self.kept: list[float] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        self.calls += 1
        for block in self.blocks:
            if random.random() < 0.8 and np.random.rand() < 0.9:
                x = x + torch.tanh(block(x)) * torch.rand(())
        self.kept.append(self.count)
        self.last = x.detach()
        return self.head(x)


def moody(spoil: str) -> Case:
    return plain(Moody(), spoil)


def accumulation(spoil: str) -> Case:
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(i: int) -> float:
        total = 0.0
        for _ in range(4):
            loss = F.cross_entropy(model(batch(i, spoil)), labels()) / 4
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return total

    return Case([model], step)


def two_optimizers(spoil: str) -> Case:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    first = torch.optim.SGD(model[0].parameters(), lr=0.01, momentum=0.9)
    second = torch.optim.Adam(model[2].parameters(), lr=1e-3)

    def step(i: int) -> float:
        model.zero_grad()
        loss = F.cross_entropy(model(batch(i, spoil)), labels())
        loss.backward()
        first.step()
        second.step()
        return loss.item()

    return Case([model], step)


def closure(spoil: str) -> Case:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)

    def step(i: int) -> float:
        x, y = batch(i, spoil), labels()

        def evaluate() -> torch.Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        return optimizer.step(evaluate).item()  # type: ignore[arg-type]

    return Case([model], step)


class Straight(torch.autograd.Function):
    """Rounds forward, passes the gradient straight through."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return (x * 4).round() / 4

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return gradient.clamp(-1, 1)


class Quantised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(Straight.apply(torch.tanh(self.first(x))))


def custom_function(spoil: str) -> Case:
    return plain(Quantised(), spoil)


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.stem = nn.Linear(8, 16)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.2)) for _ in range(3)
        )
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(x)


def checkpoint_reentrant(spoil: str) -> Case:
    return plain(Checkpointed(True), spoil)


def checkpoint_saved(spoil: str) -> Case:
    return plain(Checkpointed(False), spoil)


def autocast(spoil: str) -> Case:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step(i: int) -> float:
        optimizer.zero_grad(set_to_none=False)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(batch(i, spoil)), labels())
        loss.backward()
        optimizer.step()
        return loss.item()

    return Case([model], step)


def scaler(spoil: str) -> Case:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaling = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=7)

    def step(i: int) -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = F.cross_entropy(model(batch(i, spoil)), labels())
        scaling.scale(loss).backward()
        scaling.unscale_(optimizer)
        scaling.step(optimizer)
        scaling.update()
        return loss.item() + scaling.get_scale()

    return Case([model], step)


def functional(spoil: str) -> Case:
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step(i: int) -> float:
        weights = {k: v * 0.99 for k, v in model.named_parameters()}
        optimizer.zero_grad()
        out = torch.func.functional_call(model, weights, (batch(i, spoil),))
        loss = F.cross_entropy(out, labels())
        loss.backward()
        optimizer.step()
        return loss.item()

    return Case([model], step)


def adversarial(spoil: str) -> Case:
    maker = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 8))
    judge = nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(0.2), nn.Dropout(0.1), nn.Linear(16, 1))
    first = torch.optim.Adam(maker.parameters(), lr=1e-3)
    second = torch.optim.Adam(judge.parameters(), lr=1e-3)

    def step(i: int) -> float:
        real, fake = batch(i, spoil), maker(torch.randn(16, 4))
        second.zero_grad()
        wrong = F.softplus(judge(fake.detach())).mean() + F.softplus(-judge(real)).mean()
        wrong.backward()
        second.step()
        first.zero_grad()
        caught = F.softplus(-judge(fake)).mean()
        caught.backward()
        first.step()
        return wrong.item() + caught.item()

    return Case([maker, judge], step)


def by_hand(spoil: str) -> Case:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 4))

    def step(i: int) -> float:
        loss = F.cross_entropy(model(batch(i, spoil)), labels())
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.01 * p.grad  # type: ignore[operator]
                p.grad = None
        return loss.item()

    return Case([model], step)


class Losing(nn.Module):
    """Computes its own loss and gives the logits as well, as the models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 4))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.body(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def own_loss(spoil: str) -> Case:
    model = Losing()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(i: int) -> float:
        loss = model(batch(i, spoil), labels=labels())["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return Case([model], step)


def normalised(spoil: str) -> Case:
    """Reparametrised weights, the old way (hooks) and the new way (parametrisations)."""
    model = nn.Sequential(
        nn.utils.spectral_norm(nn.Linear(8, 16)),
        nn.Tanh(),
        nn.utils.parametrizations.weight_norm(nn.Linear(16, 16)),
        nn.Tanh(),
        nn.utils.parametrizations.spectral_norm(nn.Linear(16, 4)),
    )
    return plain(model, spoil)


CASES: dict[str, Callable[[str], Case]] = {
    make.__name__: make
    for make in (
        dropout,
        convolution,
        recurrent,
        transformer,
        tied,
        moody,
        accumulation,
        two_optimizers,
        closure,
        custom_function,
        checkpoint_reentrant,
        checkpoint_saved,
        autocast,
        scaler,
        functional,
        adversarial,
        by_hand,
        own_loss,
        normalised,
    )
}


class Counted:
    """A user's own hooks on every module and parameter, and how often each was called."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.calls: dict[str, int] = {}
        for k, root in enumerate(modules):
            for name, module in root.named_modules():
                module.register_forward_pre_hook(self._note(f"{k}.{name} before"))
                module.register_forward_hook(self._note(f"{k}.{name} after"))
            for name, p in root.named_parameters():
                p.register_hook(self._note(f"{k}.{name} gradient"))
                p.register_post_accumulate_grad_hook(self._note(f"{k}.{name} accumulated"))

    def _note(self, key: str) -> Callable[..., None]:
        def hook(*args: Any) -> None:
            self.calls[key] = self.calls.get(key, 0) + 1

        return hook


def value(x: Any) -> Any:
    """An attribute in a form that compares with ==, NaN equal to NaN."""
    if isinstance(x, torch.Tensor):
        return (str(x.dtype), tuple(x.shape), x.requires_grad, repr(x.detach().flatten().tolist()))
    if isinstance(x, (int, float, str, bool, type(None))):
        return repr(x)
    if isinstance(x, (list, tuple)):
        return [value(item) for item in x]
    if isinstance(x, (dict, set)):
        return [len(x), [k for k in x if isinstance(k, str)]]
    return type(x).__name__


def state(case: Case) -> dict[str, Any]:
    """All that a training leaves: weights, gradients, buffers, attributes, generators."""
    seen: dict[str, Any] = {}
    for k, root in enumerate(case.modules):
        for name, p in root.named_parameters():
            seen[f"{k}.{name}"] = value(p)
            seen[f"{k}.{name}.grad"] = value(p.grad)
        for name, b in root.named_buffers():
            seen[f"{k}.{name} buffer"] = value(b)
        for name, module in root.named_modules():
            seen[f"{k}.{name} attributes"] = {n: value(v) for n, v in module.__dict__.items()}
    seen["torch"] = torch.get_rng_state().tolist()
    seen["random"] = random.getstate()
    seen["numpy"] = repr(np.random.get_state())
    return seen


def run(make: Callable[[str], Case], spoil: str, watching: Session | None = None) -> dict[str, Any]:
    """One training from its seed to its end, watched or alone; everything there is to see of it."""
    if watching is not None:
        watching.start()
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    try:
        case = make(spoil)
        counted = Counted(case.modules)
        losses = [repr(case.step(i)) for i in range(STEPS)]
    finally:
        if watching is not None:
            watching.stop()
    return state(case) | {"losses": losses, "hooks": counted.calls}


def differences(alone: dict[str, Any], watched: dict[str, Any]) -> list[str]:
    return [key for key in alone.keys() | watched.keys() if alone.get(key) != watched.get(key)]


@pytest.fixture
def lavish(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time budget: every sample and replay that could be taken is taken."""
    monkeypatch.setattr(Training, "_affordable", lambda self, cost: True)


@pytest.fixture
def session() -> Iterator[Session]:
    watching = Session()
    watching.start()
    yield watching
    watching.stop()


@pytest.mark.usefixtures("lavish")
@pytest.mark.parametrize("spoil", ["", "spike", "nan"])
@pytest.mark.parametrize("name", CASES)
def test_watching_changes_nothing(name: str, spoil: str, caplog: pytest.LogCaptureFixture) -> None:
    alone = run(CASES[name], spoil)
    watching = Session()
    watched = run(CASES[name], spoil, watching)
    assert not differences(alone, watched)
    assert not caplog.records
    assert watching.trainings
    if spoil and name == "scaler":
        return  # GradScaler takes no step on an overflow
    assert max(t.step for t in watching.trainings) >= STEPS
    alarms = [a for t in watching.trainings for a in t.case().alarms]
    assert spoil != "nan" or any(a.step == BAD for a in alarms)


# Draws from other generators; a closure; no step on an overflow; no hook before backward; torch
# refuses `autograd.grad` through a reentrant checkpoint.
INEXACT = {"moody", "closure", "scaler", "by_hand", "checkpoint_reentrant"}
# Where normalisation or tanh takes the spike away, nothing needs to be replayed.
EXACT = [
    *((name, "nan") for name in CASES if name not in INEXACT),
    *((name, "spike") for name in ("dropout", "recurrent", "autocast", "own_loss")),
]


@pytest.mark.usefixtures("lavish")
@pytest.mark.parametrize(("name", "spoil"), EXACT)
def test_the_replay_is_exact(name: str, spoil: str) -> None:
    session = Session()
    run(CASES[name], spoil, session)
    alarms = [a for a in session.trainings[0].case().alarms if a.step == BAD]
    assert alarms
    assert alarms[0].detail["replay"] == "exact"
    replayed = [f for f in session.trainings[0].case().flows if f.replayed]
    assert replayed
    assert replayed[0].step == BAD
    assert replayed[0].calls


def test_a_difference_would_be_seen() -> None:
    """The comparison itself can fail."""

    def nosy(spoil: str) -> Case:
        case = dropout(spoil)
        case.modules[0].register_forward_hook(lambda *_: torch.rand(()) and None)
        return case

    assert differences(run(dropout, ""), run(nosy, ""))


# -- what is left behind --------------------------------------------------------------------------


def hooks_of(module: nn.Module) -> dict[str, int]:
    """How many hooks each table of a module holds."""
    tables = (k for k in module.__dict__ if "hook" in k)
    return {k: len(v) for k in tables if hasattr(v := module.__dict__[k], "__len__")}


@pytest.mark.usefixtures("lavish")
@pytest.mark.parametrize("steps", [0, 1, 3, 4, 5, 16, 17])
def test_no_hook_is_left(steps: int) -> None:
    """Stopped before, within or after an instrumented step."""
    backward, init = torch.autograd.backward, torch.optim.Optimizer.__init__
    model = Attention()
    before = {name: hooks_of(m) for name, m in model.named_modules()}
    keys = {name: list(m.__dict__) for name, m in model.named_modules()}
    watching = Session()
    watching.start()
    case = plain(model, "", (16, 5, 8))
    assert torch.autograd.backward is not backward
    for i in range(steps):
        case.step(i)
    watching.stop()
    watching.stop()
    assert {name: hooks_of(m) for name, m in model.named_modules()} == before
    assert {name: list(m.__dict__) for name, m in model.named_modules()} == keys
    assert all(not p._backward_hooks for p in model.parameters())
    assert torch.autograd.backward is backward
    assert torch.optim.Optimizer.__init__ is init
    assert not torch_optimizer._global_optimizer_pre_hooks
    assert not torch_optimizer._global_optimizer_post_hooks


def test_stopped_between_forward_and_step() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    before = {name: hooks_of(m) for name, m in model.named_modules()}
    watching = Session()
    watching.start()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = F.cross_entropy(model(torch.randn(16, 8)), labels())
    watching.stop()
    loss.backward()
    optimizer.step()
    assert {name: hooks_of(m) for name, m in model.named_modules()} == before
    assert watching.report().verdict == "inconclusive"


@pytest.mark.usefixtures("lavish")
@pytest.mark.parametrize("steps", [0, 1, 3, 4, 5, 16])
def test_a_model_is_not_kept_alive(steps: int, session: Session) -> None:
    case = dropout("")
    for i in range(steps):
        case.step(i)
    model = weakref.ref(case.modules[0])
    weight = weakref.ref(case.modules[0][0].weight)
    del case
    gc.collect()
    assert model() is None
    assert weight() is None
    assert session.trainings[0].step == steps


def test_a_batch_is_not_kept_alive(session: Session) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(6):
        x = torch.randn(16, 8)
        seen, out = weakref.ref(x), model(x)
        made = weakref.ref(out)
        F.cross_entropy(out, labels()).backward()
        optimizer.step()
        optimizer.zero_grad()
        del x, out
        gc.collect()
        assert seen() is None
        assert made() is None


# -- discovery ------------------------------------------------------------------------------------


def test_building_modules_is_left_alone(session: Session) -> None:
    """nn.Module is not patched: building thousands costs what it cost before."""
    names = ("__init__", "__call__", "__setattr__", "_call_impl", "register_parameter")
    assert all("surefoot" not in getattr(nn.Module, n).__module__ for n in names)
    assert all(not hasattr(getattr(nn.Module, n), "__wrapped__") for n in names)
    assert session.trainings == []


class Pretender:
    """Claims to be a module and fails at everything else."""

    @property
    def __class__(self) -> type:  # type: ignore[override]
        return nn.Linear

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name} here")


class Touchy:
    """A proxy that fails even when asked for its class."""

    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise ValueError("do not look at me")


def test_odd_objects_do_not_break_discovery(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    odd = [[Pretender()], [Touchy()], [object.__new__(nn.Linear)]]
    case = dropout("")
    for i in range(3):
        case.step(i)
    assert not caplog.records
    assert [t.layers.model for t in session.trainings] == ["Sequential"]
    assert session.trainings[0].step == 3
    del odd


@pytest.mark.usefixtures("lavish")
@pytest.mark.parametrize("steps", [0, 1, 2, 4])
def test_a_copy_carries_no_hook(steps: int, session: Session, tmp_path: Path) -> None:
    """Averages, target networks, checkpoints of the whole module, processes that are sent one."""
    case = dropout("")
    model = case.modules[0]
    mine = model.register_forward_hook(nothing)
    for i in range(steps):
        case.step(i)
    model(torch.randn(16, 8))  # the instrumented forward is under way
    torch.save(model, tmp_path / "model.pt")
    for twin in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(tmp_path / "model.pt", weights_only=False),
        torch.optim.swa_utils.AveragedModel(model).module,
    ):
        held = [h for m in twin.modules() for h in (*m._forward_hooks.values(), *hidden(m))]
        assert held == [nothing]
        assert torch.equal(twin[0].weight, model[0].weight)
    assert any(getattr(h, "of_surefoot", False) for h in model._forward_hooks.values())
    mine.remove()
    case.step(steps)
    assert session.trainings[0].step == steps + 1


def nothing(*args: Any) -> None:
    """A hook of the user's."""


def hidden(module: nn.Module) -> list[Any]:
    """All other hooks of a module, and the marks that belong to hooks."""
    marks = ("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
    return [*module._forward_pre_hooks.values(), *(k for m in marks for k in getattr(module, m))]


def test_a_second_model_is_told_apart(session: Session) -> None:
    case = dropout("")
    twin = copy.deepcopy(case.modules[0])
    for i in range(3):
        case.step(i)
    second = dropout("")
    second.step(0)
    assert [t.step for t in session.trainings] == [3, 1]
    assert twin[0].weight.grad is None


# -- surefoot's own failures ----------------------------------------------------------------------


def broken(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("injected")


def broken_pass(count: int) -> Callable[..., None]:
    return broken


FAULTS: dict[str, str] = {
    "kernel pass": f"{training_module.__name__}.make_pass",
    "gate": "surefoot.diagnosis.gate.Gate.check",
    "gate's scores": "surefoot.diagnosis.gate.Gate.scores",
    "flow, entering": "surefoot.probes.flow.FlowProbe._begin",
    "flow, leaving": "surefoot.probes.flow.FlowProbe._see_leaf",
    "flow, statistics": "surefoot.probes.statistics.tensor_stats",
    "flow, collecting": "surefoot.probes.flow.FlowProbe.collect",
    "entry": "surefoot.probes.replay.Entry",
    "replay": f"{training_module.__name__}.replay",
    "block sample": "surefoot.probes.blocks.float_tensors",
    "anatomy": f"{session_module.__name__}.anatomy",
    "layer table": f"{training_module.__name__}.build_table",
    "discovery": f"{session_module.__name__}.find_roots",
    "update ratios": f"{training_module.__name__}.update_ratios",
    "weights sampled": f"{training_module.__name__}.sample_weights",
    "learning rates": f"{training_module.__name__}.read_learning_rates",
    "series": "surefoot.record.series.Thinned.append",
    "writer put": "surefoot.record.Writer.put",
    "writer event": "surefoot.record.Writer.event",
    "writer flow": "surefoot.record.Writer.flow",
    "writer declare": "surefoot.record.Writer.declare",
    "writer report": "surefoot.record.Writer.report",
    "writer close": "surefoot.record.Writer.close",
}
SILENT = {"replay"}  # refused by the user's own model as often as not: an alarm says so


@pytest.mark.usefixtures("lavish")
@pytest.mark.parametrize("name", FAULTS)
def test_a_failure_of_its_own_is_survived(
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    alone = run(dropout, "nan")
    fault = broken_pass if name == "kernel pass" else broken
    monkeypatch.setattr(FAULTS[name], fault)
    watching = Session(folder=tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        watched = run(dropout, "nan", watching)
    assert not differences(alone, watched)
    said = [r for r in caplog.records if r.levelno >= logging.WARNING]
    if name in SILENT:
        assert not said
    else:
        assert len(said) == 1 or watching.problem is not None
    watching.report()


@pytest.mark.parametrize("rule", ["SF201", "SF301"])
def test_a_rule_that_fails_is_left_out(
    rule: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from dataclasses import replace

    from surefoot.diagnosis.rules import RULES

    alone = run(dropout, "nan")
    monkeypatch.setitem(RULES, rule, replace(RULES[rule], judge=broken))
    watching = Session()
    watched = run(dropout, "nan", watching)
    report = watching.report()
    assert not differences(alone, watched)
    assert all(f.rule != rule for f in report.findings)
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
