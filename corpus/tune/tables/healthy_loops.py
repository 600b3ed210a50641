"""Healthy rows whose loop is not the plain one: opponents, twins, codes, games, inner loops."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from corpus.data import Pair
from corpus.recipes import adam, adamw, sgd
from corpus.trainings import loops, more_loops, play, tasks
from corpus.trainings.networks import dense, hourglass, stacked
from corpus.trainings.optimizers import of
from corpus.tune.tables import sound

sound("gan_bce", loops.adversaries)
sound("gan_hinge_spectral", loops.adversaries, kind="hinge", wrap=spectral_norm)
sound("gan_least_squares", loops.adversaries, kind="squares", act=nn.SiLU)
sound(
    "gan_critic_bounded",
    loops.adversaries,
    kind="critic",
    bound=0.05,
    maker=of("RMSprop", lr=1e-3),
    judge=of("RMSprop", lr=1e-3),
)
sound(
    "gan_critic_slope",
    loops.adversaries,
    kind="critic",
    penalty=1.0,
    steps=200,
    maker=adam(5e-4, betas=(0.0, 0.9)),
    judge=adam(2e-3, betas=(0.0, 0.9)),
)
for kind in ("contrast", "target", "stop", "whiten"):
    sound(f"twins_{kind}", loops.twins, kind=kind)
sound("twins_contrast_sgd", loops.twins, optimizer=sgd(0.5, momentum=0.9))
sound("distilled", loops.distilled)
sound("distilled_hot", loops.distilled, heat=10.0)
sound("diffusion", loops.diffusion)
sound("diffusion_wide_adamw", loops.diffusion, width=160, optimizer=adamw(2e-3))
sound("flow_wine", loops.flow)
sound("flow_breast", loops.flow, table="breast_cancer", optimizer=of("Adamax", lr=5e-3))
sound(
    "lbfgs_iris",
    loops.closed,
    task=partial(tasks.table, "iris"),
    model=dense(1, 12, nn.Tanh),
    options=dict(lr=0.5, max_iter=6),
)
sound(
    "lbfgs_diabetes_wolfe",
    loops.closed,
    task=tasks.diabetes,
    model=dense(1, 16, nn.Softplus),
    options=dict(max_iter=8, line_search_fn="strong_wolfe"),
)
sound("sharpness_digits", loops.sharpness, task=tasks.digits, model=dense(2, 48))
sound("inner_loop_pairs", more_loops.inner_loop)
sound("codes_digits", more_loops.codes)
sound("carried_state", more_loops.carried)
sound("mean_teacher", more_loops.mean_teacher)
sound("siamese_same", more_loops.siamese)
sound("siamese_hardest", more_loops.siamese, kind="hardest", optimizer=adam(3e-4))
sound("two_tasks_uncertain", more_loops.tasks_weighted)
sound(
    "recomputed_blocks",
    task=tasks.digits,
    model=stacked(more_loops.Recomputed, 4),
    optimizer=adam(2e-3),
)
sound(
    "flowing_field",
    task=tasks.digits,
    model=stacked(more_loops.Flowing, 1, 48),
    optimizer=adam(3e-3),
)
sound(
    "doubtful_weights",
    task=tasks.digits,
    model=stacked(more_loops.Doubtful, 2, 48),
    optimizer=adam(3e-3),
)
sound(
    "written_weights", task=tasks.digits, model=more_loops.written_weights(), optimizer=adam(3e-3)
)


def easy_first(step: int, x: torch.Tensor, y: torch.Tensor) -> Pair:
    """For sixty steps only the digits below five."""
    keep = (y < 5) | torch.tensor(step >= 60)
    return x[keep], y[keep]


def masked(step: int, x: torch.Tensor, y: torch.Tensor) -> Pair:
    """Half of the pixels are hidden and must be guessed."""
    return x * (torch.rand_like(x) < 0.5), y


sound(
    "easy_digits_first",
    task=tasks.digits,
    model=dense(2, 64),
    poison=easy_first,
    batch=48,
    optimizer=adam(3e-3),
)
sound(
    "masked_pixels",
    task=tasks.repaint,
    model=hourglass((64, 32), nn.SiLU),
    poison=masked,
    optimizer=adamw(3e-3),
    steps=200,
)

# Games, on gymnasium's pole.
for kind in ("reinforce", "critic", "clipped"):
    sound(
        f"pole_{kind}",
        play.policy_gradient,
        needs="gymnasium",
        kind=kind,
        rounds=12 if kind == "clipped" else 25,
    )
sound("pole_double_q", play.double_q, needs="gymnasium")
