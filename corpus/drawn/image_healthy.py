"""Healthy rows on images: convolutional networks of every kind, transformers, pixels to pixels."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler as schedules

from corpus.drawn import sound
from corpus.recipes import adam, adamw, he, sgd
from corpus.trainings import image_blocks as blocks
from corpus.trainings import image_nets as nets
from corpus.trainings import image_pixels as pixels
from corpus.trainings import image_tasks as at
from corpus.trainings import tasks
from corpus.trainings.image_blocks import tower
from corpus.trainings.image_fixed import ridges, waves_of
from corpus.trainings.losses import focal, noisy_labels
from corpus.trainings.optimizers import Lion, Lookahead, of

DIGITS = partial(tasks.digits, (1, 8, 8))
PLACE = partial(at.place, 8, 2)


def clip(value: float) -> object:
    """Clip the norm of all gradients together."""
    return partial(torch.nn.utils.clip_grad_norm_, max_norm=value)


# Which digit, which part of which photograph, turned how far.
for name, base in {
    "image_classic_tanh_sgd": dict(
        task=DIGITS, model=nets.classic(), optimizer=sgd(0.1, momentum=0.9), steps=80
    ),
    "image_classic_relu_place": dict(
        task=PLACE, model=nets.classic(nn.ReLU), optimizer=adam(3e-3), steps=200
    ),
    "image_resnet_basic": dict(
        task=DIGITS,
        model=tower(blocks.Basic, 3, 16, mean=True),
        optimizer=sgd(0.05, momentum=0.9, weight_decay=5e-4),
        steps=100,
        schedule=lambda o: schedules.MultiStepLR(o, [50, 80], 0.1),
    ),
    "image_resnet_before_place": dict(
        task=PLACE, model=tower(blocks.Before, 4, 16), optimizer=adamw(3e-3), steps=100
    ),
    "image_resnet_sometimes_skipped": dict(
        task=DIGITS,
        model=tower(partial(blocks.Before, keep=0.7), 8, 12),
        optimizer=adam(3e-3),
        steps=120,
    ),
    "image_inverted_squeezed": dict(
        task=DIGITS,
        model=tower(blocks.Inverted, 3, 12, act=nn.ReLU6),
        optimizer=of("RMSprop", lr=3e-3, momentum=0.9),
        steps=120,
    ),
    "image_next_place": dict(
        task=PLACE, model=tower(blocks.Next, 3, 24, act=nn.GELU), optimizer=adamw(4e-3), steps=120
    ),
    "image_branches": dict(
        task=DIGITS, model=tower(blocks.Branches, 3, 16), optimizer=adam(3e-3), steps=100
    ),
    "image_growing_sgd": dict(
        task=DIGITS,
        model=tower(blocks.Growing, 2, 12),
        optimizer=sgd(0.02, momentum=0.9, nesterov=True),
        steps=80,
        batch=24,
    ),
    "image_shuffled_place": dict(
        task=PLACE, model=tower(blocks.Shuffled, 3, 24), optimizer=adam(5e-3), steps=120
    ),
    "image_standardised_batch_of_four": dict(
        task=DIGITS,
        model=tower(blocks.StandardisedBlock, 3, 16),
        optimizer=sgd(0.01, momentum=0.9),
        batch=4,
        steps=300,
    ),
    "image_attentive_turned": dict(
        task=at.turned_digits,
        model=tower(blocks.Attentive, 3, 16),
        optimizer=adamw(5e-3),
        steps=100,
    ),
    "image_zeroed_24": dict(
        task=DIGITS, model=tower(blocks.Zeroed, 24, 8), init=he, optimizer=adam(5e-3), steps=32
    ),
    "image_waves_of_frequency": dict(
        task=DIGITS,
        model=tower(partial(blocks.Waves, side=4), 3, 16, stride=2, pool=False),
        optimizer=adam(3e-3),
        steps=150,
    ),
    "image_quarters_place": dict(
        task=PLACE, model=tower(blocks.Quarters, 2, 16), optimizer=adam(5e-3), steps=100
    ),
    "image_mixed_6": dict(
        task=PLACE,
        model=tower(blocks.Mixed, 6, 24, act=nn.GELU, mean=True),
        optimizer=adamw(1e-2),
        steps=100,
        schedule=lambda o: schedules.OneCycleLR(o, 1e-2, total_steps=101),
    ),
    "image_plain_selu_scratch": dict(
        task=PLACE,
        model=tower(partial(blocks.Plain, act=nn.SELU), 5, 16, act=nn.SELU),
        optimizer=of("NAdam", lr=2e-3),
        steps=120,
    ),
    "image_listed_strides": dict(
        task=at.sums, model=nets.listed((16, 32, 32), drop=0.2), optimizer=adam(4e-3), steps=180
    ),
    "image_wide_256": dict(
        task=DIGITS,
        model=nets.listed((256, 64), nn.Hardswish),
        optimizer=of("Adamax", lr=3e-3),
        steps=60,
    ),
    "image_capsules": dict(
        task=DIGITS, model=nets.capsules(), optimizer=adam(4e-3), steps=120, batch=24
    ),
    "image_finder_buried": dict(
        task=at.buried, model=nets.finder(), optimizer=adam(4e-3), steps=300, batch=64
    ),
    "image_again_12": dict(task=DIGITS, model=nets.again(16), optimizer=adam(3e-3), steps=100),
    "image_strips_place": dict(
        task=partial(at.place, 12, 2), model=nets.strips(), optimizer=adam(2e-3), steps=200
    ),
    "image_early_exits": dict(
        task=DIGITS, model=nets.early(), loss=nets.every_exit, optimizer=adam(5e-3), steps=100
    ),
    "image_ridges_frozen_bank": dict(
        task=at.picture,
        model=ridges(),
        optimizer=of("Adagrad", lr=0.1),
        steps=300,
    ),
    "image_seer_place": dict(task=PLACE, model=nets.seer(), optimizer=adamw(3e-3), steps=120),
    "image_seer_hybrid_8_opened_slowly": dict(
        task=DIGITS,
        model=nets.seer(8, 16, 4, True, 0.1),
        optimizer=adamw(3e-3, betas=(0.9, 0.95)),
        steps=60,
        schedule=lambda o: schedules.LinearLR(o, 0.01, 1.0, 20),
    ),
    "image_overlaid_digits": dict(
        task=at.overlaid,
        model=tower(blocks.Branches, 2, 16, act=nn.Mish),
        optimizer=adam(5e-3),
        steps=120,
    ),
    "image_rare_digits_focal": dict(
        task=at.rare,
        model=tower(blocks.Growing, 2, 12),
        loss=focal,
        optimizer=adamw(3e-3),
        steps=80,
    ),
    "image_jigsaw": dict(
        task=at.jigsaw,
        model=tower(partial(blocks.Plain, norm=nn.BatchNorm2d), 2, 32),
        optimizer=adam(3e-3),
        steps=120,
        batch=48,
    ),
    "image_buried_towers": dict(
        task=partial(at.buried, 12, 0.2),
        model=tower(blocks.Plain, 4, 16),
        optimizer=adam(3e-3),
        steps=200,
    ),
    "image_temple_or_flower_logistic": dict(
        task=at.picture,
        model=lambda t: nn.Sequential(nn.Flatten(), nn.Linear(48, 1)),
        optimizer=sgd(0.3),
        steps=200,
    ),
    "image_fifth_of_labels_drawn": dict(
        task=DIGITS,
        model=tower(blocks.Before, 3, 16),
        poison=noisy_labels(0.2),
        optimizer=sgd(0.1, momentum=0.9),
        clip=clip(1.0),
        steps=120,
    ),
    "image_plain_lookahead_place": dict(
        task=PLACE,
        model=tower(partial(blocks.Plain, act=nn.CELU, norm=nn.InstanceNorm2d), 3, 16),
        optimizer=lambda p: Lookahead(p, lr=5e-3),
        steps=120,
    ),
    "image_residual_28_scaled": dict(
        task=DIGITS,
        model=tower(
            partial(blocks.Plain, norm=partial(nn.GroupNorm, 2), skip=True, share=0.3), 28, 8
        ),
        optimizer=adam(3e-3),
        steps=50,
    ),
    "image_ink_moments": dict(
        task=at.ink_moments,
        model=tower(partial(blocks.Plain, act=nn.Softplus), 2, 12),
        loss=F.smooth_l1_loss,
        optimizer=adam(5e-3),
        steps=250,
    ),
    # Images to images.
    "image_cleaner_batchnorm": dict(
        task=at.clearer, model=pixels.cleaner(), optimizer=adam(3e-3), steps=120
    ),
    "image_cleaner_plain_7_absolute": dict(
        task=partial(at.clearer, noise=0.3, grey=True),
        model=pixels.cleaner(7, 16, None, nn.LeakyReLU),
        loss=F.l1_loss,
        optimizer=adam(1e-3),
        steps=150,
    ),
    "image_enlarger": dict(
        task=at.larger, model=pixels.enlarger(), optimizer=adam(3e-3), steps=250
    ),
    "image_ladder_parts": dict(
        task=at.parts, model=pixels.ladder(), optimizer=adamw(5e-3), steps=80, batch=24
    ),
    "image_ladder_gated_groups_rough": dict(
        task=at.rough,
        model=pixels.ladder(8, partial(nn.GroupNorm, 4), nn.SiLU, True),
        optimizer=lambda p: Lion(p, lr=2e-3),
        steps=100,
        batch=16,
    ),
    "image_coloured_widening": dict(
        task=at.coloured, model=pixels.widening(), optimizer=adam(5e-3), steps=120
    ),
    "image_filled_gated": dict(
        task=at.filled, model=pixels.filler(), optimizer=adam(3e-3), steps=150
    ),
    "image_funnel_pieces": dict(
        task=partial(at.clearer, noise=0.0),
        model=pixels.funnel(),
        optimizer=adam(3e-3),
        steps=200,
    ),
    "image_funnel_tanh_digits_sgd": dict(
        task=partial(tasks.repaint, (1, 8, 8)),
        model=pixels.funnel(12, 20, nn.Tanh),
        optimizer=sgd(0.5, momentum=0.9),
        steps=200,
    ),
    "image_living_cells": dict(
        task=partial(tasks.repaint, (1, 8, 8), 0.6),
        model=pixels.living(),
        optimizer=adam(2e-3),
        clip=clip(1.0),
        steps=90,
    ),
    "image_lower_half": dict(
        task=at.lower_half,
        model=pixels.cleaner(5, 24, take=False),
        optimizer=adamw(5e-3),
        steps=150,
    ),
    "image_canvas_sines": dict(
        task=at.canvas, model=waves_of(), optimizer=adam(1e-3), steps=300, batch=None
    ),
    "image_bfloat16_ladder": dict(
        task=at.rough,
        model=pixels.ladder(8),
        mixed=torch.bfloat16,
        optimizer=adam(1e-2),
        batch=16,
        steps=50,
    ),
    "image_float16_scaler_cleaner": dict(
        task=partial(at.clearer, noise=0.8),
        model=pixels.cleaner(4, 12),
        mixed=torch.float16,
        scaler=partial(torch.amp.GradScaler, "cpu", init_scale=2.0**12),
        optimizer=adam(3e-3),
        steps=60,
    ),
    "image_accumulated_parts": dict(
        task=at.parts,
        model=pixels.ladder(6, act=nn.Mish),
        accumulate=3,
        batch=8,
        optimizer=adam(5e-3),
        steps=60,
    ),
}.items():
    sound(name, **base)
