"""What is done to a healthy model to make it ill."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from corpus.recipes import Surgery


def times(name: str, factor: float) -> Surgery:
    """Multiply one module's matrices."""

    def change(model: nn.Module) -> None:
        with torch.no_grad():
            for p in model.get_submodule(name).parameters():
                if p.dim() > 1:
                    p.mul_(factor)

    return change


def all_times(factor: float) -> Surgery:
    """Multiply every matrix of the model."""

    def change(model: nn.Module) -> None:
        with torch.no_grad():
            for p in model.parameters():
                if p.dim() > 1:
                    p.mul_(factor)

    return change


def shifted(name: str, value: float) -> Surgery:
    """Set one module's bias."""

    def change(model: nn.Module) -> None:
        nn.init.constant_(model.get_submodule(name).bias, value)  # type: ignore[arg-type]

    return change


def put(name: str, make: Callable[[], nn.Module]) -> Surgery:
    """Put a module at a place of the model."""

    def change(model: nn.Module) -> None:
        parent, _, last = name.rpartition(".")
        owner = model.get_submodule(parent)
        if isinstance(owner, (nn.ModuleList, nn.Sequential)):
            owner[int(last)] = make()
        else:
            setattr(owner, last, make())

    return change


def both(*changes: Surgery) -> Surgery:
    """One after the other."""

    def change(model: nn.Module) -> None:
        for one in changes:
            one(model)

    return change


def block(i: int) -> tuple[str, ...]:
    """Any name under which block i of `dense` or `convolutions` may be called the origin."""
    name = f"blocks.{i}"
    return name, f"{name}.linear", f"{name}.conv", f"{name}.act"
