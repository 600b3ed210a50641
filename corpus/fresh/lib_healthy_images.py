"""Healthy rows: other people's models of sound and images under the usual fine-tuning loop."""

from __future__ import annotations

from functools import partial
from typing import Any

from corpus.fresh import sound
from corpus.recipes import adamw, sgd
from corpus.trainings import fresh_lib_tasks as own
from corpus.trainings import fresh_lib_tune as tune
from corpus.trainings import image_tasks, tasks
from corpus.trainings.fresh_lib_tasks import library

HF: dict[str, Any] = dict(run=tune.finetune, needs="transformers")
SIZES = dict(hidden_size=40, num_attention_heads=4, intermediate_size=80)

# Sound and images.
WAVE = dict(
    conv_dim=(16, 24),
    conv_kernel=(10, 4),
    conv_stride=(5, 4),
    num_feat_extract_layers=2,
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=2,
    classifier_proj_size=32,
    mask_time_prob=0.0,
    num_hidden_layers=2,
    layerdrop=0.0,
    **SIZES,
)
sound(
    "lib_wav2vec2_sweeps",
    **HF,
    task=own.sounds,
    feed=tune.sounded,
    model=library("Wav2Vec2Config", "Wav2Vec2ForSequenceClassification", **WAVE),
    optimizer=adamw(3e-3),
    steps=100,
)
sound(
    "lib_hubert_sweeps_layer_norm",
    **HF,
    task=own.sounds,
    feed=tune.sounded,
    model=library(
        "HubertConfig",
        "HubertForSequenceClassification",
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        **WAVE,
    ),
    optimizer=adamw(2e-3),
    warm=25,
    steps=100,
)
IMAGE: dict[str, Any] = dict(feed=tune.pictured, **HF)
VIT = dict(
    image_size=8,
    patch_size=2,
    num_channels=1,
    num_hidden_layers=3,
    initializer_range=0.1,
    **SIZES,
)
sound(
    "lib_vit_digits_cosine",
    **IMAGE,
    task=partial(tasks.digits, (1, 8, 8)),
    model=library("ViTConfig", "ViTForImageClassification", **VIT),
    optimizer=adamw(3e-3),
    groups=tune.decay_groups(0.05),
    plan="cosine",
    warm=20,
    steps=100,
    batch=24,
)
sound(
    "lib_swin_digits",
    **IMAGE,
    task=partial(tasks.digits, (1, 8, 8)),
    model=library(
        "SwinConfig",
        "SwinForImageClassification",
        image_size=8,
        patch_size=1,
        num_channels=1,
        embed_dim=24,
        depths=[1, 1],
        num_heads=[2, 4],
        window_size=4,
        drop_path_rate=0.0,
        initializer_range=0.15,
    ),
    optimizer=adamw(6e-3),
    steps=90,
    batch=24,
)
sound(
    "lib_beit_quarters",
    **IMAGE,
    task=image_tasks.turned_digits,
    model=library("BeitConfig", "BeitForImageClassification", vocab_size=8, **VIT),
    optimizer=adamw(5e-3),
    steps=120,
    batch=24,
)
sound(
    "lib_convnext_digits_layer_scale",
    **IMAGE,
    task=partial(tasks.digits, (1, 8, 8)),
    model=library(
        "ConvNextV2Config",
        "ConvNextV2ForImageClassification",
        num_channels=1,
        patch_size=1,
        hidden_sizes=[12, 24],
        depths=[2, 2],
        num_stages=2,
    ),
    optimizer=adamw(6e-3),
    steps=90,
)
sound(
    "lib_regnet_digits_sgd",
    **IMAGE,
    task=partial(own.big_digits, 16),
    model=library(
        "RegNetConfig",
        "RegNetForImageClassification",
        embedding_size=8,
        hidden_sizes=[16, 24],
        depths=[1, 2],
        groups_width=8,
        layer_type="x",
    ),
    optimizer=sgd(0.1, momentum=0.9, nesterov=True),
    groups=tune.decay_groups(5e-4),
    clip=None,
    steps=90,
    batch=32,
)
