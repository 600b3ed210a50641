"""Equal copies of a training, made from the same seed, that share nothing they could change."""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from surefoot.attach.discovery import leaf_parameters
from surefoot.build import Build, BuildError, BuildFailed

_RATE = 1e-4  # of the AdamW that trains a build without an optimizer


class Copy:
    """One of several equal copies of a training.

    loss: that of the step under way [], between its forward pass and its end; taken: steps so far.
    """

    def __init__(self, build: Build, title: str) -> None:
        self.model, self._build, self._title = build.model, build, title
        self.optimizer = build.optimizer or torch.optim.AdamW(
            [p for p in build.model.parameters() if p.requires_grad], lr=_RATE
        )
        self.parameters = [
            p for g in self.optimizer.param_groups for p in g["params"] if p.requires_grad
        ]
        self.device = next(p.device for p in build.model.parameters() if p.requires_grad)
        self.loss: torch.Tensor | None = None
        self.taken = 0
        given = inspect.signature(self.optimizer.step).parameters.get("closure")
        self._closure = given is not None and given.default is inspect.Parameter.empty

    def step(self) -> None:
        """Take one training step on the build's batch.

        Raises BuildError where the build's parts do not fit together, BuildFailed where its own
        code raises.
        """
        self.taken += 1
        try:
            if self._closure:
                self.optimizer.step(self._backward)  # pyrefly: ignore[no-matching-overload]
            else:
                self._backward()
                self.optimizer.step()
        except BuildError:
            raise
        except Exception as error:
            raise BuildFailed(f"a training step of {self._title}") from error
        finally:
            self.loss = None

    def _backward(self) -> torch.Tensor:
        self.optimizer.zero_grad()
        self.loss = loss = self._build.loss()
        loss.backward()
        return loss

    def settle(self) -> None:
        """Wait until the device has done all that it was given."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)


def make_copies(make: Callable[[], Build], title: str, count: int = 2) -> list[Copy]:
    """Call `make` for each copy, with the same seed.

    Where it hands out the same tensors again, copies of its first build train instead. Raises what
    `make` raises, and BuildError where such a build cannot be copied.
    """
    builds: list[Build] = []
    for _ in range(count):
        with seeded():
            builds.append(make())
    owned = [set(map(id, _tensors(b))) for b in builds]
    if any(owned[0] & other for other in owned[1:]):
        builds = [_copied(builds[0]) for _ in range(count)]
    return [Copy(build, title) for build in builds]


@contextmanager
def seeded() -> Iterator[None]:
    """Draw from all generators as after a seed of zero; leave them as they were."""
    python, of_numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            random.seed(0)
            np.random.seed(0)
            torch.manual_seed(0)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(of_numpy)


def _tensors(build: Build) -> list[torch.Tensor]:
    modules = [m for m in (build.model, build.loss_fn) if isinstance(m, nn.Module)]
    return [t for m in modules for t in (*m.parameters(), *m.buffers())]


def _copied(build: Build) -> Build:
    """A deep copy, of a build whose model was made once and for all outside of its function."""
    hint = "make the model, and all that holds it, inside of the function"
    try:
        twin = Build(*copy.deepcopy((build.model, build.batch, build.loss_fn, build.optimizer)))
    except Exception as error:
        raise BuildError(
            "expected a new model at each call, got the same one again, of which no copy can be "
            f"made ({type(error).__name__}: {error}): {hint}"
        ) from error
    originals = set(map(id, _tensors(build)))
    with seeded():
        reached = leaf_parameters(twin.loss())
    if any(id(p) in originals for p in reached):
        raise BuildError(
            "expected a loss that depends on the model that build returns, got one that reaches "
            f"the model by another way (a function that holds it): {hint}"
        )
    return twin
