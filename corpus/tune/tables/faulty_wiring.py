"""Faulty rows of operations that left their domain, and of graphs that are cut."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from corpus.recipes import he, sgd, xavier
from corpus.trainings import others
from corpus.trainings.networks import dense
from corpus.trainings.surgery import put
from corpus.tune.tables import broken


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def lengths(x: torch.Tensor) -> torch.Tensor:
    """Distances to the first of the pair by hand: the first is no distance from itself."""
    return x + (x - x[..., :1]).square().sqrt()


def entropy(x: torch.Tensor) -> torch.Tensor:
    """p log p of shares of which some are zero."""
    p = F.relu(x) / (F.relu(x).sum(-1, keepdim=True) + 1e-6)
    return x + p * p.log()


def angle(x: torch.Tensor) -> torch.Tensor:
    """The angle to oneself: arc cosine at one."""
    c = (x / x.detach().abs().amax(-1, keepdim=True)).clamp(-1, 1)
    return x + torch.acos(c)


def power(x: torch.Tensor) -> torch.Tensor:
    """A broken power of numbers of both signs."""
    return x.pow(1.5)


def chosen(x: torch.Tensor) -> torch.Tensor:
    """`where` hides the NaN of the branch not taken, and its gradient is NaN all the same."""
    return torch.where(x > 0.5, (x - 0.5).sqrt(), x)


def spread(x: torch.Tensor) -> torch.Tensor:
    """Divided by the spread over the batch, which an idle unit does not have."""
    return (x - x.mean(0)) / x.std(0)


def average(x: torch.Tensor) -> torch.Tensor:
    """The mean over what is positive, of which there may be nothing."""
    keep = (x > 1e3).float()
    return x + (x * keep).sum(-1, keepdim=True) / keep.sum(-1, keepdim=True)


def direction(x: torch.Tensor) -> torch.Tensor:
    """The direction of what a ReLU left, which may be nothing at all."""
    rest = F.relu(x - 1e3)
    return x + rest / rest.norm(dim=-1, keepdim=True)


def apply(function: Callable[[torch.Tensor], torch.Tensor]) -> object:
    """Put it into the middle of the model."""
    return put("extra", lambda: Apply(function))


LOST = ("nonfinite", "undefined_operation")
for twin, function, more in (
    ("digits_clipped_by_value", lengths, dict(clip=None, optimizer=sgd(0.05))),
    ("hourglass_relu", entropy, {}),
    ("digits_rmsprop_centred", angle, {}),
    ("vit_patches", power, {}),
    ("cnn_plain_relu", spread, {}),
    ("digits_fused_adamw", chosen, {}),
    ("graph_gcn", average, {}),
    ("code_gpt", direction, {}),
):
    broken(
        f"{twin}/{function.__name__}",
        *LOST,
        "extra",
        dict(surgery=apply(function)),
        **more,
    )


def own_log(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cross-entropy by hand, with shares that may round to zero."""
    return -(40 * out).softmax(1)[torch.arange(len(y)), y].log().mean()


def masked_mean(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The mean loss over the hard samples, of which one day there are none."""
    each = F.cross_entropy(out, y, reduction="none")
    hard = each > 1.2
    return each[hard].mean()


broken("digits_centred_gradients/own_log", *LOST, None, dict(loss=own_log), optimizer=sgd(0.05))
broken("wine_silu_nadam/no_hard_samples", *LOST, None, dict(loss=masked_mean))


def unlabelled(step: int, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One batch in which every label is to be ignored."""
    return x, (torch.full_like(y, -100) if step == 60 else y)


def own_mean(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The mean over the labels that count, by hand."""
    keep = (y >= 0).float()
    each = F.cross_entropy(out, y.clamp_min(0), reduction="none")
    return (each * keep).sum() / keep.sum()


# The operation is at fault, and so is the batch that has nothing to ask.
NONE = ("nonfinite", "undefined_operation|bad_batch", None)
broken("digits_focal/all_ignored", *NONE, dict(poison=unlabelled), loss=own_mean)
broken("sources_encoder/all_ignored", *NONE, dict(poison=unlabelled), loss=own_mean)


class ByHand(nn.Module):
    """Attention scores by hand, masked with minus infinity."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = x @ x.transpose(1, 2) / x.shape[-1] ** 0.5
        hide = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(0)  # oneself as well
        return x + scores.masked_fill(hide, float("-inf")).softmax(-1) @ x


broken("code_gpt/masked_row", *LOST, "extra", dict(surgery=put("extra", ByHand)))
broken("vit_patches/masked_row", *LOST, "extra", dict(surgery=put("extra", ByHand)))

# Graphs that are cut.
CUT = ("stalled|vanishing|dead", "disconnected_parameters")


def detached(x: torch.Tensor) -> torch.Tensor:
    return x.detach()


def numpied(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(x.detach().numpy().copy())


def data(x: torch.Tensor) -> torch.Tensor:
    return x.data


NARROW = dict(model=dense(5, 20), init=he, optimizer=sgd(0.05), steps=100)
CUT_AT = ("blocks.2", "blocks.2.linear", "blocks.2.act", "blocks.2.drop", "blocks.2.norm", "extra")
broken(
    "digits_clipped_by_value/detached",
    *CUT,
    CUT_AT,
    dict(surgery=apply(detached)),
    clip=None,
    **NARROW,
)
broken("digits_steps_down/numpy", *CUT, CUT_AT, dict(surgery=apply(numpied)), **NARROW)
broken(
    "wine_full_batch_large_steps/data",
    *CUT,
    CUT_AT,
    dict(surgery=apply(data)),
    model=dense(5, 6, nn.Tanh),
    init=xavier,
    optimizer=sgd(0.1),
    steps=100,
)
broken(
    "hourglass_relu/detached", *CUT, ("down.1", "extra", "down.0"), dict(surgery=apply(detached))
)
broken(
    "vit_patches/detached",
    *CUT,
    ("layers.0", "layers.0.ffn.2", "layers.0.ffn", "extra"),
    dict(surgery=apply(detached)),
)
broken(
    "graph_gcn/detached",
    *CUT,
    ("convs.0", "convs.0.lin", "act", "extra"),
    dict(surgery=apply(detached)),
    steps=50,
    model=others.graph(lambda g, w: g.GCNConv(w, w), width=8),
)
for twin in ("digits_lookahead", "cnn_plain_relu", "code_gru", "hf_bert", "graph_sage"):
    broken(f"{twin}/other_model", *CUT, None, dict(elsewhere=True))
