"""Tiny transformers from their configuration, trained on real text or digits; no download.

Each member has one healthy recipe; a fault is one change of it. Nothing here knows of surefoot.
"""

from __future__ import annotations

import functools
import pydoc_data.topics
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.pytorch_utils import Conv1D

VOCABULARY = 128  # bytes of ASCII text
MASK = 1  # a byte that no text holds, for the masked language model
LENGTH = 32
BATCH = 16
NAN_STEP = 40
NO_NUMBER = float("nan")
FAULTS = ("std_one", "lr_x100", "nan_batch")

Batch = dict[str, torch.Tensor]


@functools.cache
def text() -> torch.Tensor:
    """Python's own manual as ASCII bytes [N]."""
    joined = "\n".join(pydoc_data.topics.topics.values())
    return torch.frombuffer(bytearray(joined.encode("ascii", "ignore")), dtype=torch.uint8).long()


def windows(generator: torch.Generator) -> torch.Tensor:
    """A batch of random windows of the text, [B, T]."""
    source = text()
    starts = torch.randint(len(source) - LENGTH, (BATCH,), generator=generator)
    return torch.stack([source[s : s + LENGTH] for s in starts])


def causal_batch(generator: torch.Generator) -> Batch:
    ids = windows(generator)
    return {"input_ids": ids, "labels": ids}


def masked_batch(generator: torch.Generator) -> Batch:
    """Two in five bytes are asked for; half of those stay visible (BERT's own recipe: a tenth)."""
    ids = windows(generator)
    draw = torch.rand(ids.shape, generator=generator)
    hidden, asked = draw < 0.2, draw < 0.4
    return {"input_ids": ids.masked_fill(hidden, MASK), "labels": ids.masked_fill(~asked, -100)}


@functools.cache
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Standardised images [N, 1, 8, 8] and labels [N]."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1)
    return (images - images.mean()) / images.std(), torch.tensor(data.target)


def digit_batch(generator: torch.Generator) -> Batch:
    images, labels = digits()
    rows = torch.randint(1500, (BATCH,), generator=generator)
    return {"pixel_values": images[rows], "labels": labels[rows]}


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=LENGTH,
            n_embd=48,
            n_layer=3,
            n_head=4,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def llama() -> nn.Module:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=LENGTH,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def bert() -> nn.Module:
    return BertForMaskedLM(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
        )
    )


def vit() -> nn.Module:
    return ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=2,
            num_channels=1,
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_labels=10,
        )
    )


def enlarge(model: nn.Module) -> None:
    """All linear weights drawn with standard deviation 1."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, Conv1D)):
            nn.init.normal_(module.weight, std=1.0)


def poison(model: nn.Module, batch: Batch) -> Batch:
    """The batch with one NaN: a pixel, or one token's embedding as a broken encoder gives it."""
    batch = dict(batch)
    if "pixel_values" in batch:
        batch["pixel_values"] = batch["pixel_values"].clone()
        batch["pixel_values"][3, 0, 2, 2] = NO_NUMBER
        return batch
    embed = model.get_input_embeddings()  # pyrefly: ignore
    batch["inputs_embeds"] = embed(batch.pop("input_ids")).detach()
    batch["inputs_embeds"][3, 5] = NO_NUMBER
    return batch


def own_loss(model: nn.Module, batch: Batch, bad: bool) -> torch.Tensor:
    """The loss that the model itself computes from the labels."""
    return model(**(poison(model, batch) if bad else batch)).loss


def weighted_loss(model: nn.Module, batch: Batch, bad: bool) -> torch.Tensor:
    """A weighted mean over tokens; a bad batch has a NaN among its weights."""
    labels = batch["labels"][:, 1:].flatten()
    logits = model(input_ids=batch["input_ids"]).logits[:, :-1].flatten(0, 1)
    weights = torch.where(labels == ord(" "), 0.5, 1.0)
    total = weights.sum()
    if bad:
        weights[7] = NO_NUMBER
    return (F.cross_entropy(logits, labels, reduction="none") * weights).sum() / total


@dataclass(frozen=True, slots=True)
class Member:
    """A model, its data, and the projection that the harmless oddity enlarges."""

    build: Callable[[], nn.Module]
    batch: Callable[[torch.Generator], Batch]
    projection: str
    loss: Callable[[nn.Module, Batch, bool], torch.Tensor]
    lr: float = 1e-3
    steps: int = 100


MEMBERS = {
    "gpt2": Member(gpt2, causal_batch, "transformer.h.1.mlp.c_proj", own_loss, lr=3e-3),
    "llama": Member(llama, causal_batch, "model.layers.1.mlp.down_proj", weighted_loss, lr=3e-3),
    "bert": Member(bert, masked_batch, "bert.encoder.layer.1.output.dense", own_loss, lr=2e-3),
    "vit": Member(vit, digit_batch, "vit.layers.1.mlp.fc2", own_loss, lr=2e-3, steps=150),
}


def train(name: str, fault: str = "", steps: int | None = None, seed: int = 0) -> list[float]:
    """The losses of one training of a member, healthy or with one fault."""
    member = MEMBERS[name]
    torch.manual_seed(seed)
    model = member.build()
    if fault == "std_one":
        enlarge(model)
    if fault == "projection_x50":
        with torch.no_grad():
            model.get_submodule(member.projection).weight.mul_(50.0)  # pyrefly: ignore
    lr = member.lr * (100 if fault == "lr_x100" else 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    for step in range(steps or member.steps):
        optimizer.zero_grad()
        bad = fault == "nan_batch" and step == NAN_STEP
        loss = member.loss(model, member.batch(generator), bad)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
