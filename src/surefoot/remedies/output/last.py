"""What the remedies of the output share: the calls of activations before it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from surefoot.remedies.interception import Interception, renamed
from surefoot.remedies.sites import Answer, Site, argument, graph_behind, record, within
from surefoot.remedies.subject import Subject

PROBABILITIES = frozenset({"softmax", "log_softmax", "softmin", "sigmoid", "logsigmoid"})


def at_output(
    subject: Subject, functions: Collection[str], target: str | None
) -> tuple[list[Site], list[Site]]:
    """(all places where one of the functions is called, those behind the last affine layer)."""
    sites = record(subject, functions).sites
    return sites, [s for s in within(subject, sites, target) if s.output and not s.gate]


def outermost(sites: list[Site]) -> list[Site]:
    """Those of the places from which none of the others is computed further."""
    kept = []
    for site in sites:
        _, behind = graph_behind([s.node for s in sites if s is not site])
        if site.node not in set(behind):
            kept.append(site)
    return kept


def answered(
    subject: Subject,
    functions: Collection[str],
    sites: list[Site],
    chosen: list[Site],
    answer: Answer,
) -> None:
    """Have something else computed at the chosen places."""
    Interception(functions, answer).install(subject, sites, dict.fromkeys(chosen, True))
    if answer is untouched:
        renamed(subject, chosen, nn.Identity)


def untouched(planned: Any, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The argument itself, in the dtype that was asked for."""
    x = argument(args, kwargs)
    dtype = next((a for a in args if isinstance(a, torch.dtype)), kwargs.get("dtype"))
    return x if dtype is None else x.to(dtype)
