"""Promise: watching changes nothing, over models x optimizers x modes, bit for bit.

Each combination is trained alone and watched. `COMBINATIONS` names them; one in three runs here,
all of them in the heavier suite. (`test_unchanged`, `test_modes_*` and `test_distributed_*` have
further ones, each with a question of its own.)
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from surefoot.progress import Progress
from surefoot.record import Follower, RecordError, read_run
from surefoot.watching.budget import Budget
from surefoot.watching.session import Session
from unchanged_fixture import Attention, Tied

STEPS, BAD = 8, 6
Step = Callable[[int], float]
Mode = Callable[[nn.Module, torch.optim.Optimizer, tuple[int, ...]], Step]


# -- models ----------------------------------------------------------------------------------------


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 4))


def convolution() -> nn.Module:
    layers = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(36, 4))


class Residual(nn.Module):
    """Skips around normalised blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU()) for _ in range(3)
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class Gated(nn.Module):
    """Recurrent, in a kind that a CPU has in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 12, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.gru(x)[0][:, -1])


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron": (perceptron, (16, 8)),
    "convolution": (convolution, (16, 1, 8, 8)),
    "residual": (Residual, (16, 8)),
    "recurrent": (Gated, (16, 6, 4)),
    "attention": (Attention, (16, 5, 8)),
    "tied": (Tied, (16, 8)),
}


class Words(nn.Module):
    """Logits from tables alone, whose gradients are sparse: all that SparseAdam takes."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 4, sparse=True)
        self.bag = nn.EmbeddingBag(20, 4, sparse=True, mode="sum")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        words = (x.nan_to_num().abs() * 10).long() % 20
        return self.table(words).mean(1) * x.mean(1, keepdim=True) + torch.tanh(self.bag(words))


def matrices() -> nn.Module:
    """No vectors: all that Muon takes."""
    return nn.Sequential(nn.Linear(8, 16, bias=False), nn.ReLU(), nn.Linear(16, 4, bias=False))


# Optimizers that take only some parameters, each with a model of those.
PARTICULAR: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], torch.optim.Optimizer]]] = {
    "SparseAdam": (Words, lambda p: torch.optim.SparseAdam(p, 1e-2)),
    "Muon": (matrices, lambda p: torch.optim.Muon(p, 1e-2)),
}
if not hasattr(torch.optim, "Muon"):  # before PyTorch 2.9
    del PARTICULAR["Muon"]

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, 1e-3),
    "AdamW fused": lambda p: torch.optim.AdamW(p, 1e-3, fused=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 1e-3, momentum=0.5),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 1e-2),
    "Adadelta": lambda p: torch.optim.Adadelta(p),
    "Adamax": lambda p: torch.optim.Adamax(p, 1e-3, foreach=True),
    "NAdam": lambda p: torch.optim.NAdam(p, 1e-3),
    "RAdam": lambda p: torch.optim.RAdam(p, 1e-3),
    "ASGD": lambda p: torch.optim.ASGD(p, 1e-2),
    "Rprop": lambda p: torch.optim.Rprop(p, 1e-3),
}


# -- modes -----------------------------------------------------------------------------------------


