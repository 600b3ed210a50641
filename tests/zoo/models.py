"""Tiny transformers from their configuration, trained on real text or digits; no download.

Each member has one healthy recipe; a fault is one change of it. Nothing here knows of surefoot.
"""

from __future__ import annotations

import pydoc_data.topics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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

Batch = dict[str, torch.Tensor]


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
    ids = windows(generator)
    hidden = torch.rand(ids.shape, generator=generator) < 0.2
    return {"input_ids": ids.masked_fill(hidden, MASK), "labels": ids.masked_fill(~hidden, -100)}


def digit_batch(generator: torch.Generator) -> Batch:
    digits = load_digits()
    rows = torch.randint(1500, (BATCH,), generator=generator)
    images = torch.tensor(digits.images, dtype=torch.float32)[rows].unsqueeze(1)
    return {"pixel_values": (images - 4.88) / 6.02, "labels": torch.tensor(digits.target)[rows]}


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


@dataclass(frozen=True, slots=True)
class Member:
    """A model, its data, and the projection that the harmless oddity enlarges."""

    build: Callable[[], nn.Module]
    batch: Callable[[torch.Generator], Batch]
    projection: str
    lr: float = 1e-3
    steps: int = 100


MEMBERS = {
    "gpt2": Member(gpt2, causal_batch, "transformer.h.1.mlp.c_proj", lr=3e-3),
    "llama": Member(llama, causal_batch, "model.layers.1.mlp.down_proj", lr=3e-3),
    "bert": Member(bert, masked_batch, "bert.encoder.layer.1.output.dense", lr=3e-3),
    "vit": Member(vit, digit_batch, "vit.layers.1.mlp.fc2", lr=1e-3),
}
FAULTS = ("std_one", "lr_x100", "nan_batch", "nan_weight")


def _enlarge(model: nn.Module) -> None:
    """All linear weights drawn with standard deviation 1."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, Conv1D)):
            nn.init.normal_(module.weight, std=1.0)


def _loss(model: nn.Module, batch: Batch, poison: str) -> torch.Tensor:
    """Cross-entropy, with a NaN in the batch if `poison` says where."""
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    labels = batch["labels"]
    if poison == "nan_batch":
        if "pixel_values" in inputs:
            inputs["pixel_values"][3, 0, 2, 2] = float("nan")
        else:
            embedded = model.get_input_embeddings()(inputs.pop("input_ids")).detach()  # pyrefly: ignore
            embedded[3, 5] = float("nan")
            inputs["inputs_embeds"] = embedded
    logits = model(**inputs).logits
    if "pixel_values" not in batch and batch["input_ids"] is labels:
        logits, labels = logits[:, :-1], labels[:, 1:]
    each = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
    weight = (labels.flatten() >= 0).float()
    if poison == "nan_weight":
        weight[7] = float("nan")
    return (each * weight).sum() / weight.nan_to_num(1.0).sum()


def train(name: str, fault: str = "", steps: int | None = None, seed: int = 0) -> list[float]:
    """The losses of one training of a member, healthy or with one fault."""
    member = MEMBERS[name]
    torch.manual_seed(seed)
    model = member.build()
    if fault == "std_one":
        _enlarge(model)
    if fault == "projection_x50":
        with torch.no_grad():
            model.get_submodule(member.projection).weight.mul_(50.0)  # pyrefly: ignore
    lr = member.lr * (100 if fault == "lr_x100" else 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    for step in range(steps or member.steps):
        optimizer.zero_grad()
        loss = _loss(model, member.batch(generator), fault if step == NAN_STEP else "")
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def describe(model: nn.Module) -> dict[str, Any]:
    """Names of the linear layers, for a test's message."""
    return {n: type(m).__name__ for n, m in model.named_modules() if isinstance(m, nn.Linear)}
