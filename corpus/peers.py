"""Other tools on the same cases: `python -m corpus.peers [--part report] [--only NAME]`.

Each tool is used as its own documentation says, with its defaults, from a hook that torch calls
between backward and the update, so that the scripts stay as they are. An alarm is whatever the
tool itself calls a warning or worse. None of them names a cause, so only detection and false alarms
are counted. Install what you want to compare into an environment of its own, without dependencies
that replace torch; a tool that is not installed is left out. docs/corpus.md has the commands.
"""

from __future__ import annotations

import gc
import io
import math
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

from corpus import Entry
from corpus.figures import share
from corpus.run import chosen

Step = Callable[[int, float | None], None]


class Peer:
    """One tool on one optimizer: `step` before each update; `alarmed` at the end."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer, self.alarms = model, optimizer, 0

    def step(self, number: int, loss: float | None) -> None:
        """Between backward and the update."""

    def alarmed(self) -> bool:
        """Whether it warned of anything."""
        return self.alarms > 0


class Ormas(Peer):
    """It checks each fiftieth step, of which these runs have few."""

    every = 50

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(model, optimizer)
        self.monitor = import_module("ormas_monitor").Monitor(
            model,
            optimizer,
            check_every=self.every,
            verbose=False,
            sinks=[self._heard],
            out=tempfile.mkdtemp(),
            overwrite=True,
        )

    def _heard(self, kind: str, payload: dict[str, Any]) -> None:
        self.alarms += payload.get("severity") in ("warning", "critical")

    def step(self, number: int, loss: float | None) -> None:
        self.monitor.step(loss)


class OrmasOften(Ormas):
    """The same at every step, as its documentation allows."""

    every = 1


class Traintools(Peer):
    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(model, optimizer)
        self.monitor = import_module("traintools").GradientHealthMonitor()

    def step(self, number: int, loss: float | None) -> None:
        rate = self.optimizer.param_groups[0]["lr"]
        self.alarms += not self.monitor.inspect(self.model, step=number, lr=rate).ok


class Trainpulse(Peer):
    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(model, optimizer)
        self.monitor = import_module("trainpulse").Monitor()

    def step(self, number: int, loss: float | None) -> None:
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = math.sqrt(sum(float(g.detach().float().norm()) ** 2 for g in grads))
        if loss is not None:
            self.monitor.log("loss", number, loss)
        self.monitor.log("grad_norm", number, norm)
        self.monitor.log("learning_rate", number, self.optimizer.param_groups[0]["lr"])

    def alarmed(self) -> bool:
        return any(a.severity.value != "info" for a in self.monitor.report().alerts)


class Gradsnitch(Peer):
    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(model, optimizer)
        self.monitor = import_module("gradsnitch").watch(model, optimizer)

    def step(self, number: int, loss: float | None) -> None:
        if loss is not None:
            self.monitor.log(number, loss)

    def alarmed(self) -> bool:
        return bool(self.monitor.rows) and bool(self.monitor.report())


class Plain:
    """The optimizer as it was before its `step` was replaced."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.inner, self.step = optimizer, optimizer.step

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Stabilityguard(Peer):
    """A guard around the optimizer, which skips the steps that it finds bad; it acts, so it has a
    training of its own. It stands there from the second update on, well within its warm-up."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(model, optimizer)
        self.guard = import_module("stabilityguard").GuardedOptimizer(
            Plain(optimizer), model, verbose=False, log_dir=tempfile.mkdtemp()
        )
        optimizer.step = self.guard.step

    def alarmed(self) -> bool:
        self.guard.close()
        return self.guard.total_spikes > 0


# Those that only read may read the same training.
WATCHERS: tuple[dict[str, type[Peer]], ...] = (
    {
        "ormas_monitor": Ormas,
        "ormas_monitor each step": OrmasOften,
        "traintools": Traintools,
        "trainpulse": Trainpulse,
        "gradsnitch": Gradsnitch,
    },
    {"stabilityguard": Stabilityguard},
)


class Onlooker:
    """Tells the tools of each update that any optimizer of the process makes."""

    def __init__(self, peers: dict[str, type[Peer]]) -> None:
        self.peers = peers
        self.called: dict[int, nn.Module] = {}
        self.of: dict[int, tuple[torch.optim.Optimizer, dict[str, Peer], list[int]]] = {}
        self.loss: float | None = None
        self.broken: set[str] = set()

    def __enter__(self) -> Onlooker:
        self.hooks = [
            register_module_forward_pre_hook(self._forward),
            register_optimizer_step_pre_hook(self._update),
        ]
        self.backward = torch.Tensor.backward
        own = self

        def backward(tensor: torch.Tensor, *more: Any, **options: Any) -> None:
            own.loss = float(tensor.detach()) if tensor.numel() == 1 else None
            own.backward(tensor, *more, **options)

        torch.Tensor.backward = backward
        return self

    def __exit__(self, *_: object) -> None:
        torch.Tensor.backward = self.backward
        for hook in self.hooks:
            hook.remove()

    def _forward(self, module: nn.Module, _: object) -> None:
        self.called[id(module)] = module

    def _model(self, optimizer: torch.optim.Optimizer) -> nn.Module:
        """The called module that holds most of what is optimised, else the largest."""
        held = {id(p) for g in optimizer.param_groups for p in g["params"]}

        def rank(module: nn.Module) -> tuple[int, int]:
            own = [id(p) for p in module.parameters()]
            return len(held.intersection(own)), len(own)

        return max(self.called.values(), key=rank)

    def _update(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if all(p.grad is None for g in optimizer.param_groups for p in g["params"]):
            return  # a closure: its backward is still to come
        known = self.of.get(id(optimizer))
        if known is None:
            model = self._model(optimizer)
            peers = {
                n: p for n, c in self.peers.items() if (p := self._made(n, c, model, optimizer))
            }
            known = self.of[id(optimizer)] = (optimizer, peers, [0])
        for name, peer in known[1].items():
            try:
                peer.step(known[2][0], self.loss)
            except Exception:
                self.broken.add(name)
        known[2][0] += 1

    def _made(
        self, name: str, kind: type[Peer], model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> Peer | None:
        try:
            return kind(model, optimizer)
        except Exception:
            self.broken.add(name)
            return None

    def alarmed(self, name: str) -> bool:
        """Whether the tool warned, at any of the optimizers."""
        try:
            return any(p[name].alarmed() for _, p, _ in self.of.values() if name in p)
        except Exception:
            self.broken.add(name)
            return False


def compare(entries: Sequence[Entry], seeds: Sequence[int]) -> dict[str, dict[str, list[int]]]:
    """For each tool the alarms and runs, of faulty and of healthy ones, and how often it broke."""
    totals: dict[str, dict[str, list[int]]] = {}
    for entry in entries:
        for seed in seeds:
            for group in WATCHERS:
                there = {n: c for n, c in group.items() if find_spec(n.split()[0])}
                if not there:
                    continue
                gc.collect()
                print(f"\r{entry.name:60}", end="", flush=True)
                quiet = io.StringIO()
                with redirect_stdout(quiet), redirect_stderr(quiet), Onlooker(there) as onlooker:
                    try:
                        entry.train(seed)
                    except Exception:  # a tool that breaks the training itself
                        onlooker.broken.update(there)
                    heard = {name: onlooker.alarmed(name) for name in there}
                for name, alarm in heard.items():
                    own = totals.setdefault(name, {"ill": [0, 0], "well": [0, 0], "broken": [0, 0]})
                    kind = own["well" if entry.healthy else "ill"]
                    kind[0] += alarm
                    kind[1] += 1
                    own["broken"][0] += name in onlooker.broken
                    own["broken"][1] += 1
    print()
    return totals


@click.command()
@click.option("--only", multiple=True, help="A case, or the beginning of its name; repeatable.")
@click.option("--part", type=click.Choice(["tune", "report"]), help="One part; both without it.")
@click.option("--seeds", default=1, show_default=True)
@click.option("--first", default=0, show_default=True, help="The first seed.")
@click.option("--every", default=1, show_default=True, help="Each N-th case only.")
def main(only: tuple[str, ...], part: str | None, seeds: int, first: int, every: int) -> None:
    """Run the tools that are installed on the corpus."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    console = Console(width=160)
    table = Table("tool", "detection", "false alarms", "failed of its own")
    totals = compare(chosen(only, part, console)[::every], range(first, first + seeds))
    for name, own in totals.items():
        broken = "{}/{}".format(*own["broken"])
        table.add_row(name, share(*own["ill"]), share(*own["well"]), broken)
    console.print(table)


if __name__ == "__main__":
    main()