def data(step: int, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(shape), torch.randint(4, (shape[0],))


def plain(
    model: nn.Module, optimizer: torch.optim.Optimizer, shape: tuple[int, ...], bad: int = -1
) -> Step:
    def step(i: int) -> float:
        x, y = data(i, shape)
        if i == bad:
            x.view(-1)[3] = torch.nan
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def bad_batch(model: nn.Module, optimizer: torch.optim.Optimizer, shape: tuple[int, ...]) -> Step:
    """With a batch that is lost, so that the step is run again and examined."""
    return plain(model, optimizer, shape, BAD)


def autocast(model: nn.Module, optimizer: torch.optim.Optimizer, shape: tuple[int, ...]) -> Step:
    def step(i: int) -> float:
        x, y = data(i, shape)
        optimizer.zero_grad(set_to_none=False)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def scaled(model: nn.Module, optimizer: torch.optim.Optimizer, shape: tuple[int, ...]) -> Step:
    """GradScaler and float16, with a scale that overflows now and then, and clipping."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**18, growth_interval=3)

    def step(i: int) -> float:
        x, y = data(i, shape)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        return loss.item() + scaler.get_scale()

    return step


def accumulated(model: nn.Module, optimizer: torch.optim.Optimizer, shape: tuple[int, ...]) -> Step:
    def step(i: int) -> float:
        total = 0.0
        for _ in range(3):
            x, y = data(i, shape)
            loss = F.cross_entropy(model(x), y) / 3
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        return total

    return step


def closed(model: nn.Module, optimizer: torch.optim.Optimizer, shape: tuple[int, ...]) -> Step:
    """With a closure, as L-BFGS needs one and any other takes one."""

    def step(i: int) -> float:
        x, y = data(i, shape)

        def evaluate() -> torch.Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        return optimizer.step(evaluate).item()  # type: ignore[arg-type, union-attr]

    return step


def compiled(model: nn.Module, optimizer: torch.optim.Optimizer, shape: tuple[int, ...]) -> Step:
    return plain(torch.compile(model, backend="eager"), optimizer, shape)  # type: ignore[arg-type]


def computed_again(
    model: nn.Module, optimizer: torch.optim.Optimizer, shape: tuple[int, ...]
) -> Step:
    """Activation checkpointing around the whole model."""

    def again(x: torch.Tensor) -> torch.Tensor:
        return checkpoint(model, x, use_reentrant=False)

    return plain(again, optimizer, shape)  # type: ignore[arg-type]


MODES: dict[str, Mode] = {
    mode.__name__.replace("_", " "): mode
    for mode in (
        plain, bad_batch, autocast, scaled, accumulated, closed, compiled, computed_again
    )
}  # fmt: skip
# How it is watched, besides: each changes as little.
WATCHES = ("in memory", "recorded", "guarded in a dry run", "in a title", "followed")


def combinations() -> list[tuple[str, str, str, str]]:
    """Every model in every mode; optimizers and ways to watch go round."""
    pairs = [(model, mode) for mode in MODES for model in MODELS]
    optimizers, watches = list(OPTIMIZERS), list(WATCHES)
    return [
        (model, optimizers[k % len(optimizers)], mode, watches[k % len(watches)])
        for k, (model, mode) in enumerate(pairs)
    ]


COMBINATIONS = combinations()
A_THIRD = [c for k, c in enumerate(COMBINATIONS) if (k + k // len(MODELS)) % 3 == 0]


# -- both trainings --------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def patched_by_torch() -> None:
    """The compiler replaces `Module.__init__` for good when it is used for the first time."""
    torch.compile(nn.Linear(1, 1), backend="eager")(torch.ones(1))


@pytest.fixture(autouse=True)
def no_trace_of_the_compiler() -> Iterator[None]:
    yield
    torch._dynamo.reset()


class Terminal:
    """A terminal that shows a title, as far as progress needs one."""

    titled = True

    def __init__(self) -> None:
        self.shown: list[str] = []

    def in_front(self) -> bool:
        return True

    def write(self, text: str) -> None:
        self.shown.append(text)

    interject = write


@contextlib.contextmanager
def also(watch: str, session: Session) -> Iterator[None]:
    """What goes on beside a watched training."""
    if watch == "in a title":
        terminal: Any = Terminal()
        progress = Progress(terminal, session, "surefoot watch x")
        progress.start()
        progress._look()
        yield
        progress._look()
        progress.stop()
        assert any("step 8" in words for words in terminal.shown)
    elif watch == "followed":
        ended, looks = threading.Event(), [0]

        def follow() -> None:
            assert session.folder is not None
            follower = Follower(session.folder)
            while not ended.is_set():
                with contextlib.suppress(RecordError):
                    looks[0] += follower.poll()

        thread = threading.Thread(target=follow)
        thread.start()
        yield
        ended.set()
        thread.join()
        assert looks[0]
    else:
        yield


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Weights, gradients, buffers, the optimizer's state and the generator."""
    seen: dict[str, Any] = {"random numbers": torch.get_rng_state().tolist()}
    for name, p in model.named_parameters():
        seen[name] = repr(p.detach().flatten().tolist())
        seen[f"{name} gradient"] = None if p.grad is None else repr(_stored(p.grad))
    seen |= {name: repr(b.tolist()) for name, b in model.named_buffers()}
    state = optimizer.state_dict()["state"]
    return seen | {"state": repr(torch.utils._pytree.tree_map(_plain, state))}


def _stored(gradient: torch.Tensor) -> Any:
    """Its numbers; of a sparse one as they lie there, what stands there twice too."""
    if gradient.is_sparse:
        parts = gradient._indices().tolist(), gradient._values().tolist()
        return gradient.is_coalesced(), *parts
    return gradient.flatten().tolist()


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, torch.Tensor) else value


def train(model: str, optimizer: str, mode: str, session: Session | None = None, watch: str = ""
          ) -> dict[str, Any]:  # fmt: skip
    make, shape = MODELS[model] if model in MODELS else (PARTICULAR[model][0], (16, 8))
    if session is not None:
        session.start()
    try:
        with also(watch, session) if session is not None else contextlib.nullcontext():
            torch.manual_seed(0)
            net = make()
            make_optimizer = OPTIMIZERS.get(optimizer) or PARTICULAR[optimizer][1]
            made = make_optimizer(net.parameters())
            step = MODES[mode](net, made, shape)
            losses = [repr(step(i)) for i in range(STEPS)]
    finally:
        if session is not None:
            session.stop()
    return {"losses": losses} | everything(net, made)


def both(model: str, optimizer: str, mode: str, watch: str, folder: Path) -> None:
    alone = train(model, optimizer, mode)
    torch._dynamo.reset()
    recorded = watch in ("recorded", "followed")
    if recorded:
        folder.mkdir()
    guard = "dry run" if watch == "guarded in a dry run" else False
    session = Session(folder=folder if recorded else None, guard=guard)
    watched = train(model, optimizer, mode, session, watch)
    assert [key for key in alone.keys() | watched.keys() if alone[key] != watched[key]] == []
    assert session._error is None and session.problem is None
    (training,) = session.trainings
    assert training.step == STEPS
    if recorded:
        assert len(read_run(folder).series["gradient"]) == STEPS


@pytest.fixture
def lavish(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sample that could be taken is taken."""
    monkeypatch.setattr(Budget, "affordable", lambda self, cost: True)


def test_there_are_many() -> None:
    assert len(COMBINATIONS) == len(set(COMBINATIONS)) >= 40
    for chosen in (COMBINATIONS, A_THIRD):
        assert {model for model, *_ in chosen} == set(MODELS)
        assert {optimizer for _, optimizer, *_ in chosen} == set(OPTIMIZERS)
        assert {mode for _, _, mode, _ in chosen} == set(MODES)
        assert {watch for *_, watch in chosen} == set(WATCHES)
    assert {(mode, watch) for *_, mode, watch in COMBINATIONS} == {
        (mode, watch) for mode in MODES for watch in WATCHES
    }


@pytest.mark.usefixtures("lavish")
@pytest.mark.parametrize(("model", "optimizer", "mode", "watch"), A_THIRD)
def test_watching_changes_nothing(
    model: str, optimizer: str, mode: str, watch: str, tmp_path: Path
) -> None:
    both(model, optimizer, mode, watch, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.usefixtures("lavish")
@pytest.mark.parametrize(("model", "optimizer", "mode", "watch"), COMBINATIONS)
def test_watching_changes_nothing_at_all(
    model: str, optimizer: str, mode: str, watch: str, tmp_path: Path
) -> None:
    both(model, optimizer, mode, watch, tmp_path / "run")


@pytest.mark.usefixtures("lavish")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize("watch", WATCHES[:3])
@pytest.mark.parametrize(
    "mode", ["plain", *(pytest.param(m, marks=pytest.mark.slow) for m in MODES if m != "plain")]
)
@pytest.mark.parametrize("name", PARTICULAR)
def test_optimizers_that_take_only_some_parameters(
    name: str, mode: str, watch: str, tmp_path: Path
) -> None:
    if (name, mode) == ("SparseAdam", "scaled"):
        pytest.skip("torch clips no sparse gradients")
    both(name, name, mode, watch, tmp_path / "run")
